"""Charts of a comparison: one figure drawn once, as SVG for the page and as PNG for elsewhere."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from vipo.comparison.groups import Group
from vipo.comparison.runs import Run

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: Of the groups, in their order; told apart by people who see colours otherwise, on white and on black.
COLORS = ('#2f74c8', '#d9622b', '#2a9d6f', '#a95aa1', '#b98a10', '#4a9cba', '#c24d62', '#808080')
#: Of everything that is no data; in the page it takes the colour of the text.
_INK = '#5b5b61'
#: Most groups that a small chart names; the large one names all.
_IN_SMALL = 4
PHASES = ('encode', 'rollout', 'decode', 'reward', 'map', 'old log-probs', 'update', 'rest')


def reward_chart(groups: Sequence[Group], stem: Path) -> str:
    """Reward of the rollouts by iteration, smoothed; the band reaches from the lowest to the highest seed."""
    figure, axes = _figure(9.6, 3.4)
    for color, group in zip(COLORS * len(groups), groups, strict=False):
        x, curves = _curves(group.runs, 'reward')
        window = max(1, min(10, len(x) // 4))
        smooth = np.stack([np.convolve(c, np.ones(window) / window, mode='valid') for c in curves])
        _band(axes, x[window - 1 :], smooth, color, group.label)
        if window > 1:
            done = np.isfinite(curves).all(0)
            axes.plot(x[done], curves[:, done].mean(0), color=color, alpha=0.3, lw=0.8)
    _finish(axes, 'policy iteration', 'reward of the rollouts')
    return _write(figure, stem, 'Reward of the rollouts by iteration, one line a group')


def held_out_chart(groups: Sequence[Group], score: str, stem: Path) -> str:
    """Mean of one score on the held-out prompts, after every evaluation."""
    figure, axes = _figure(4.7, 2.9)
    for color, group in zip(COLORS * len(groups), groups, strict=False):
        means = [{n: e.means().get(score) for n, e in run.evaluations.items()} for run in group.runs]
        x = sorted({n for m in means for n, value in m.items() if value is not None})
        if x:
            values = np.array([[np.nan if m.get(n) is None else m[n] for n in x] for m in means])
            _band(axes, np.array(x), values, color, group.label, 'o-')
    _finish(axes, 'policy iteration', f'held-out {score}', legend=len(groups) <= _IN_SMALL)
    return _write(figure, stem, f'Held-out {score} by iteration, one line a group')


def log_chart(groups: Sequence[Group], key: str, stem: Path) -> str:
    """A logged quantity of the update by iteration."""
    figure, axes = _figure(4.7, 2.9)
    for color, group in zip(COLORS * len(groups), groups, strict=False):
        if any(run.history for run in group.runs) and all(key in r for run in group.runs for r in run.history):
            _band(axes, *_curves(group.runs, key), color, group.label)
    axes.set_ylim(0, None)
    _finish(axes, 'policy iteration', key.replace('_', ' '), legend=len(groups) <= _IN_SMALL)
    return _write(figure, stem, f'{key} by iteration, one line a group')


def time_chart(groups: Sequence[Group], stem: Path) -> str:
    """Median seconds of an iteration, by phase."""
    from matplotlib import colormaps

    figure, axes = _figure(9.6, 0.9 + 0.45 * len(groups))
    shades = colormaps['viridis'](np.linspace(0.15, 0.92, len(PHASES)))
    for i, group in enumerate(groups):
        left = 0.0
        for phase, shade in zip(PHASES, shades, strict=True):
            seconds = phase_seconds(group, phase)
            name = phase if i == 0 else f'_{phase}'
            axes.barh(i, seconds, left=left, color=shade, height=0.6, label=name)
            left += seconds
    axes.set_yticks(range(len(groups)), [group.label for group in groups])
    axes.invert_yaxis()
    _finish(axes, 'seconds per iteration (median)', '', legend=False)
    axes.legend(ncols=len(PHASES), fontsize=8, frameon=False, loc='lower left', bbox_to_anchor=(0, 1), labelcolor=_INK)
    return _write(figure, stem, 'Seconds per iteration by phase, one bar a group')


def phase_seconds(group: Group, phase: str) -> float:
    """Median over iterations and runs; 0 for a phase that there is none of."""
    values = [record.get(f'seconds/{phase}', 0.0) for run in group.runs for record in run.history]
    return float(np.median(values)) if values else 0.0


def _curves(runs: Sequence[Run], key: str) -> tuple[np.ndarray, np.ndarray]:
    """Iterations that any run has done ``(n,)``, and the values of each run ``(S, n)``, NaN after its last one."""
    begun = [run.history for run in runs if run.history]
    longest = max(begun, key=len)
    values = np.full((len(begun), len(longest)), np.nan)
    for row, history in zip(values, begun, strict=True):
        row[: len(history)] = [record[key] for record in history]
    return np.array([record['iteration'] for record in longest]), values


def _band(axes: Axes, x: np.ndarray, values: np.ndarray, color: str, label: str, style: str = '-') -> None:
    """The mean and the range of all runs; dotted, the mean of those that go on when others have ended.

    Args:
        values: ``(S, n)``, NaN where a run has none. A place that is missing from a run which goes on is left out, so
            that a mean is never of other runs than its neighbours.
    """
    there = np.isfinite(values)
    goes_on = np.maximum.accumulate(there[:, ::-1], axis=1)[:, ::-1]
    whole, left = there.all(0), (there == goes_on).all(0) & there.any(0)
    if len(values) > 1:
        low, high = values[:, whole].min(0), values[:, whole].max(0)
        axes.fill_between(x[whole], low, high, color=color, alpha=0.18, lw=0)
    axes.plot(x[whole], values[:, whole].mean(0), style, color=color, lw=1.8, ms=4, label=label)
    for runs in np.unique(goes_on[:, left & ~whole], axis=1).T:
        places = left & (goes_on == runs[:, None]).all(0)
        axes.plot(x[places], values[runs][:, places].mean(0), ':', color=color, lw=1.4)


def _figure(width: float, height: float) -> tuple[Figure, Axes]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout='constrained')
    FigureCanvasAgg(figure)
    return figure, figure.subplots()


def _finish(axes: Axes, x: str, y: str, legend: bool = True) -> None:
    axes.set_xlabel(x, color=_INK, fontsize=9)
    axes.set_ylabel(y, color=_INK, fontsize=9)
    axes.tick_params(colors=_INK, labelsize=8)
    axes.grid(color=_INK, alpha=0.15, lw=0.6)
    axes.set_axisbelow(True)
    for name, spine in axes.spines.items():
        spine.set_visible(name in ('left', 'bottom'))
        spine.set(color=_INK, alpha=0.5)
    if x == 'policy iteration':
        axes.xaxis.get_major_locator().set_params(integer=True)
    if legend and axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize=8, frameon=False, labelcolor=_INK)


def _write(figure: Figure, stem: Path, title: str) -> str:
    """Write ``stem.png`` and return the SVG, without a background and with the page's own ink and font."""
    import matplotlib

    figure.savefig(stem.with_suffix('.png'), dpi=144, facecolor='white')
    buffer = io.StringIO()
    # Text stays text; the salt makes equal charts equal files and the names of clip paths each chart's own.
    with matplotlib.rc_context({'svg.fonttype': 'none', 'svg.hashsalt': stem.name}):
        figure.savefig(buffer, format='svg', transparent=True, metadata={'Date': None, 'Title': title})
    svg = buffer.getvalue()
    svg = svg[svg.index('<svg') :].replace(_INK, 'currentColor').replace('<svg ', '<svg role="img" ', 1)
    svg = re.sub(r'<metadata>.*?</metadata>', '', svg, flags=re.DOTALL)
    # Names of axes and ticks are the same in every chart; those of clip paths and markers are hashes.
    return re.sub(r' id="(?![mp][0-9a-f]{10}")[^"]*"', '', svg)
