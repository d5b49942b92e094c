"""Checkpoints that survive: written whole or not at all with their sha256, loaded without executing anything."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Any
from zipfile import is_zipfile

import mmengine
import torch
from mmengine.dist import all_gather_object, is_main_process
from mmengine.hooks import Hook
from mmengine.runner import CheckpointLoader, Runner
from torch import Tensor
from torch.optim import Optimizer

from vipo.engine.ema import OTHER_CONFIG
from vipo.engine.files import HashedWriter, describe_failure, is_full, manifest_of, record_sha256, write_atomically
from vipo.engine.scoring import RunStopped
from vipo.engine.sharding import (
    spread_optimizer_state,
    spread_state,
    whole_optimizer_state,
    whole_state,
)
from vipo.registry import HOOKS, ConfigError

_PLAIN = (int, float, str, bool, list)
_NAME = re.compile(r'iter_(\d+)\.pth')
#: Places that MMEngine would load from with pickle, code included.
_ELSEWHERE = ('http', 'https', 'pavi', 'modelzoo', 'torchvision', 'open-mmlab', 'openmmlab', 'mmcls')
_STORES = (r'(\S+\:)?s3://', r'(\S+\:)?petrel://')


@CheckpointLoader.register_scheme(prefixes=('', *(f'{x}://' for x in _ELSEWHERE), *_STORES), force=True)
def load_tensors_only(
    filename: str, map_location: Any = None, logger: Any = None, mmap: bool = False
) -> dict[str, Any]:
    """MMEngine's loader of checkpoints, with ``weights_only=True`` on every version of it and for every address.

    ``mmap`` leaves the tensors on disk until they are used. Of ``meta``, the entry ``config`` is left out: a resuming
    MMEngine would run it as a config file.

    Raises:
        ConfigError: missing, damaged, or holding more than tensors and plain values.
    """
    path = locate(filename)
    try:
        content = torch.load(path, map_location=map_location, weights_only=True, mmap=mmap and is_zipfile(path))
    except Exception as error:
        # Not all that torch says: it goes on to advise how to run code that a pickle holds.
        if code := re.search(r'GLOBAL (\S+)', str(error)):
            problem = f'it holds more than tensors and plain values ({code[1]}), which is never executed here'
        else:
            said = re.split(r'\.\s|\n', str(error), maxsplit=1)[0]
            problem = f'it is damaged or no checkpoint ({type(error).__name__}: {said})'
        raise ConfigError(f'checkpoint {filename!r} cannot be loaded: {problem}.') from error
    if not isinstance(content, dict):
        raise ConfigError(f'checkpoint {filename!r} holds a {type(content).__name__}, a dict was expected')
    if isinstance(content.get('meta'), dict):
        content['meta'].pop('config', None)
    return content


def locate(filename: str) -> Path:
    """The file of that name.

    Raises:
        ConfigError: there is none.
    """
    path = Path(filename).expanduser()
    if not path.is_file():
        away = '; it must be a file on this machine' if '://' in filename else ''
        raise ConfigError(f'checkpoint {filename!r} does not exist{away}')
    return path


def write_checkpoint(path: Path, content: dict[str, Any]) -> None:
    """Write a checkpoint, and beside it its sha256, which is computed on the way to the disk.

    At any moment there is the old checkpoint or the new one, with its own sha256 or without one, never with the
    other's.

    Raises:
        OSError: it cannot be written; the old file is still there.
        ConfigError: it holds something that could not be loaded again; the old file is still there.
    """
    sha256 = ''

    def write(temporary: Path) -> None:
        nonlocal sha256
        with HashedWriter(temporary) as out:
            try:
                torch.save(content, out)
            except RuntimeError:
                if out.error is not None:
                    raise out.error from None
                raise
        load_tensors_only(str(temporary), map_location='cpu', mmap=True)
        sha256 = out.sha256()
        manifest_of(path).unlink(missing_ok=True)

    write_atomically(path, write)
    record_sha256(path, sha256)


@HOOKS.register_module()
class PolicyCheckpointHook(Hook):
    """Saves trainable weights, EMA, optimiser and schedulers every ``interval`` iterations and at the end.

    ``last_checkpoint`` in the work dir names the newest; ``--resume`` finds it without that.

    Args:
        interval: iterations between checkpoints.
        keep: how many of the newest stay; there is room needed for one more, since the oldest leaves last.
    """

    priority = 'VERY_LOW'

    def __init__(self, interval: int = 10, keep: int = 2) -> None:
        if interval < 1 or keep < 1:
            raise ValueError(f'checkpoint.interval and checkpoint.keep must be at least 1, got {interval} and {keep}')
        self.interval = interval
        self.keep = keep

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Drop MMEngine's log history, which only pickle can hold; add the EMA where it is missing."""
        hub = checkpoint['message_hub']
        info = {k: v for k, v in hub['runtime_info'].items() if type(v) in _PLAIN and k != 'cfg'}
        checkpoint['message_hub'] = {
            'log_scalars': {},
            'runtime_info': info,
            'resumed_keys': dict.fromkeys(info, True),
        }
        ema = runner.components.ema
        if ema is not None and 'ema' not in checkpoint:
            checkpoint['ema'] = {k: v.cpu() for k, v in ema.average.items()}

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Divide what was saved among the ranks, where they share the weights; restore the EMA.

        Raises:
            ConfigError: what a resuming run takes over is that of another config.
        """
        if runner.resumed_from is not None:
            check_optimizer_state(checkpoint['optimizer'], runner.optim_wrapper.optimizer)
            if len(checkpoint.get('param_schedulers', ())) != len(runner.param_schedulers or ()):
                raise ConfigError(
                    'the checkpoint does not belong to this config: it has the states of another number of schedulers. '
                    'Resume with the param_scheduler of the run'
                )
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
        """Write ``iter_{done}.pth``, name it in ``last_checkpoint``, and remove the oldest. Every rank has to call it.

        Args:
            done: iterations that are complete.

        Raises:
            RunStopped: see :meth:`write`.
        """
        folder = Path(runner.work_dir)
        path = folder / f'iter_{done}.pth'
        self.write(runner, path, done)
        if is_main_process():
            write_atomically(folder / 'last_checkpoint', lambda temporary: temporary.write_text(str(path)))
            remove_oldest(folder, self.keep)

    def write(self, runner: Runner, path: Path, done: int) -> None:
        """Write a checkpoint and its sha256 anywhere. Every rank has to call it, and rank 0 writes.

        Raises:
            RunStopped: on all ranks, where rank 0 cannot write it. What was there before is untouched.
        """
        parts = self.gather(runner)
        problem = None
        if is_main_process():
            content = self._state(runner, parts, done)
            try:
                write_checkpoint(path, content)
            except OSError as error:
                problem = self._failure(path, error, tensor_bytes(content))
            except ConfigError as error:
                problem = f'{path.name} was not kept, since nothing could go on from it: {error}'
        if problem := all_gather_object(problem)[0]:
            raise RunStopped(problem)

    def gather(self, runner: Runner) -> dict[str, Any]:
        """Weights, EMA and optimiser state, whole on rank 0; every rank has to call it."""
        c = runner.components
        parts = {'state_dict': whole_state(c.policy.state_dict())}
        optimizer = runner.optim_wrapper.state_dict()
        parts['optimizer'] = {**optimizer, **whole_optimizer_state(runner.optim_wrapper.optimizer)}
        if c.ema is not None:
            parts['ema'] = whole_state(c.ema.average)
        return parts

    def _state(self, runner: Runner, parts: dict[str, Any], done: int) -> dict[str, Any]:
        """What ``Runner.resume`` expects, without the copies in memory that ``Runner.save_checkpoint`` makes."""
        cfg = runner.cfg
        checkpoint = {
            'meta': {
                'iter': done,
                'epoch': runner.epoch,
                'seed': runner.seed,
                'config_name': Path(cfg.filename).stem if cfg.filename else None,
                'experiment_name': runner.experiment_name,
                'cfg': cfg.pretty_text,
                'time': time.strftime('%Y%m%d_%H%M%S'),
                'mmengine_version': mmengine.__version__,
                'dataset_meta': getattr(runner.train_dataloader.dataset, 'metainfo', None),
            },
            'message_hub': runner.message_hub.state_dict(),
            'param_schedulers': [s.state_dict() for s in runner.param_schedulers or ()],
            **parts,
        }
        runner.call_hook('before_save_checkpoint', checkpoint=checkpoint)
        return checkpoint

    def _failure(self, path: Path, error: OSError, needed: int) -> str:
        latest = find_latest(path.parent)
        if latest is None:
            before, again, away = 'No earlier one is there', 'start again', '--work-dir FOLDER'
        else:
            before, again = f'{Path(latest).name}, written before, is complete', 'add --resume'
            away = f'--resume {latest} --work-dir FOLDER'
        fewer = (
            f' or lower default_hooks.checkpoint.keep (now {self.keep}: that many stay while one more is written),'
            if is_full(error)
            else ''
        )
        return (
            f'{describe_failure(path, error, needed)}. {before}; no part of the new one is left. Make room{fewer} and '
            f'{again}, or write elsewhere with {away}'
        )


def check_optimizer_state(state: dict[str, Any], optimizer: Optimizer) -> None:
    """Refuse the state of another optimiser, which torch would find in the midst of its step, or not at all.

    Raises:
        ConfigError: groups, shapes of moments or kinds of options differ.
    """
    groups = optimizer.param_groups
    sizes = [len(group['params']) for group in state['param_groups']]
    problem = None
    if sizes != [len(group['params']) for group in groups]:
        problem = f'has groups of {sizes} parameters'
    for own, saved in zip(groups, state['param_groups'], strict=False):
        for key, value in own.items():
            if isinstance(value, float) and not isinstance(saved.get(key, value), int | float):
                problem = f'has {key}={saved[key]!r}'
    parameters = dict(enumerate(p for group in groups for p in group['params']))
    for number, moments in state['state'].items():
        for key in ('exp_avg', 'exp_avg_sq'):
            found = moments.get(key)
            if isinstance(found, Tensor) and number in parameters and found.shape != parameters[number].shape:
                problem = f'has {key} of shape {tuple(found.shape)} for parameter {number}'
    if problem:
        raise ConfigError(f'the checkpoint does not belong to this config: its optimizer {problem}. {OTHER_CONFIG}')


def tensor_bytes(content: Any) -> int:
    """Bytes of the tensors in nested dicts and lists."""
    if isinstance(content, Tensor):
        return content.nbytes
    if isinstance(content, dict):
        content = content.values()
    elif not isinstance(content, (list, tuple)):
        return 0
    return sum(tensor_bytes(x) for x in content)


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


def remove_oldest(folder: Path, keep: int) -> None:
    """Remove all but the newest ``keep`` checkpoints, each after its sha256; a file of any other name stays."""
    for old in saved_checkpoints(folder)[:-keep]:
        manifest_of(old).unlink(missing_ok=True)
        old.unlink()


def rename_checkpoint(path: Path, target: Path) -> None:
    """Rename a checkpoint; its sha256, which names it, goes with it."""
    manifest = manifest_of(path)
    manifest_of(target).unlink(missing_ok=True)
    path.replace(target)
    if manifest.exists():
        line = manifest.read_text(errors='replace').replace(path.name, target.name)
        write_atomically(manifest_of(target), lambda temporary: temporary.write_text(line))
        manifest.unlink()


def set_aside_later(work_dir: Path, start: int) -> list[str]:
    """Rename checkpoints later than iteration ``start``, so that a run that goes back does not continue them."""
    renamed = []
    for path in saved_checkpoints(work_dir):
        if int(_NAME.fullmatch(path.name)[1]) > start:
            renamed.append(set_aside(path).name)
    return renamed


def set_aside(path: Path) -> Path:
    """Give a checkpoint a name under which no run looks for one; where it is now."""
    number = 0
    while (target := path.with_name(f'{path.stem}.set_aside_{number}.pth')).exists():
        number += 1
    rename_checkpoint(path, target)
    return target
