"""Tables and figures of the study, from its CSV alone."""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tools.studies.variants import SECTIONS, VARIANTS
from tools.studies.verdicts import DEFAULTS, VERDICTS, verdict_table
from vipo.comparison.charts import COLORS
from vipo.statistics import Interval, seed_difference, seed_interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BEGIN, END = '<!-- study: begin -->', '<!-- study: end -->'
#: On a page that has a mark of this name, what goes between it and its end, and the headings.
VERDICT_TABLES = {'verdicts': (VERDICTS, 'question', 'answer'), 'defaults': (DEFAULTS, 'default', 'why')}
#: Measure -> its heading, in the order of the columns.
MEASURES = {
    'reward': 'trained reward',
    'judge': 'judge',
    'judge/shape': 'shape',
    'judge/ground': 'ground off',
    'pick': 'second model',
    'change/background': 'background change',
    'diversity/pixels': 'diversity',
}
RED = {
    'reward': 'redness',
    'judge': 'judge',
    'judge/shape': 'shape',
    'judge/color': 'colour',
    'judge/count': 'count',
    'judge/ground': 'ground off',
    'hps': 'preference',
    'change/background': 'background change',
}
FIT = {
    'reward': 'objects alone',
    'judge': 'judge',
    'judge/shape': 'shape',
    'judge/ground': 'ground off',
    'hps': 'preference',
    'pick': 'second model',
    'change/background': 'background change',
}
CLIP = {
    'log/clipped_fraction': 'clipped',
    'log/clipped_inside': 'clipped, map high',
    'log/clipped_outside': 'clipped, map low',
}
#: Sections whose runs are trained on another reward -> their columns.
_OTHER_REWARDS = {'d': RED, 'h': FIT}
#: What the runs of a section are compared with, a table for each.
REFERENCES = {
    'a': ('grpo', 'vipo'),
    'b': ('vipo',),
    'd': ('red_grpo',),
    'e': ('grpo', 'oracle_background'),
    'f': ('vipo', 'grpo'),
    'g': ('grpo', 'grpo_lr_half'),
    'h': ('fit_grpo',),
}
#: Lines that a section borrows from others.
BORROWED = {'b': ('vipo',), 'e': ('grpo', 'vipo'), 'f': ('grpo', 'vipo'), 'g': ('grpo', 'vipo')}


#: Drawn in the overview by name, each with a colour of its own; all others are grey.
OVERVIEW = ('grpo', 'vipo', 'vipo_attribution', 'oracle', 'oracle_background', 'oracle_random')
#: Joined in the overview, by growing learning rate; one of them is of :data:`OVERVIEW` and lends its colour.
_RATES = (('grpo_lr_half', 'grpo', 'grpo_lr_x2', 'grpo_lr_x4'), ('vipo', 'vipo_lr_x2', 'vipo_lr_x4'))
#: Of fewer seeds an interval would cover the rest of the overview.
_ENOUGH = 3


