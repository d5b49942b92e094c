"""Keeps the checkpoint with the best held-out score."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.dist import is_main_process
from mmengine.runner import Runner

from vipo.engine.checkpoint import PolicyCheckpointHook, load_tensors_only, set_aside
from vipo.engine.files import manifest_of, write_atomically
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
        """Set a file aside that is ahead of a run that goes back; a run that goes on elsewhere takes it along."""
        if not is_main_process():
            return
        path = Path(runner.work_dir) / BEST
        if path.exists() and (number := _iteration_of(path)) > runner.iter:
            renamed = set_aside(path).name
            runner.logger.info(f'going back to iteration {runner.iter}; {BEST} of iteration {number} is now {renamed}')
        if self.best_at and not path.exists():
            theirs = Path(runner.resumed_from).parent / BEST
            if theirs.exists() and _iteration_of(theirs) == self.best_at:
                write_atomically(path, lambda temporary: shutil.copyfile(theirs, temporary))
                if manifest_of(theirs).exists():
                    shutil.copyfile(manifest_of(theirs), manifest_of(path))
            else:
                runner.logger.warning(
                    f'the best of this run so far, of iteration {self.best_at}, is not in {theirs} any more: there is '
                    f'no {BEST} until an evaluation is better'
                )

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: dict | None = None
    ) -> None:
        done = runner.iter + 1
        if self.best_at != done:
            return
        saver = next(hook for hook in runner.hooks if isinstance(hook, PolicyCheckpointHook))
        saver.write(runner, Path(runner.work_dir) / BEST, done)
        runner.logger.info(f'{BEST}: {self.metric} {self.best:.4f} after {done} iterations')


def _iteration_of(path: Path) -> int:
    return load_tensors_only(str(path), map_location='cpu', mmap=True)['meta']['iter']
