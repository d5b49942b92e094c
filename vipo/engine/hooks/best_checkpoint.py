"""Keeps the checkpoint with the best held-out score."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.dist import is_main_process
from mmengine.runner import Runner

from vipo.engine.checkpoint import PolicyCheckpointHook, load_tensors_only
from vipo.engine.hooks.held_out import HeldOutHook
from vipo.registry import HOOKS, ConfigError

#: Its file in the work dir.
BEST = 'best.pth'


@HOOKS.register_module()
class BestCheckpointHook(HeldOutHook):
    """Writes ``best.pth`` whenever an evaluation is better than all before it, the one before training included.

    The file is a checkpoint like any other, and retention does not touch it; score and iteration are in its entry
    ``held_out``.

    Args:
        metric: see :class:`HeldOutHook`.
        min_delta: see :class:`HeldOutHook`.
    """

    priority = 'VERY_LOW'

    @staticmethod
    def check(cfg: Config, options: Mapping[str, Any], where: str) -> None:
        HeldOutHook.check(cfg, options, where)
        if not (cfg.get('default_hooks') or {}).get('checkpoint'):
            raise ConfigError(f'config key {where!r} writes through default_hooks.checkpoint, and the config has none')

    def before_train(self, runner: Runner) -> None:
        """Set a file aside that is ahead of a run that goes back."""
        path = Path(runner.work_dir) / BEST
        if is_main_process() and path.exists():
            number = load_tensors_only(str(path), map_location='cpu', mmap=True)['meta']['iter']
            if number > runner.iter:
                path.replace(path.with_name('best.set_aside.pth'))
                runner.logger.info(f'going back to iteration {runner.iter}; set aside: {BEST} of iteration {number}')

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: dict | None = None
    ) -> None:
        done = runner.iter + 1
        if self.best_at != done:
            return
        saver = next(hook for hook in runner.hooks if isinstance(hook, PolicyCheckpointHook))
        saver.write(runner, Path(runner.work_dir) / BEST, done)
        runner.logger.info(f'{BEST}: {self.metric} {self.best:.4f} after {done} iterations')