class Results:
    """``results.csv``: change of each measure, by variant and seed.

    Raises:
        ValueError: the file is missing, or is no table of results.
    """

    def __init__(self, path: Path) -> None:
        self._changes: dict[tuple[str, str], dict[int, Interval]] = defaultdict(dict)
        try:
            with open(path, newline='', encoding='utf-8') as file:
                for row in csv.DictReader(file):
                    numbers = (float(row[key]) for key in ('difference', 'low', 'high'))
                    self._changes[row['variant'], row['measure']][int(row['seed'])] = Interval(*numbers)
        except (OSError, KeyError, ValueError) as error:
            raise ValueError(f'{path} is no table of results ({error}); tools/study.py writes one') from error

    def has(self, variant: str) -> bool:
        return any(name == variant for name, _ in self._changes)

    def seeds(self, variant: str, measure: str | None = None) -> list[int]:
        """Of a variant, or of one measure of it, which may have been added when some runs had been tested."""
        found = (of for (name, what), of in self._changes.items() if name == variant and measure in (None, what))
        return sorted({seed for of in found for seed in of})

    def change(self, variant: str, measure: str) -> Interval | None:
        """Mean over seeds with its interval over seeds; of a single one, its own over prompts."""
        of = self._changes.get((variant, measure), {})
        if len(of) == 1:
            return next(iter(of.values()))
        return seed_interval(np.array(list(self._values(variant, measure).values()))) if of else None

    def against(self, variant: str, measure: str, reference: str) -> Interval | None:
        """Difference of the changes, seed by seed; None of itself, or where less than two seeds are common to both."""
        if variant == reference:
            return None
        sides = [self._values(name, measure) for name in (reference, variant)]
        return seed_difference(*sides) if len(sides[0].keys() & sides[1].keys()) > 1 else None

    def _values(self, variant: str, measure: str) -> dict[int, float]:
        return {seed: x.value for seed, x in self._changes.get((variant, measure), {}).items()}


#: Variant -> what the front page calls it, and its columns.
FRONT = {
    'grpo': 'GRPO, one advantage for the whole picture',
    'vipo': 'ViPO as shipped',
    'oracle': 'pressure on the named objects alone',
    'oracle_background': 'pressure on all but the objects',
}
_FRONT_MEASURES = ('reward', 'judge', 'judge/shape', 'change/background')


def write_report(folder: Path, front: Path | None = None) -> tuple[Path, list[Path]]:
    """Write the figures, and the tables into ``README.md``; what stands outside of their two marks is kept.

    Args:
        front: a page that gets a short table between its own marks.

    Raises:
        ValueError: the CSV or one of the marks is missing.
    """
    results = Results(folder / 'results.csv')
    lines, figures = ['', _extent(results), ''], []
    if any(results.has(name) for name in OVERVIEW):
        figures.append(_overview(results, folder / 'overview.png'))
        lines += [f'![What the trained reward gains, and what else changes]({figures[-1].name})', '']
    for section in _shown(results):
        title, names, columns = SECTIONS[section], names_of(section, results), columns_of(section)
        lines += [f'### {section}. {title[0].upper()}{title[1:]}', '', *_table(results, names, columns), '']
        for reference in REFERENCES[section]:
            lines += _comparison(results, names, reference, columns)
        figures.append(_forest(results, names, section, folder / f'section_{section}.png'))
        lines += [f'![{title}]({figures[-1].name})', '']
        if section == 'd' and (folder / 'redness.csv').exists():
            figures.append(_redness(folder / 'redness.csv', folder / 'redness.png'))
            lines += ['![Redness and what it costs, by iteration](redness.png)', '']
    page = folder / 'README.md'
    replace_between(page, lines, '# The study')
    for name, content in VERDICT_TABLES.items():
        marks = f'<!-- {name}: begin -->', f'<!-- {name}: end -->'
        if marks[0] in page.read_text(encoding='utf-8'):
            replace_between(page, ['', *verdict_table(results, *content), ''], '# The study', marks)
    if front is not None:
        columns = {measure: MEASURES[measure] for measure in _FRONT_MEASURES}
        names = [name for name in FRONT if results.has(name)]
        replace_between(front, ['', *_table(results, names, columns, FRONT), ''], '# ViPO')
    return page, figures


def _extent(results: Results) -> str:
    """How much was run, and how many differences the tables hold, so that a reader can allow for their number."""
    jobs, compared = sum(len(results.seeds(v.name)) for v in VARIANTS), []
    for section in _shown(results):
        for reference in REFERENCES[section]:
            for name in names_of(section, results):
                compared += [results.against(name, measure, reference) for measure in columns_of(section)]
    found = [x for x in compared if x is not None]
    sure = sum(x.low > 0 or x.high < 0 for x in found)
    words = f'Of {len(VARIANTS)} variants {jobs} jobs are done. The tables hold {len(found)} differences; {sure} of '
    return f'{words}their intervals exclude zero, where {len(found) / 20:.0f} would if nothing differed from anything.'


