"""Curves of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np


def reward_curve(
    history: list[dict[str, Any]], evaluations: dict[int, dict[str, float]], path: Path, title: str
) -> None:
    """Reward of the rollouts with its spread, held-out evaluations, and how hard the clip binds.

    Args:
        history: one record per iteration with ``iteration``, ``reward``, ``reward_std``, ``clipped_fraction``.
            A run that was resumed at its end has none.
        evaluations: iterations done -> means by reward name; the trained reward is ``'reward'``.
        path: of the PNG.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    x = np.array([h['iteration'] for h in history])
    reward = np.array([h['reward'] for h in history])
    spread = np.array([h['reward_std'] for h in history])
    figure = Figure(figsize=(8, 6), layout='constrained')
    FigureCanvasAgg(figure)
    top, bottom = figure.subplots(2, 1, height_ratios=(3, 1), sharex=True)
    top.fill_between(x, reward - spread, reward + spread, color='tab:blue', alpha=0.12, lw=0, label='rollout, +- 1 std')
    top.plot(x, reward, color='tab:blue', alpha=0.45, lw=1, label='rollout mean')
    window = max(1, min(10, len(x) // 4))
    if window > 1:
        smooth = np.convolve(reward, np.ones(window) / window, mode='valid')
        top.plot(x[window - 1 :], smooth, color='tab:blue', lw=2, label=f'mean of {window} iterations')
    steps = sorted(evaluations)
    if steps:
        values = [evaluations[s]['reward'] for s in steps]
        top.plot(steps, values, 'o-', color='tab:orange', label='held-out, averaged weights, no exploration')
    top.set_ylabel('reward')
    top.set_title(title, fontsize=11)
    top.legend(fontsize=8)
    top.grid(alpha=0.3)
    clipped = [h.get('clipped_fraction', np.nan) for h in history]
    bottom.plot(x, clipped, color='tab:red', lw=1, label='clipped fraction')
    bottom.set_ylim(0, None)
    bottom.set_xlabel('policy iteration')
    bottom.xaxis.get_major_locator().set_params(integer=True)
    bottom.legend(fontsize=8)
    bottom.grid(alpha=0.3)
    figure.savefig(path, dpi=120)
