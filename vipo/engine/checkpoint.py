"""Checkpoints that survive: written whole or not at all, loaded without executing anything."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.dist import all_gather_object, is_main_process
from mmengine.hooks import Hook
from mmengine.runner import CheckpointLoader, Runner

from vipo.engine.sharding import is_sharded, spread_optimizer_state, spread_state, whole_optimizer_state, whole_state
from vipo.registry import HOOKS, ConfigError

_PLAIN = (int, float, str, bool, list)
_NAME = re.compile(r'iter_(\d+)\.pth')


@CheckpointLoader.register_scheme(prefixes='', force=True)
def load_tensors_only(
    filename: str, map_location: Any = None, logger: Any = None, mmap: bool = False
) -> dict[str, Any]:
    """MMEngine's loader of local files, with ``weights_only=True`` on every version of it.

    ``mmap`` leaves the tensors on disk until they are used.

    Raises:
        ConfigError: missing, damaged, or holding more than tensors and plain values.
    """
    path = Path(filename).expanduser()
    if not path.is_file():
        raise ConfigError(f'checkpoint {filename!r} does not exist')
    try:
        return torch.load(path, map_location=map_location, weights_only=True, mmap=mmap)
    except Exception as error:
        raise ConfigError(
            f'checkpoint {filename!r} cannot be loaded ({type(error).__name__}: {error}). It is damaged, or it holds '
            'more than tensors and plain values, which is never executed here.'
        ) from error


def write_atomically(path: Path, write: Any) -> None:
    """Call ``write(temporary_path)``, flush to disk, and only then put the file in its place.

    A process that dies at any moment leaves either the old file or the new one under ``path``, never a part.
    """
    temporary = path.with_name(f'.{path.name}.partial')
    write(temporary)
    with open(temporary, 'rb') as file:
        os.fsync(file.fileno())
    os.replace(temporary, path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


@HOOKS.register_module()
class PolicyCheckpointHook(Hook):
    """Saves trainable weights, EMA, optimiser and schedulers every ``interval`` iterations and at the end.

    ``last_checkpoint`` in the work dir names the newest, which ``--resume`` finds.

    Args:
        interval: iterations between checkpoints.
        keep: how many of the newest stay.
    """

    priority = 'VERY_LOW'

    def __init__(self, interval: int = 10, keep: int = 2) -> None:
        if interval < 1 or keep < 1:
            raise ValueError(f'checkpoint.interval and checkpoint.keep must be at least 1, got {interval} and {keep}')
        self.interval = interval
        self.keep = keep
        self._whole: dict[str, Any] = {}

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Drop MMEngine's log history, which only pickle can hold; put whole tensors in place of a rank's parts."""
        hub = checkpoint['message_hub']
        info = {k: v for k, v in hub['runtime_info'].items() if type(v) in _PLAIN and k != 'cfg'}
        checkpoint['message_hub'] = {
            'log_scalars': {},
            'runtime_info': info,
            'resumed_keys': dict.fromkeys(info, True),
        }
        if runner.components.ema is not None:
            checkpoint['ema'] = {k: v.cpu() for k, v in runner.components.ema.average.items()}
        checkpoint.update(self._whole)

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Divide what was saved among the ranks, where they share the weights; restore the EMA."""
        checkpoint['state_dict'] = spread_state(checkpoint['state_dict'], runner.components.policy)
        if 'optimizer' in checkpoint:
            checkpoint['optimizer'] = spread_optimizer_state(checkpoint['optimizer'], runner.optim_wrapper.optimizer)
        ema = runner.components.ema
        if ema is None:
            return
        if 'ema' not in checkpoint:
            raise ConfigError('the config has an EMA and the checkpoint has none; set ema=None to go on without')
        ema.load(checkpoint['ema'])

    def before_train(self, runner: Runner) -> None:
        """Remove what a process that died while writing left behind; set aside what lies ahead."""
        if not is_main_process():
            return
        for partial in Path(runner.work_dir).glob('.*.partial'):
            partial.unlink()
        if renamed := set_aside_later(Path(runner.work_dir), runner.iter):
            runner.logger.info(f'going back to iteration {runner.iter}; set aside: {", ".join(renamed)}')

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: dict | None = None
    ) -> None:
        done = runner.iter + 1
        if done % self.interval == 0 or done == runner.max_iters or runner.train_loop.stop_training:
            self.save(runner, done)

    def save(self, runner: Runner, done: int) -> None:
        """Write ``iter_{done}.pth``, name it in ``last_checkpoint``, and remove the oldest."""
        folder = Path(runner.work_dir)
        path = folder / f'iter_{done}.pth'
        self.write(runner, path, done)
        if not is_main_process():
            return
        write_atomically(folder / 'last_checkpoint', lambda p: p.write_text(str(path)))
        for old in saved_checkpoints(folder)[: -self.keep]:
            old.unlink()

    def write(self, runner: Runner, path: Path, done: int) -> None:
        """Write a checkpoint after ``done`` iterations anywhere. Every rank has to call it, and rank 0 writes."""
        if is_sharded(runner.components.policy.parameters()):
            self._whole = self.gather(runner)
        if is_main_process():
            write_atomically(path, lambda p: runner.save_checkpoint(str(path.parent), p.name, by_epoch=False))
        self._whole = {}

    def gather(self, runner: Runner) -> dict[str, Any]:
        """Weights, EMA and optimiser state, whole on rank 0; every rank has to call it."""
        c = runner.components
        parts = {'state_dict': whole_state(c.policy.state_dict())}
        optimizer = runner.optim_wrapper.state_dict()
        parts['optimizer'] = {**optimizer, **whole_optimizer_state(runner.optim_wrapper.optimizer)}
        if c.ema is not None:
            parts['ema'] = whole_state(c.ema.average)
        return parts


def find_latest(work_dir: str | Path) -> str | None:
    """The newest complete checkpoint of a work dir, None where there is none.

    A file has its final name only once it is complete, so the highest iteration counts; this holds as well after the
    folder was moved, or where the process died before ``last_checkpoint`` was written.
    """
    saved = saved_checkpoints(Path(work_dir))
    return str(saved[-1]) if saved else None


def saved_checkpoints(folder: Path) -> list[Path]:
    """Complete checkpoints, oldest first; a file of any other name is none of ours."""
    found = [(int(match[1]), path) for path in folder.glob('iter_*.pth') if (match := _NAME.fullmatch(path.name))]
    return [path for _, path in sorted(found)]


def resume_point(cfg: Config) -> str | None:
    """The checkpoint that a run of this config continues, None where it starts from the beginning."""
    if not cfg.get('resume'):
        return None
    return cfg.get('load_from') or find_latest(cfg.work_dir)


def seed_of(path: str) -> int | None:
    """The seed of the run that wrote a checkpoint; its tensors are not read."""
    return load_tensors_only(path, map_location='cpu', mmap=True).get('meta', {}).get('seed')


def check_start(cfg: Config) -> None:
    """Refuse to start where something would be lost or continued as what it is not; all ranks refuse together.

    Raises:
        ConfigError: the work dir holds another run's checkpoints and this run does not resume, the checkpoint was made
            with another seed, so that prompts and noise would not go on where they stopped, or the ranks do not see
            the same checkpoint.
    """
    point = resume_point(cfg)
    seen = all_gather_object((_start_problem(cfg, point), point and Path(point).name))
    for problem, _ in seen:
        if problem:
            raise ConfigError(problem)
    names = [name for _, name in seen]
    if len(set(names)) > 1:
        raise ConfigError(
            f'the ranks do not see the same checkpoint to resume ({names}, by rank): {cfg.work_dir} must be a folder '
            'that all nodes share, or name with --resume a file that all of them have'
        )


def _start_problem(cfg: Config, point: str | None) -> str | None:
    if Path(cfg.work_dir).exists() and not Path(cfg.work_dir).is_dir():
        return f'the work dir {cfg.work_dir} is a file; name a folder with --work-dir'
    if not cfg.get('resume') and (latest := find_latest(cfg.work_dir)):
        return (
            f'{cfg.work_dir} holds the checkpoints of an earlier run (newest: {Path(latest).name}). Add --resume to go '
            'on from it, or --work-dir to write somewhere else'
        )
    if point is None:
        return None
    seed = cfg.get('randomness', {}).get('seed', 0)
    try:
        before = seed_of(point)
    except ConfigError as error:
        return str(error)
    if before not in (None, seed):
        return (
            f'{point} was made with seed {before}, this run has seed {seed}: resume with --seed {before}, or start '
            'another run from its weights with --cfg-options load_from=... and no --resume'
        )
    return None


def set_aside_later(work_dir: Path, start: int) -> list[str]:
    """Rename checkpoints later than iteration ``start``, so that a run that goes back does not continue them."""
    renamed = []
    for path in saved_checkpoints(work_dir):
        if int(_NAME.fullmatch(path.name)[1]) > start:
            number = 0
            while (target := path.with_name(f'{path.stem}.set_aside_{number}.pth')).exists():
                number += 1
            path.rename(target)
            renamed.append(target.name)
    return renamed