def replace_between(page: Path, lines: Sequence[str], title: str, marks: tuple[str, str] = (BEGIN, END)) -> None:
    """Put lines between the two marks of a page, which is begun where there is none.

    Raises:
        ValueError: one of the marks is missing.
    """
    begin, end = marks
    text = page.read_text(encoding='utf-8') if page.exists() else f'{title}\n\n{begin}\n{end}\n'
    if text.count(begin) != 1 or text.count(end) != 1:
        raise ValueError(f'{page} must hold {begin} and {end} once each: the tables go between them')
    before, after = text.split(begin)[0], text.split(end)[1]
    page.write_text(before + '\n'.join([begin, *lines, end]) + after, encoding='utf-8')


def _shown(results: Results) -> list[str]:
    """Sections that have a variant of their own with results."""
    return [s for s in SECTIONS if any(results.has(v.name) for v in VARIANTS if v.section == s)]


def names_of(section: str, results: Results) -> list[str]:
    """Variants of a section that have results, the borrowed ones first."""
    own = [variant.name for variant in VARIANTS if variant.section == section]
    return [name for name in (*BORROWED.get(section, ()), *own) if results.has(name)]


def columns_of(section: str) -> dict[str, str]:
    if section in _OTHER_REWARDS:
        return _OTHER_REWARDS[section]
    return {**MEASURES, **CLIP} if section == 'f' else MEASURES


def _table(
    results: Results, names: Sequence[str], columns: dict[str, str], titles: dict[str, str] | None = None
) -> list[str]:
    lines = [f'| variant | seeds | {" | ".join(columns.values())} |', f'| --- | --- |{" --- |" * len(columns)}']
    for name in names:
        seeds = results.seeds(name)
        cells = []
        for measure in columns:
            cell, count = _cell(results.change(name, measure), _sign(measure)), len(results.seeds(name, measure))
            cells.append(f'{cell}, {count} of {len(seeds)} seeds' if 0 < count < len(seeds) else cell)
        title = f'`{name}`' if titles is None else f'{titles[name]} (`{name}`)'
        lines.append(f'| {title} | {len(seeds)} | {" | ".join(cells)} |')
    return lines


def _comparison(results: Results, names: Sequence[str], reference: str, columns: dict[str, str]) -> list[str]:
    """Differences from the reference, where there are seeds enough for an interval."""
    lines = []
    for name in names:
        found = [results.against(name, measure, reference) for measure in columns]
        if any(found):
            lines.append(f'| `{name}` | {" | ".join(_cell(x, "+") for x in found)} |')
    if not lines:
        return []
    head = [f'Less `{reference}`:', '', f'| variant | {" | ".join(columns.values())} |']
    return [*head, f'| --- |{" --- |" * len(columns)}', *lines, '']


def _sign(measure: str) -> str:
    return '' if measure.startswith(('change/', 'log/', 'distance/')) else '+'


def _cell(interval: Interval | None, sign: str) -> str:
    return '' if interval is None else interval.describe(sign)


