"""What a test leaves behind: a number for every prompt and measure, and what they amount to."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from vipo.engine.checkpoint import write_atomically
from vipo.statistics import Interval, mean_interval, paired_difference
from vipo.visualization.gallery import before_after, variety
from vipo.visualization.samples import gallery

#: Columns of a measure that has no before: what changed, and how far the policy is from its start.
SINGLE = ('change', 'distance')
_FILES = ('results.json', 'per_prompt.csv')


@dataclass
class HeldOutResults:
    """A tested checkpoint, or the start of a run.

    Attributes:
        prompts: N prompts.
        columns: ``before/<measure>``, ``after/<measure>``, ``change/<space>`` and ``distance/<measure>`` -> ``(N,)``;
            NaN where a prompt has no valid number.
        about: what was tested and how: ``config``, ``checkpoint``, ``weights``, ``evaluation``, ``samples_per_prompt``,
            ``rewards`` and ``spaces`` (name -> what computes it), ``kernel``, ``seconds``.
    """

    prompts: list[str]
    columns: dict[str, np.ndarray]
    about: dict[str, Any] = field(default_factory=dict)

    def measures(self) -> dict[str, dict[str, Interval]]:
        """Measure -> ``before``, ``after`` and ``difference``, or ``value`` alone.

        A difference is of the same prompts and seeds, its interval a paired bootstrap over prompts.
        """
        found: dict[str, dict[str, Interval]] = {}
        for column, values in self.columns.items():
            when, _, name = column.partition('/')
            if not np.isfinite(values).any():
                continue
            if when in SINGLE:
                found[column] = {'value': mean_interval(values)}
                continue
            of = found.setdefault(name, {})
            of[when] = mean_interval(values)
            before = self.columns.get(f'before/{name}')
            if when == 'after' and before is not None and np.isfinite(before + values).any():
                of['difference'] = paired_difference(before, values)
        return found

    def without_score(self) -> dict[str, int]:
        """Column -> prompts without a valid number, where there are any."""
        counts = {name: int((~np.isfinite(values)).sum()) for name, values in self.columns.items()}
        return {name: count for name, count in counts.items() if count}

    def computed_by(self, measure: str) -> str:
        """What computes a measure, as text: equal texts say that two results can be compared."""
        kind, _, name = measure.partition('/')
        if kind in ('change', 'diversity'):
            return json.dumps(self.about.get('spaces', {}).get(name), sort_keys=True)
        if kind == 'distance':
            return json.dumps(self.about.get('kernel'), sort_keys=True)
        return json.dumps(self.about.get('rewards', {}).get(kind), sort_keys=True)

    def table(self) -> list[str]:
        """Lines of an aligned table of :meth:`measures`; parts of rewards are left to the file."""
        rewards = self.about.get('rewards', {})
        pairs = [['', 'before', 'after', 'difference (95 % interval)']]
        alone = [['', '95 % interval']]
        for name, of in self.measures().items():
            if 'value' in of:
                alone.append([name, of['value'].describe()])
            elif name not in rewards and not name.startswith('diversity/'):
                continue
            elif 'difference' not in of:
                alone += [[f'{name}, {when}', x.describe()] for when, x in of.items()]
            else:
                means = [f'{of[when].value:.4f}' for when in ('before', 'after')]
                pairs.append([name, *means, of['difference'].describe('+')])
        lines = [line for rows in (pairs, alone) if len(rows) > 1 for line in (*_aligned(rows), '')]
        for column, count in self.without_score().items():
            if column.partition('/')[2] in rewards:
                lines.append(f'{column}: {count} of {len(self.prompts)} prompts have no valid score')
        return lines

    def save(self, folder: Path) -> None:
        """Write ``per_prompt.csv``, then ``results.json``; each whole or not at all."""
        rows = [
            [i, prompt, *(_cell(values[i]) for values in self.columns.values())]
            for i, prompt in enumerate(self.prompts)
        ]
        write_csv(folder / _FILES[1], ['prompt_id', 'prompt', *self.columns], rows)
        measures = {name: {k: asdict(v) for k, v in of.items()} for name, of in self.measures().items()}
        body = {'about': self.about, 'measures': measures, 'without_score': self.without_score()}
        text = json.dumps(body, indent=2) + '\n'
        write_atomically(folder / _FILES[0], lambda path: path.write_text(text))

    @staticmethod
    def load_measures(folder: Path) -> dict[str, dict[str, Interval]]:
        """:meth:`measures` as :meth:`save` wrote them, without their bootstrap.

        Raises:
            ValueError: the file is missing or damaged.
        """
        try:
            measures = json.loads((folder / _FILES[0]).read_text())['measures']
            return {name: {k: Interval(**v) for k, v in of.items()} for name, of in measures.items()}
        except (OSError, AttributeError, KeyError, TypeError, ValueError) as error:
            raise _incomplete(folder, error) from error

    @classmethod
    def load(cls, folder: Path) -> HeldOutResults:
        """Read what :meth:`save` wrote.

        Raises:
            ValueError: a file is missing or damaged.
        """
        try:
            body = json.loads((folder / _FILES[0]).read_text())
            about = body.get('about') if isinstance(body, dict) else None
            if not isinstance(about, dict):
                raise ValueError(f'{_FILES[0]} does not say what was tested')
            with open(folder / _FILES[1], newline='', encoding='utf-8') as file:
                rows = list(csv.DictReader(file))
            names = [name for name in (rows[0] if rows else {}) if name not in ('prompt_id', 'prompt')]
            columns = {name: np.array([float(row[name] or 'nan') for row in rows]) for name in names}
            return cls([row['prompt'] for row in rows], columns, about)
        except (OSError, KeyError, TypeError, ValueError) as error:
            raise _incomplete(folder, error) from error


def _incomplete(folder: Path, error: Exception) -> ValueError:
    return ValueError(f'{folder} holds no complete test results ({error}); run tools/test.py again')


def write_pictures(folder: Path, prompts: list[str], pictures: list[dict[str, np.ndarray]], title: str) -> list[str]:
    """Write ``gallery.png``, ``pictures.npz`` and, where prompts have several samples, ``diversity.png``.

    Args:
        prompts: of the G prompts that are shown.
        pictures: of each prompt, see :class:`vipo.engine.testing.PromptRow`.

    Returns:
        Names of the files.
    """
    whens = [when for when in ('before', 'after') if when in pictures[0]]
    first = {when: np.stack([p[when][0] for p in pictures])[:, :, None] for when in whens}
    if len(whens) == 2:
        captions = [('before', 'after')] * len(prompts)
        before_after(prompts, first['before'], first['after'], captions, folder / 'gallery.png', title)
    else:
        gallery(first['before'], prompts, folder / 'gallery.png', columns=6)
    arrays = {**first, **({'maps': np.stack([p['map'] for p in pictures])} if 'map' in pictures[0] else {})}
    np.savez_compressed(folder / 'pictures.npz', prompts=np.array(prompts), **arrays)
    written = ['gallery.png', 'pictures.npz']
    if len(pictures[0]['before']) > 1:
        several = [p for p in pictures if len(p['before']) > 1]
        rows = {when: [p[when] for p in several] for when in whens}
        variety(prompts[: len(several)], rows, folder / 'diversity.png', title)
        written.append('diversity.png')
    return written


def write_csv(path: Path, header: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Write a table, whole or not at all."""

    def write(temporary: Path) -> None:
        with open(temporary, 'w', newline='', encoding='utf-8') as file:
            csv.writer(file).writerows([header, *rows])

    write_atomically(path, write)


class SampleLog:
    """Appends a line for every sample to a CSV while a test goes on, so that what was computed stays.

    Args:
        path: of the file, begun anew.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._header: list[str] = []
        path.unlink(missing_ok=True)

    def add(self, prompt: int, text: str, samples: Sequence[Mapping[str, float]]) -> None:
        """The samples of one prompt, each column -> number."""
        with open(self._path, 'a', newline='', encoding='utf-8') as file:
            writer = csv.writer(file)
            if not self._header:
                self._header = list(samples[0])
                writer.writerow(['prompt_id', 'sample', 'prompt', *self._header])
            for k, values in enumerate(samples):
                writer.writerow([prompt, k, text, *(_cell(values[name]) for name in self._header)])


def _cell(value: float) -> float | str:
    return float(value) if np.isfinite(value) else ''


def _aligned(rows: list[list[str]]) -> list[str]:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return ['  '.join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows]
