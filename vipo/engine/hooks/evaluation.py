"""Evaluates before training, every so many iterations, and at the end."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.runner import Runner

from vipo.engine.evaluation import Evaluation, evaluate
from vipo.registry import HOOKS


@HOOKS.register_module()
class EvaluationHook(Hook):
    """Samples the held-out prompts with the averaged weights and scores them with every reward.

    Results go to ``evaluations/iter_*.npz`` in the work dir, means to the log as ``eval/<reward>``.

    Args:
        interval: iterations between evaluations; 0 for before and after alone.
    """

    priority = 'BELOW_NORMAL'

    def __init__(self, interval: int = 0) -> None:
        self.interval = interval

    def before_train(self, runner: Runner) -> None:
        """The starting point; a resumed run keeps the one it has."""
        if runner.components.evaluation is not None and not path_of(runner, 0).exists():
            self.run(runner, 0)

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: dict | None = None
    ) -> None:
        done = runner.iter + 1
        due = done == runner.max_iters or (self.interval and done % self.interval == 0)
        if runner.components.evaluation is not None and due:
            self.run(runner, done)

    def run(self, runner: Runner, done: int) -> Evaluation:
        """Evaluate the policy as it is after ``done`` iterations."""
        c = runner.components
        with c.ema.applied() if c.ema is not None else nullcontext():
            result = evaluate(
                c.generator,
                c.policy,
                c.evaluation.records,
                c.judges,
                num_steps=c.evaluation.num_steps,
                batch_size=c.evaluation.batch_size,
                seed=c.evaluation.seed,
                clock=runner.clock,
            )
        runner.clock.clear()
        if is_main_process():
            result.save(path_of(runner, done))
            means = result.means()
            runner.visualizer.add_scalars({f'eval/{k}': v for k, v in means.items()}, step=done)
            text = '  '.join(f'{k} {v:.4f}' for k, v in means.items())
            runner.logger.info(f'evaluation after {done} iterations on {len(result.prompts)} held-out prompts: {text}')
        return result


def path_of(runner: Runner, done: int) -> Path:
    """Where the evaluation after ``done`` iterations lies."""
    return Path(runner.work_dir) / 'evaluations' / f'iter_{done}.npz'