def _forest(results: Results, names: Sequence[str], section: str, path: Path) -> Path:
    """A panel for each measure, a line for each variant; below, the same less each reference, seed by seed."""
    columns, title = columns_of(section), SECTIONS[section]
    rows: dict[str, Callable[..., Interval | None]] = {'change by training': results.change}
    for reference in REFERENCES[section]:
        if any(results.against(name, measure, reference) for name in names for measure in columns):
            rows[f'less {reference}'] = partial(results.against, reference=reference)
    figure, panels = _figure(
        2.2 * len(columns) + 1.6, (0.9 + 0.28 * len(names)) * len(rows) + 0.3, len(rows), len(columns)
    )
    for (row, change), line in zip(rows.items(), panels, strict=True):
        for axes, (measure, heading) in zip(line, columns.items(), strict=True):
            signed = change != results.change or _sign(measure) == '+'
            single = [change == results.change and len(results.seeds(name, measure)) == 1 for name in names]
            _points(axes, [change(name, measure) for name in names], signed, single)
            axes.set_visible(any(change(name, measure) for name in names))
            axes.set_yticks(range(len(names)), names if axes is line[0] else [''] * len(names))
            axes.set_title(heading if row == 'change by training' else row, fontsize=10)
    legend = 'change by training, 95 % intervals over seeds; orange excludes 0; hollow: one seed'
    figure.suptitle(f'{title[0].upper()}{title[1:]} ({legend})', fontsize=10)
    figure.savefig(path, dpi=110, metadata={'Software': None})
    return path


def _points(axes: Axes, intervals: Sequence[Interval | None], signed: bool, single: Sequence[bool]) -> None:
    """Means and intervals, one below the other.

    Args:
        signed: whether it can be below zero, so that an interval above it says something.
        single: those of one seed, which have no interval over seeds and are drawn hollow.
    """
    away = _outlier(intervals)

    def color_of(x: Interval, hollow: bool) -> str:
        return COLORS[1] if signed and not hollow and (x.low > 0 or x.high < 0) else COLORS[0]

    for place, (x, hollow) in enumerate(zip(intervals, single, strict=True)):
        if x is None or place == away:
            continue
        color = color_of(x, hollow)
        if not hollow:
            axes.plot([x.low, x.high], [place, place], color=color, lw=1.6)
        axes.plot(x.value, place, 'o', color=color, ms=5, mfc='white' if hollow else color)
    if away is not None:
        beyond = intervals[away]
        left = beyond.value < np.median([x.value for x in intervals if x is not None])
        edge, side = (0.0, 'left') if left else (1.0, 'right')
        words = f'   {beyond.value:+.2g}' if left else f'{beyond.value:+.2g}   '
        axes.text(edge, away, words, transform=axes.get_yaxis_transform(), ha=side, va='center', fontsize=8)
        arrow = {'color': color_of(beyond, single[away]), 'transform': axes.get_yaxis_transform(), 'clip_on': False}
        axes.plot(edge, away, '<' if left else '>', **arrow)
    axes.set_ylim(len(intervals) - 0.5, -0.5)
    axes.axvline(0, color='#999999', lw=0.8)
    axes.tick_params(labelsize=8)
    axes.locator_params(axis='x', nbins=4)
    axes.grid(axis='x', alpha=0.3)


def _outlier(intervals: Sequence[Interval | None], factor: float = 4.0) -> int | None:
    """The line without which the others need less than a ``factor``-th of the width; None where there is none."""

    def width(left_out: int | None) -> float:
        kept = [x for i, x in enumerate(intervals) if x is not None and i != left_out]
        return max(x.high for x in kept) - min(x.low for x in kept) if kept else 0.0

    told = [i for i, x in enumerate(intervals) if x is not None]
    if len(told) < 4:
        return None
    found = min(told, key=width)
    return found if width(None) > factor * width(found) else None


