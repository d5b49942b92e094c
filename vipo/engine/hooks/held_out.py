"""What the hooks that follow a held-out score have in common."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.runner import Runner

from vipo.engine.scoring import RunStopped
from vipo.registry import ConfigError


class HeldOutHook(Hook):
    """Remembers the best held-out score; a resumed run goes on with what it remembered.

    Args:
        metric: ``'eval/<reward>'`` or ``'eval/<reward>/<part>'``, as it is logged; larger is better.
        min_delta: a score counts as better if it is larger than the best one by more than this.

    Raises:
        ConfigError: ``min_delta`` is negative.
    """

    def __init__(self, metric: str = 'eval/reward', min_delta: float = 0.0) -> None:
        if not 0 <= min_delta < math.inf:
            raise ConfigError(f'{type(self).__name__}.min_delta must be at least 0, got {min_delta}')
        self.metric = metric
        self.min_delta = min_delta
        self.best: float | None = None
        #: After how many iterations the best score was measured.
        self.best_at = 0
        #: Evaluations since then.
        self.since = 0

    @staticmethod
    def check(cfg: Config, options: Mapping[str, Any], where: str) -> None:
        """Refuse a config in which nothing would ever be compared.

        Args:
            options: of the hook.
            where: its config key.

        Raises:
            ConfigError: there is no evaluation between the first and the last, or no such reward.
        """
        interval = ((cfg.get('default_hooks') or {}).get('evaluation') or {}).get('interval', 0)
        if not cfg.get('evaluation') or not interval:
            raise ConfigError(
                f'config key {where!r} follows evaluations during the run: it needs the section evaluation=dict(...), '
                f'and default_hooks.evaluation.interval larger than 0 (it is {interval})'
            )
        metric, known = options.get('metric', 'eval/reward'), ['reward', *(cfg.get('eval_rewards') or {})]
        if not isinstance(metric, str) or [*metric.split('/'), ''][:2] not in [['eval', name] for name in known]:
            names = ', '.join(f'eval/{name}' for name in known)
            raise ConfigError(f'config key {where!r}: metric={metric!r} is none of {names}, nor a part of them')

    def after_evaluation(self, runner: Runner, done: int, scores: dict[str, float]) -> None:
        """Compare; a score that is not a number is not better.

        Raises:
            RunStopped: no score has the name of the metric.
        """
        name = self.metric.removeprefix('eval/')
        if name not in scores:
            raise RunStopped(f'{type(self).__name__}.metric={self.metric!r} is no score; there are {sorted(scores)}')
        score = scores[name]
        if math.isfinite(score) and (self.best is None or score > self.best + self.min_delta):
            self.best, self.best_at, self.since = score, done, 0
        else:
            self.since += 1

    def _key(self) -> str:
        return f'{type(self).__name__}:{self.metric}'

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        checkpoint.setdefault('held_out', {})[self._key()] = {
            'metric': self.metric,
            'best': self.best,
            'best_at': self.best_at,
            'since': self.since,
        }

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Go on from what was saved, in a run that is resumed and not in a new one that begins with its weights."""
        state = checkpoint.get('held_out', {}).get(self._key())
        if runner.resumed_from is not None and state is not None:
            self.best, self.best_at, self.since = state['best'], state['best_at'], state['since']
