"""Ends a run that gets no better."""

from __future__ import annotations

from mmengine.runner import Runner

from vipo.engine.hooks.held_out import HeldOutHook
from vipo.registry import HOOKS, ConfigError


@HOOKS.register_module()
class EarlyStopHook(HeldOutHook):
    """Ends training after ``patience`` evaluations in a row without a better held-out score.

    The run ends as at its last iteration: with a checkpoint and the report. Resumed, it ends at once; a larger patience
    lets it go on.

    Args:
        patience: evaluations.
        min_delta: see :class:`HeldOutHook`.
        metric: see :class:`HeldOutHook`.

    Raises:
        ConfigError: ``patience`` is below 1.
    """

    def __init__(self, patience: int = 5, min_delta: float = 0.0, metric: str = 'eval/reward') -> None:
        super().__init__(metric, min_delta)
        if patience < 1:
            raise ConfigError(f'EarlyStopHook.patience must be at least 1, got {patience}')
        self.patience = patience

    def before_train(self, runner: Runner) -> None:
        if runner.iter:
            self._decide(runner)

    def after_evaluation(self, runner: Runner, done: int, scores: dict[str, float]) -> None:
        super().after_evaluation(runner, done, scores)
        if done:
            self._decide(runner)

    def _decide(self, runner: Runner) -> None:
        if self.since < self.patience or runner.train_loop.stop_training:
            return
        runner.train_loop.stop_training = True
        best = 'never a number' if self.best is None else f'{self.best:.4f} after {self.best_at} iterations'
        runner.logger.info(f'early stop: the last {self.since} evaluations gave no better {self.metric}; best: {best}')