def _overview(results: Results, path: Path) -> Path:
    """What each variant gains in the trained reward, across; the judge and the background, upwards."""
    below = {'judge': 'judge, change', 'change/background': 'background, change of the pixels'}
    figure, panels = _figure(5.2 * len(below), 4.2, 1, len(below))
    names = [v.name for v in VARIANTS if v.section not in _OTHER_REWARDS and results.has(v.name)]
    for axes, (measure, heading) in zip(panels[0], below.items(), strict=True):
        points = {name: [results.change(name, 'reward'), results.change(name, measure)] for name in names}
        points = {name: xy for name, xy in points.items() if None not in xy}
        # One that is far from all others would leave no room for them.
        far = {list(points)[i] for axis in (0, 1) if (i := _outlier([xy[axis] for xy in points.values()])) is not None}
        if far:
            said = ', '.join(f'{n}: {points[n][0].value:+.2g}, {points[n][1].value:+.2g}' for n in sorted(far))
            axes.text(0.02, 0.02, f'outside: {said}', transform=axes.transAxes, fontsize=8)
        for series in _RATES:
            places = [[x.value for x in points[name]] for name in series if name in points]
            if len(places) > 1:
                color = COLORS[next(i for i, name in enumerate(OVERVIEW) if name in series)]
                factors = f'{series[0]} to {series[-1]}'
                axes.plot(*zip(*places, strict=True), '--', color=color, lw=1.2, label=factors)
        for name in sorted(points.keys() - far, key=lambda name: (name in OVERVIEW, names.index(name))):
            x, y = points[name]
            color = COLORS[OVERVIEW.index(name) % len(COLORS)] if name in OVERVIEW else '#bbbbbb'
            if len(results.seeds(name)) >= _ENOUGH:
                lines = {'color': color, 'lw': 1.2 if name in OVERVIEW else 0.5}
                axes.plot([x.low, x.high], [y.value, y.value], **lines)
                axes.plot([x.value, x.value], [y.low, y.high], **lines)
            label = name if name in OVERVIEW else None
            axes.plot(x.value, y.value, 'o', color=color, ms=6 if label else 4, label=label)
        _finish(axes, 'trained reward, change', heading)
        axes.axhline(0, color='#999999', lw=0.8)
    panels[0][-1].legend(fontsize=8)
    figure.savefig(path, dpi=110, metadata={'Software': None})
    return path


def _redness(source: Path, path: Path) -> Path:
    """Redness and the judge's parts by iteration, and the judge by redness: the price of the same hacking."""
    curves: dict[str, dict[str, dict[int, list[float]]]] = defaultdict(lambda: defaultdict(lambda: defaultdict(list)))
    with open(source, newline='', encoding='utf-8') as file:
        for row in csv.DictReader(file):
            curves[row['variant']][row['measure']][int(row['iteration'])].append(float(row['value']))
    parts = {'reward': 'redness', 'judge/shape': 'shape', 'judge/color': 'colour', 'judge/count': 'count'}
    figure, panels = _figure(3 * (len(parts) + 1), 3.2, 1, len(parts) + 1)
    for color, (variant, measures) in zip(COLORS * len(curves), curves.items(), strict=False):
        for axes, measure in zip(panels[0], parts, strict=False):
            x = sorted(measures[measure])
            values = [measures[measure][i] for i in x]
            axes.fill_between(x, [min(v) for v in values], [max(v) for v in values], color=color, alpha=0.18, lw=0)
            axes.plot(x, [np.mean(v) for v in values], 'o-', color=color, ms=3, lw=1.6, label=variant)
        steps = sorted(measures['judge'])
        red, judge = ([np.mean(measures[name][i]) for i in steps] for name in ('reward', 'judge'))
        panels[0][-1].plot(red, judge, 'o-', color=color, ms=3, lw=1.6, label=variant)
    for axes, heading in zip(panels[0], parts.values(), strict=False):
        _finish(axes, 'policy iteration', heading)
    _finish(panels[0][-1], 'redness', 'judge')
    panels[0][0].legend(fontsize=8)
    figure.savefig(path, dpi=110, metadata={'Software': None})
    return path


def _finish(axes: Axes, below: str, title: str) -> None:
    axes.set_xlabel(below, fontsize=9)
    axes.set_title(title, fontsize=10)
    axes.tick_params(labelsize=8)
    axes.grid(alpha=0.3)


def _figure(width: float, height: float, rows: int, columns: int) -> tuple[Figure, np.ndarray]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout='constrained')
    FigureCanvasAgg(figure)
    return figure, figure.subplots(rows, columns, squeeze=False)
