"""What a run left in its work dir, finished or not."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.config import Config

from vipo.engine.evaluation import Evaluation
from vipo.engine.restore import config_of
from vipo.engine.results import HeldOutResults
from vipo.registry import ConfigError


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
        with np.load(path, allow_pickle=False) as data:
            return data['maps']

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
    # The last line of a run that is going on, or died, may be cut off.
    lines = [line for line in file.read_text().splitlines(keepends=True) if line.endswith('\n')]
    try:
        history = [json.loads(line) for line in lines]
        summary = json.loads((folder / 'summary.json').read_text()) if (folder / 'summary.json').exists() else {}
        evaluations = {
            int(path.stem.removeprefix('iter_')): Evaluation.load(path, pictures=False)
            for path in (folder / 'evaluations').glob('iter_*.npz')
        }
    except (ValueError, KeyError, OSError) as error:
        raise ConfigError(f'{folder}: a file of the run is damaged ({error})') from error
    planned = cfg.train_cfg.max_iters
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


def _read_test(run: Run) -> None:
    found = sorted(
        (path.parent for path in (run.folder / 'test').glob('iter_*/results.json')),
        key=lambda p: int(p.name.removeprefix('iter_')),
    )
    if not found:
        return
    run.tested_folder = found[-1]
    try:
        run.tested = HeldOutResults.load(found[-1])
    except ValueError as error:
        raise ConfigError(str(error)) from error
    number = int(found[-1].name.removeprefix('iter_'))
    if number != run.planned:
        run.notes.append(f'was tested after iteration {number} of {run.planned}')
