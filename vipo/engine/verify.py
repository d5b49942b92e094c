"""Whether a checkpoint is whole: the bytes that were written, and everything that a run needs to go on."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from vipo.engine.checkpoint import load_tensors_only, locate
from vipo.engine.files import manifest_of, recorded_sha256, sha256_of
from vipo.registry import ConfigError

#: What a run needs to go on.
RESUMABLE = ('meta', 'state_dict', 'optimizer', 'message_hub')
#: What a run needs to start from the weights, and an export.
LOADABLE = ('state_dict',)
_ITERATION = re.compile(r'iter_(\d+)\b')


@dataclass
class Inspection:
    """What was found in a checkpoint.

    Attributes:
        problem: why it is not whole, None where it is.
        sha256: ``agrees``, ``differs``, or ``none`` where there was nothing to compare with.
        iteration, seed, config: of the run that wrote it, as far as it says so.
        tensors: how many were trained.
        parameters: numbers in them.
    """

    path: Path
    problem: str | None = None
    sha256: str = 'none'
    iteration: int | None = None
    seed: int | None = None
    config: str | None = None
    tensors: int | None = None
    parameters: int | None = None


class Damaged(ConfigError):
    """A checkpoint does not hold the bytes that were written."""


def inspect(path: Path, needed: Iterable[str] = RESUMABLE) -> Inspection:
    """Read a checkpoint from its first byte to its last.

    Args:
        needed: parts that must be there.
    """
    found = Inspection(path)
    try:
        found.sha256 = 'agrees' if compare(path) else 'none'
        content = load_tensors_only(str(path), map_location='cpu', mmap=True)
        _describe(found, content)
        found.problem = _misfit(path, content, needed)
    except Damaged as error:
        found.sha256, found.problem = ('differs' if manifest_of(path).exists() else 'none'), str(error)
    except ConfigError as error:
        found.problem = str(error)
    return found


def require_whole(path: Path, needed: Iterable[str] = LOADABLE) -> None:
    """Refuse a checkpoint that is not whole.

    Raises:
        ConfigError: it is damaged, incomplete or missing.
    """
    if problem := inspect(path, needed).problem:
        raise ConfigError(problem)


def compare(path: Path) -> bool:
    """Compare a checkpoint with its sha256, and one that has none with the checksums inside its archive.

    Returns:
        Whether there was a sha256.

    Raises:
        Damaged: these are not the bytes that were written.
        ConfigError: the file is missing or unreadable, or its manifest is none.
    """
    locate(str(path))
    try:
        wanted = recorded_sha256(path)
        has = None if wanted is None else sha256_of(path)
    except OSError as error:
        raise ConfigError(f'checkpoint {str(path)!r} cannot be read: {error}') from error
    if has != wanted:
        raise Damaged(
            f'checkpoint {str(path)!r} is damaged: its sha256 is {has[:12]}..., and {manifest_of(path).name} says '
            f'{wanted[:12]}... (if you changed the checkpoint yourself, remove that file).'
        )
    # What is no archive is left to the loader.
    if wanted is None and zipfile.is_zipfile(path):
        _check_records(path)
    return wanted is not None


def _check_records(path: Path) -> None:
    try:
        with zipfile.ZipFile(path) as archive:
            bad = archive.testzip()
    except Exception as error:
        bad = f'{type(error).__name__}: {error}'
    if bad is not None:
        raise Damaged(f'checkpoint {str(path)!r} is damaged: a checksum inside it does not agree ({bad}).')


def _describe(found: Inspection, content: dict[str, Any]) -> None:
    meta, weights = content.get('meta'), content.get('state_dict')
    if isinstance(meta, dict):
        found.iteration, found.seed, found.config = (meta.get(k) for k in ('iter', 'seed', 'config_name'))
    if isinstance(weights, dict):
        tensors = [x for x in weights.values() if isinstance(x, Tensor)]
        found.tensors, found.parameters = len(tensors), sum(x.numel() for x in tensors)


def _misfit(path: Path, content: dict[str, Any], needed: Iterable[str]) -> str | None:
    start = f'checkpoint {str(path)!r}'
    if missing := [name for name in needed if not isinstance(content.get(name), dict)]:
        return f'{start} has no {", ".join(missing)}: no run of ViPO wrote it, or it was stripped'
    weights = content['state_dict']
    if not weights or not all(isinstance(x, Tensor) and x.is_floating_point() for x in weights.values()):
        return f'{start} has a state_dict that is empty or holds more than tensors of real numbers'
    if not all(isinstance(name, str) for name in weights):
        return f'{start} has tensors without names'
    if 'meta' in needed:
        iteration = content['meta'].get('iter')
        named = _ITERATION.match(path.name)
        if type(iteration) is not int or (named and int(named[1]) != iteration):
            return f'{start} is of iteration {iteration!r}, which its name contradicts'
        for key in ('seed', 'epoch'):
            value = content['meta'].get(key)
            if value is not None and not (type(value) is int and 0 <= value < 2**32):
                return f'{start} says {key} {value!r}, which is no whole number from 0 to 2**32 - 1'
    average = content.get('ema', weights)
    if not isinstance(average, dict) or not all(isinstance(x, Tensor) for x in average.values()):
        return f'{start} has an ema that holds more than tensors'
    if _shapes(average) != _shapes(weights):
        return f'{start} averages other tensors than it has weights of'
    if 'message_hub' in needed:
        hub = content['message_hub']
        if not all(isinstance(hub.get(k), dict) for k in ('log_scalars', 'runtime_info', 'resumed_keys')):
            return f'{start} has a message_hub without log_scalars, runtime_info or resumed_keys'
        schedulers = content.get('param_schedulers', [])
        if not isinstance(schedulers, list) or not all(isinstance(x, dict) for x in schedulers):
            return f'{start} has param_schedulers that are no list of states'
    if 'optimizer' in needed:
        groups, state = (content['optimizer'].get(k) for k in ('param_groups', 'state'))
        if not isinstance(groups, list) or not isinstance(state, dict):
            return f'{start} has an optimizer without param_groups or without state'
        if not all(isinstance(group, dict) and isinstance(group.get('params'), list) for group in groups):
            return f'{start} has param_groups without params'
        if not all(isinstance(moments, dict) and moments for moments in state.values()):
            return f'{start} has a parameter without moments'
        known = {number for group in groups for number in group['params']}
        if not set(state) <= known:
            return f'{start} has moments of parameters that its optimizer does not have'
    return None


def _shapes(state: dict[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(x.shape) for name, x in state.items()}
