"""What a run starts from, and why it may not."""

from __future__ import annotations

from pathlib import Path

from mmengine.config import Config
from mmengine.dist import all_gather_object, is_main_process

from vipo.engine.checkpoint import find_latest, load_tensors_only, locate, saved_checkpoints
from vipo.engine.files import manifest_of
from vipo.engine.verify import LOADABLE, RESUMABLE, inspect, require_whole
from vipo.registry import ConfigError


def resume_point(cfg: Config) -> str | None:
    """The checkpoint that a run of this config continues, None where it starts from the beginning."""
    if not cfg.get('resume'):
        return None
    return cfg.get('load_from') or find_latest(cfg.work_dir)


def seed_of(path: str) -> int | None:
    """The seed of the run that wrote a checkpoint; its tensors are not read."""
    meta = load_tensors_only(path, map_location='cpu', mmap=True).get('meta')
    return meta.get('seed') if isinstance(meta, dict) else None


def seed_to_adopt(cfg: Config) -> int | None:
    """The seed with which a resumed run goes on, None where it has its own.

    A checkpoint that cannot be read has none to give: :func:`check_start` refuses it, and says what else there is.
    """
    point = resume_point(cfg)
    try:
        seed = None if point is None else seed_of(point)
    except ConfigError:
        return None
    return seed if type(seed) is int and 0 <= seed < 2**32 else None


def check_start(cfg: Config) -> None:
    """Refuse to start where something would be lost or continued as what it is not; all ranks refuse together.

    Rank 0 compares the checkpoint with its sha256, which reads all of it.

    Raises:
        ConfigError: the work dir holds another run's checkpoints and this run does not resume, the checkpoint is
            missing or damaged, it was made with another seed, so that prompts and noise would not go on where they
            stopped, or the ranks do not see the same checkpoint.
    """
    point = resume_point(cfg)
    seen = all_gather_object((_start_problem(cfg, point), point and Path(point).name))
    names = [name for _, name in seen]
    if len(set(names)) > 1:
        raise ConfigError(
            f'the ranks do not see the same checkpoint to resume ({names}, by rank): {cfg.work_dir} must be a folder '
            'that all nodes share, or name with --resume a file that all of them have'
        )
    for problem, _ in seen:
        if problem:
            raise ConfigError(problem)


def _start_problem(cfg: Config, point: str | None) -> str | None:
    if '\0' in str(cfg.work_dir):
        return f'the work dir {str(cfg.work_dir)!r} has a zero byte in its name; name another with --work-dir'
    try:
        above = next(p for p in (Path(cfg.work_dir), *Path(cfg.work_dir).absolute().parents) if p.exists())
    except OSError as error:
        return f'the work dir {cfg.work_dir!r} cannot be made: {error}; name another with --work-dir'
    if not above.is_dir():
        return f'the work dir {cfg.work_dir} is a file, or lies in one ({above}); name a folder with --work-dir'
    if not cfg.get('resume') and (latest := find_latest(cfg.work_dir)):
        return (
            f'{cfg.work_dir} holds the checkpoints of an earlier run (newest: {Path(latest).name}). Add --resume to go '
            'on from it, or --work-dir to write somewhere else'
        )
    start = point or cfg.get('load_from')
    if start is None:
        return None
    try:
        path = locate(start)
    except ConfigError as error:
        return str(error)
    try:
        if is_main_process():
            require_whole(path, RESUMABLE if point else LOADABLE)
        before = seed_of(start)
    except ConfigError as error:
        return f'{error} {_way_out(path)}' if point and is_main_process() else str(error)
    seed = (cfg.get('randomness') or {}).get('seed', 0)
    if point and before not in (None, seed):
        return (
            f'{point} was made with seed {before}, this run has seed {seed}: resume with --seed {before}, or start '
            'another run from its weights with --cfg-options load_from=... and no --resume'
        )
    return None


def _way_out(damaged: Path) -> str:
    """How to go on where a checkpoint cannot be resumed."""
    for other in reversed(saved_checkpoints(damaged.parent)):
        if other != damaged and inspect(other).problem is None:
            proof = 'its sha256 agrees' if manifest_of(other).exists() else 'it loads, and has no sha256 beside it'
            return f'Another one is whole, {other} ({proof}): go on from there with --resume {other}'
    return f'No other checkpoint in {damaged.parent} is whole: start again with another --work-dir'
