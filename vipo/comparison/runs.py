"""What a run left in its work dir, finished or not."""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar
from zipfile import BadZipFile

import numpy as np
from mmengine.config import Config

from vipo.engine.evaluation import Evaluation
from vipo.engine.restore import config_of
from vipo.engine.results import HeldOutResults
from vipo.registry import ConfigError

Read = TypeVar('Read')


@dataclass
class Run:
    """A work dir of ``tools/train.py``.

    Attributes:
        cfg: as the run had it, command line included.
        history: one record per policy iteration.
        planned: iterations of the finished run; of one that stopped early by its own rule, those that it did.
        evaluations: iterations done -> held-out scores, without their pictures.
        tested: results of ``tools/test.py`` on the newest checkpoint that was tested, if any.
        tested_folder: where they lie.
        notes: what a reader should know about it.
    """

    folder: Path
    cfg: Config
    history: list[dict[str, Any]]
    evaluations: dict[int, Evaluation]
    planned: int
    tested: HeldOutResults | None = None
    tested_folder: Path | None = None
    notes: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        """Of its config file."""
        return Path(self.cfg.filename).stem

    @property
    def seed(self) -> int:
        """From which everything random in it follows."""
        return (self.cfg.get('randomness') or {}).get('seed', 0)

    @property
    def iterations(self) -> int:
        """Done so far."""
        return self.history[-1]['iteration'] if self.history else 0

    @property
    def measured(self) -> int | None:
        """The iteration of the last evaluation after the start; None where there is none."""
        return max((number for number in self.evaluations if number > 0), default=None)

    @cached_property
    def held_out(self) -> HeldOutResults | None:
        """Scores at the start and at the last evaluation; None where one of them is missing."""
        if self.measured is None or 0 not in self.evaluations:
            return None
        before, after = self.evaluations[0], self.evaluations[self.measured]
        setup = json.loads(after.setup) if after.setup else {}
        columns = {f'before/{k}': v for k, v in before.scores.items()}
        columns |= {f'after/{k}': v for k, v in after.scores.items()}
        about = {
            'rewards': {'reward': setup.get('reward'), **(setup.get('eval_rewards') or {})},
            'evaluation': {k: v for k, v in (setup.get('evaluation') or {}).items() if k in ('num_steps', 'seed')},
        }
        return HeldOutResults(after.prompts, columns, about)

    def pictures(self) -> tuple[list[str], np.ndarray, np.ndarray]:
        """Prompts and pictures ``(N, 3, F, Y, X)`` uint8 at the start and at the last evaluation, same seeds.

        There are some where :attr:`held_out` is not None.
        """
        start, last = (Evaluation.load(self._evaluation(number)) for number in (0, self.measured))
        return last.prompts, start.pixels, last.pixels

    def maps(self) -> np.ndarray | None:
        """Allocation maps ``(n, T, H, W)`` of the first pictures after training, where the run made some."""
        path = self.folder / 'maps.npz'
        if not path.exists() or self.measured != self.planned:
            return None
        return _read(path, _read_maps)

    def _evaluation(self, number: int) -> Path:
        return self.folder / 'evaluations' / f'iter_{number}.npz'


def read_run(folder: str | Path) -> Run:
    """Read a work dir.

    Raises:
        ConfigError: there is no run in it, or a file of it is damaged.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ConfigError(f'{folder} is no folder; name work dirs of tools/train.py')
    file = folder / 'history.jsonl'
    if not file.exists():
        raise ConfigError(
            f'{folder} holds no history.jsonl, which every run writes from its first iteration on; name work dirs of '
            'tools/train.py'
        )
    cfg = config_of(folder / 'checkpoint', imports=False)
    history = _read(file, _read_history)
    summary = _read(path, _read_summary) if (path := folder / 'summary.json').exists() else {}
    evaluations = {
        _read(path, _read_number): Evaluation.load(path, pictures=False)
        for path in (folder / 'evaluations').glob('iter_*.npz')
    }
    planned = (cfg.get('train_cfg') or {}).get('max_iters')
    if not isinstance(planned, int):
        raise ConfigError(f'{cfg.filename} is no config of a run: it has no train_cfg.max_iters')
    if history and summary.get('iterations') == history[-1]['iteration']:
        planned = summary['iterations']
    run = Run(folder, cfg, history, dict(sorted(evaluations.items())), planned)
    _read_test(run)
    if run.iterations < run.planned:
        run.notes.append(f'stopped or still running: {run.iterations} of {run.planned} iterations are done')
    if run.planned < cfg.train_cfg.max_iters:
        run.notes.append(f'ended by its own rule after {run.planned} of {cfg.train_cfg.max_iters} iterations')
    if run.measured is None:
        run.notes.append('has no held-out evaluation after its start: it is in the curves alone')
    elif run.measured < run.planned:
        run.notes.append(f'its last held-out evaluation was after iteration {run.measured} of {run.planned}')
    return run


def _read(path: Path, reader: Callable[[Path], Read]) -> Read:
    """What ``reader`` makes of a file.

    Raises:
        ConfigError: the file is damaged.
    """
    try:
        return reader(path)
    except (ValueError, TypeError, KeyError, OSError, EOFError, BadZipFile, zlib.error) as error:
        raise ConfigError(f'{path} is damaged ({type(error).__name__}: {error})') from error


def _read_history(path: Path) -> list[dict[str, Any]]:
    # The last line of a run that is going on, or died, may be cut off.
    lines = [line for line in path.read_text(encoding='utf-8').splitlines(keepends=True) if line.endswith('\n')]
    records = [json.loads(line) for line in lines]
    for number, record in enumerate(records, 1):
        if not isinstance(record, dict) or not isinstance(record.get('iteration'), int):
            raise ValueError(f'line {number} is no record of an iteration')
    return records


def _read_summary(path: Path) -> dict[str, Any]:
    summary = json.loads(path.read_text(encoding='utf-8'))
    if not isinstance(summary, dict):
        raise ValueError('it holds no JSON object')
    return summary


def _read_number(path: Path) -> int:
    return int(path.stem.removeprefix('iter_'))


def _read_maps(path: Path) -> np.ndarray:
    with np.load(path, allow_pickle=False) as data:
        return data['maps']


def _read_test(run: Run) -> None:
    folders = sorted(path.parent for path in (run.folder / 'test').glob('*/results.json'))
    found = {int(number[1]): path for path in folders if (number := re.fullmatch(r'iter_(\d+)', path.name))}
    if others := [path.name for path in folders if path not in found.values()]:
        run.notes.append(f'has tests that are not shown, since they are of no iteration: {", ".join(others)}')
    if not found:
        return
    number = max(found)
    run.tested_folder = found[number]
    try:
        run.tested = HeldOutResults.load(run.tested_folder)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    if number != run.planned:
        run.notes.append(f'was tested after iteration {number} of {run.planned}')
