"""Evaluates before training, every so many iterations, and at the end."""

from __future__ import annotations

import json
import shutil
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.runner import Runner

from vipo.engine.evaluation import Evaluation, evaluate, setup_of
from vipo.registry import HOOKS, ConfigError


@HOOKS.register_module()
class EvaluationHook(Hook):
    """Samples the held-out prompts with the averaged weights and scores them with every reward.

    Results go to ``evaluations/iter_*.npz`` in the work dir, means to the log as ``eval/<reward>``. Hooks may implement
    ``after_evaluation``, called on every rank with ``done=`` and the means as ``scores=``, reward name -> float.

    Args:
        interval: iterations between evaluations; 0 for before and after alone.
    """

    priority = 'BELOW_NORMAL'

    def __init__(self, interval: int = 0) -> None:
        self.interval = interval

    def before_train(self, runner: Runner) -> None:
        """The starting point. A resumed run keeps that of the run it continues, also into another work dir.

        Raises:
            ConfigError: that starting point was measured with another generator, reward or evaluation.
        """
        if runner.components.evaluation is None:
            return
        if is_main_process():
            if runner.iter > 0:
                self._inherit(runner)
            for path in evaluations(runner):
                if runner.iter == 0 or number_of(path) > runner.iter:
                    path.unlink()
        if runner.iter == 0:
            self.run(runner, 0)

    def _inherit(self, runner: Runner) -> None:
        mine = path_of(runner, 0)
        if not mine.exists():
            theirs = Path(runner.resumed_from).parent / 'evaluations' / mine.name
            if not theirs.exists():
                runner.logger.warning(f'{theirs} does not exist: this run ends without a comparison to its start')
                return
            mine.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(theirs, mine)
        before, now = (json.loads(text) for text in (Evaluation.load(mine).setup, setup_of(runner.cfg)))
        changed = [key for key in now if now[key] != before.get(key)]
        if changed:
            raise ConfigError(
                f'{mine} was measured with another {" and ".join(changed)} than this config has, so before and after '
                'could not be compared. Resume with the config of the run, or remove that file to go on without a '
                'comparison'
            )

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
        averaged = c.ema.applied() if c.ema is not None else nullcontext()
        with averaged, c.sampling(), c.working('autoencoder', 'text_encoders', 'reward', 'eval_rewards'):
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
        result.setup = setup_of(runner.cfg)
        means = result.means()
        if is_main_process():
            result.save(path_of(runner, done))
            runner.visualizer.add_scalars({f'eval/{k}': v for k, v in means.items()}, step=done)
            # The parts of a score are in the visualizer, in summary.json and in the file.
            total = len(result.prompts)
            invalid = {name: int(np.isnan(result.scores[name]).sum()) for name in c.judges}
            runner.visualizer.add_scalars({f'eval/{k}_invalid': n / total for k, n in invalid.items()}, step=done)
            text = '  '.join(
                f'{name} {means[name]:.4f}' + (f' ({invalid[name]} without a score)' if invalid[name] else '')
                for name in c.judges
            )
            runner.logger.info(f'evaluation after {done} iterations on {total} held-out prompts: {text}')
        runner.call_hook('after_evaluation', done=done, scores=means)
        return result


def path_of(runner: Runner, done: int) -> Path:
    """Where the evaluation after ``done`` iterations lies."""
    return Path(runner.work_dir) / 'evaluations' / f'iter_{done}.npz'


def number_of(path: Path) -> int:
    """The iteration after which an evaluation was made."""
    return int(path.stem.removeprefix('iter_'))


def evaluations(runner: Runner) -> list[Path]:
    """The files of all evaluations of the run so far, oldest first."""
    return sorted((Path(runner.work_dir) / 'evaluations').glob('iter_*.npz'), key=number_of)
