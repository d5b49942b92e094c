"""Paired comparison of two policies on the same prompts and seeds."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Gain:
    """``(mean after - mean before) / std before`` with its paired bootstrap 95 % interval."""

    value: float
    low: float
    high: float


def paired_gain(before: np.ndarray, after: np.ndarray, resamples: int = 10_000, seed: int = 0) -> Gain:
    """Gain in units of the per-sample spread before training.

    Pairs are resampled with replacement, and both the mean difference and the spread are computed anew each time.

    Args:
        before, after: ``(N,)`` scores of the same prompts and seeds; pairs with a NaN are left out.

    Raises:
        ValueError: fewer than two pairs, or no spread to measure by.
    """
    keep = np.isfinite(before) & np.isfinite(after)
    before, after = before[keep].astype(np.float64), after[keep].astype(np.float64)
    # The std of equal numbers can round to 1e-17; their range cannot.
    if len(before) < 2 or np.ptp(before) == 0:
        raise ValueError(f'a gain needs at least two pairs with some spread, got {len(before)}')
    index = np.random.default_rng(seed).integers(len(before), size=(resamples, len(before)))
    drawn = before[index]
    spread = np.where(np.ptp(drawn, axis=1) > 0, drawn.std(axis=1), np.nan)
    gains = (after - before)[index].mean(axis=1) / spread
    low, high = np.nanpercentile(gains, [2.5, 97.5])
    return Gain((after - before).mean() / before.std(), float(low), float(high))
