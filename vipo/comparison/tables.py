"""Numbers of several groups beside each other, with intervals."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vipo.engine.results import SINGLE, HeldOutResults
from vipo.statistics import Interval, mean_interval, paired_difference, seed_interval, seed_reach, widened


@dataclass(frozen=True)
class Cell:
    """One measure of one group; None where it has none.

    Attributes:
        before, after: means over prompts and seeds.
        difference: from the first group, on the same prompts.
    """

    before: Interval | None = None
    after: Interval | None = None
    difference: Interval | None = None


@dataclass
class Row:
    """One measure of all groups.

    Attributes:
        measure: ``reward``, ``judge/shape``, ``diversity/pixels``, ``change/background``, ...
        decimals: that its intervals are worth.
        reach: largest distance of an interval of a difference from 0.
    """

    measure: str
    cells: list[Cell]
    decimals: int = 3
    reach: float = 0.0

    @property
    def kind(self) -> str:
        """``'trained'``, ``'watched'``, ``'diversity'``, ``'change'`` or ``'distance'``."""
        first = self.measure.partition('/')[0]
        if first in ('diversity', *SINGLE):
            return first
        return 'trained' if first == 'reward' else 'watched'

    @property
    def name(self) -> str:
        """The measure among others of its kind."""
        return self.measure if self.kind in ('trained', 'watched') else self.measure.partition('/')[2]

    @property
    def is_part(self) -> bool:
        """Whether it is a part of another score."""
        return self.kind in ('trained', 'watched') and '/' in self.measure


@dataclass
class Comparison:
    """All measures of all groups.

    Attributes:
        prompts: on which they are compared; 0 where the groups have none in common.
        notes: what a reader should know before believing it.
    """

    rows: list[Row]
    prompts: int
    notes: list[str]

    def of(self, kind: str) -> list[Row]:
        """Rows of one kind."""
        return [row for row in self.rows if row.kind == kind]


def compare_results(
    labels: list[str], groups: list[list[HeldOutResults]], seeds: list[list[int]] | None = None
) -> Comparison:
    """Compare groups of runs; the first is what the others are compared with.

    Intervals are of a bootstrap over prompts and runs. One of few runs is too narrow, so with several seeds they are at
    least as wide as Student's over seeds, pair by pair where two groups have the same seeds.

    Args:
        labels: of the groups.
        groups: of each the results of its runs, none of them empty.
        seeds: of each the seeds of these runs; without them all of a group are different.
    """
    seeds = [list(range(len(group))) for group in groups] if seeds is None else seeds
    everyone = [result for group in groups for result in group]
    notes, common = _common_prompts(everyone)
    if not common[0].size:
        return Comparison([], 0, notes)
    indices = iter(common)
    chosen = [[(result, next(indices)) for result in group] for group in groups]
    rows = []
    for measure in dict.fromkeys(m for result in everyone for m in _measures(result)):
        single = measure.partition('/')[0] in SINGLE
        before = [None if single else _stack(*group, f'before/{measure}') for group in zip(chosen, seeds, strict=True)]
        after = [_stack(*group, measure if single else f'after/{measure}') for group in zip(chosen, seeds, strict=True)]
        makers = [{result.computed_by(measure) for result in group} for group in groups]
        same = all(maker == makers[0] for maker in makers) and len(makers[0]) == 1
        if not same and '/' not in measure:
            notes.append(f'{measure} is not computed alike in all runs, so its differences are left out')
        cells = []
        for i, values in enumerate(after):
            comparable = i > 0 and same and after[0] is not None and values is not None
            cells.append(
                Cell(
                    before=_mean(before[i], seeds[i]),
                    after=_mean(values, seeds[i]),
                    difference=_difference(after[0], values, seeds[0], seeds[i]) if comparable else None,
                )
            )
        row = Row(measure, cells)
        notes += [] if row.is_part else _left_out(measure, after, labels)
        spans = [x for cell in cells for x in (cell.after, cell.difference) if x is not None]
        row.decimals = max((x.decimals for x in spans), default=3)
        row.reach = max(
            (abs(b) for c in cells if c.difference for b in (c.difference.low, c.difference.high)), default=0
        )
        rows.append(row)
    for label, own in zip(labels, seeds, strict=True):
        if len(set(own)) == 1 and len(groups) > 1:
            notes.append(f'{label} has one seed: its intervals know nothing of how much another seed would differ')
        for seed, count in Counter(own).items():
            if count > 1:
                notes.append(f'{label} has seed {seed} {count} times: these runs count as one')
    return Comparison(rows, int(common[0].size), notes)


def _common_prompts(results: list[HeldOutResults]) -> tuple[list[str], list[np.ndarray]]:
    """What to say about the prompts, and of each result the places of those that all have."""
    places = []
    for result in results:
        seen: Counter[str] = Counter()
        found = {}
        for i, prompt in enumerate(result.prompts):
            found[prompt, seen[prompt]] = i
            seen[prompt] += 1
        places.append(found)
    common = [key for key in places[0] if all(key in found for found in places)]
    indices = [np.array([found[key] for key in common], dtype=int) for found in places]
    notes = []
    if not common:
        notes.append('the runs have no held-out prompt in common: no score is compared')
    elif any(found.keys() != places[0].keys() for found in places):
        counts = ', '.join(str(n) for n in sorted({len(found) for found in places}))
        notes.append(
            f'the runs have different held-out prompts ({counts}): only the {len(common)} that all have are compared'
        )
    settings = [result.about.get('evaluation') or {} for result in results]
    changed = sorted({k for s in settings for k in s if k != 'prompts' and s[k] != settings[0].get(k)})
    if changed:
        notes.append(
            f'evaluation.{" and evaluation.".join(changed)} differ between the runs, which moves scores by itself'
        )
    for key, what in (('samples_per_prompt', 'samples per prompt'), ('weights', 'weights')):
        values = dict.fromkeys(str(result.about[key]) for result in results if key in result.about)
        if len(values) > 1:
            notes.append(f'the runs were tested with different {what} ({", ".join(values)})')
    moved = common and any((index != indices[0]).any() for index in indices)
    if moved or 'seed' in changed:
        notes.append('the noise of a prompt differs between the runs: pairs are of equal prompts, not of equal seeds')
    return notes, indices


def _measures(result: HeldOutResults) -> list[str]:
    return [
        column if column.partition('/')[0] in SINGLE else column.partition('/')[2]
        for column in result.columns
        if not column.startswith('before/')
    ]


def _stack(group: list[tuple[HeldOutResults, np.ndarray]], seeds: Sequence[int], column: str) -> np.ndarray | None:
    """``(S, N)`` of the different seeds of a group, in their order, where each run has the column.

    Runs of one seed count as one, their mean.
    """
    if any(column not in result.columns for result, _ in group):
        return None
    found: dict[int, list[np.ndarray]] = defaultdict(list)
    for seed, (result, index) in zip(seeds, group, strict=True):
        found[seed].append(result.columns[column][index])
    return np.stack([np.mean(runs, axis=0) for runs in found.values()])


def _left_out(measure: str, values: list[np.ndarray | None], labels: list[str]) -> list[str]:
    """What to say of prompts that have no score in some run."""
    notes = []
    for label, of in zip(labels, values, strict=True):
        if of is not None and (missing := int((~np.isfinite(of).all(axis=0)).sum())):
            some = f'{missing} of {of.shape[1]} prompts have no {measure} in some run'
            notes.append(f'{label}: {some}; they are left out, also of differences')
    return notes


def _mean(values: np.ndarray | None, seeds: Sequence[int]) -> Interval | None:
    if values is None or not (keep := np.isfinite(values).all(axis=0)).any():
        return None
    found, of = mean_interval(values), _by_seed(values[:, keep], seeds)
    if len(of) < 2:
        return found
    student = seed_interval(np.array(list(of.values())))
    return widened(found, (student.high - student.low) / 2)


def _difference(
    first: np.ndarray, second: np.ndarray, first_seeds: Sequence[int], second_seeds: Sequence[int]
) -> Interval | None:
    both = np.isfinite(first).all(axis=0) & np.isfinite(second).all(axis=0)
    if not both.any():
        return None
    reach = seed_reach(_by_seed(first[:, both], first_seeds), _by_seed(second[:, both], second_seeds))
    return widened(paired_difference(first, second), reach)


def _by_seed(values: np.ndarray, seeds: Sequence[int]) -> dict[int, float]:
    """Seed -> mean over prompts."""
    return {seed: float(of.mean()) for seed, of in zip(dict.fromkeys(seeds), values, strict=True)}
