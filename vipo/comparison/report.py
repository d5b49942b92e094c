"""One page that says how runs compare, in one file that needs nothing else."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from vipo.comparison import charts
from vipo.comparison.gallery import build_gallery, data_uri, write_sheet
from vipo.comparison.groups import Group, differences
from vipo.comparison.runs import Run
from vipo.comparison.tables import Comparison, Row, compare_results
from vipo.engine.checkpoint import write_atomically
from vipo.engine.results import HeldOutResults
from vipo.statistics import Interval, fixed

#: Logged quantities of the update that get a chart where the runs have them.
_LOGGED = ('clipped_fraction', 'kl')


def write_report(groups: Sequence[Group], folder: Path, command: str, pictures: int = 12) -> list[Path]:
    """Write ``report.html`` and its charts and gallery as PNG.

    Args:
        groups: the first is what the others are compared with.
        folder: made if it does not exist.
        command: that gave this report, for its last lines.
        pictures: prompts in the gallery.

    Returns:
        The files, the page first.
    """
    folder.mkdir(parents=True, exist_ok=True)
    gallery = build_gallery(groups, pictures)
    if gallery.rows:
        write_sheet(gallery, folder / 'gallery.png')
    figures = _figures(groups, folder)
    environment = Environment(
        loader=PackageLoader('vipo.comparison'),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {'uri': data_uri, 'number': number}
    environment.globals |= {'interval': interval, 'places': places, 'isfinite': math.isfinite}
    page = environment.get_template('report.html').render(
        groups=groups,
        colors=[charts.COLORS[i % len(charts.COLORS)] for i in range(len(groups))],
        notes=[(run.folder.name, note) for group in groups for run in group.runs for note in run.notes],
        evaluated=_compared(groups, lambda run: run.held_out),
        tested=_compared(groups, lambda run: run.tested),
        some_tested=any(run.tested for group in groups for run in group.runs),
        figures=figures,
        gallery=gallery,
        gallery_colors=[charts.COLORS[groups.index(group) % len(charts.COLORS)] for group in gallery.groups],
        cost=[_cost(group) for group in groups],
        differences=differences(list(groups)),
        command=command,
        date=f'{datetime.now():%d %B %Y, %H:%M}',
    )
    path = folder / 'report.html'
    write_atomically(path, lambda temporary: temporary.write_text(page, encoding='utf-8'))
    names = [*(f'{name}.png' for name in figures), *(['gallery.png'] if gallery.rows else [])]
    return [path, *(folder / name for name in names)]


def _figures(groups: Sequence[Group], folder: Path) -> dict[str, Markup]:
    """Name -> SVG, in the order of the page."""
    begun = [group for group in groups if any(run.history for run in group.runs)]
    if not begun:
        return {}
    found = {'rollouts': charts.reward_chart(begun, folder / 'rollouts')}
    scores = dict.fromkeys(
        name for g in begun for run in g.runs for e in run.evaluations.values() for name in e.scores if '/' not in name
    )
    for score in scores:
        found[f'held_out_{score}'] = charts.held_out_chart(begun, score, folder / f'held_out_{score}')
    for key in _LOGGED:
        if any(key in record for group in begun for run in group.runs for record in run.history):
            found[key] = charts.log_chart(begun, key, folder / key)
    found['time'] = charts.time_chart(begun, folder / 'time')
    return {name: Markup(svg) for name, svg in found.items()}  # written by matplotlib, which escapes


def _compared(
    groups: Sequence[Group], results: Callable[[Run], HeldOutResults | None]
) -> tuple[list[Group], Comparison] | None:
    """The groups that have results, and how they compare; None where no group has any."""
    found = [[(run.seed, of) for run in group.runs if (of := results(run)) is not None] for group in groups]
    kept = [(group, of) for group, of in zip(groups, found, strict=True) if of]
    if not kept:
        return None
    labels = [group.label for group, _ in kept]
    by_group = [tuple(zip(*of, strict=True)) for _, of in kept]
    comparison = compare_results(labels, [list(of) for _, of in by_group], [list(seeds) for seeds, _ in by_group])
    for group, found in kept:
        if len(found) < len(group.runs):
            comparison.notes.append(f'{group.label}: {len(found)} of {len(group.runs)} runs have these results')
    if missing := [group.label for group in groups if group.label not in labels]:
        comparison.notes.append(f'{", ".join(missing)}: no results yet')
    return [group for group, _ in kept], comparison


def _cost(group: Group) -> dict[str, float]:
    """Median seconds of an iteration, wall-clock minutes of a run, and the highest memory; NaN where not recorded."""
    records = [record for run in group.runs for record in run.history]
    minutes = [run.history[-1]['wall_seconds'] / 60 for run in group.runs if run.history]
    return {
        'seconds': charts.phase_seconds(group, 'total') if records else math.nan,
        'minutes': float(np.mean(minutes)) if minutes else math.nan,
        'memory': max((record.get('memory/peak_mib', math.nan) for record in records), default=math.nan),
    }


def number(value: float, decimals: int = 3, sign: bool = False) -> str:
    """As :func:`vipo.statistics.fixed`, with a real minus."""
    return fixed(value, decimals, '+' if sign else '').replace('-', '\N{MINUS SIGN}')


def interval(x: Interval, decimals: int, sign: bool = False) -> Markup:
    """A value and its interval."""
    low, high = number(x.low, decimals, sign), number(x.high, decimals, sign)
    return Markup('<b>{}</b> <small>{} to {}</small>').format(number(x.value, decimals, sign), low, high)


def places(x: Interval, row: Row, width: int) -> dict[str, float]:
    """Where low end, value and high end lie on a line of this width, zero in its middle; a row has one scale."""
    reach = row.reach * 1.05 or 1.0
    return {name: width / 2 * (1 + getattr(x, name) / reach) for name in ('low', 'value', 'high')}
