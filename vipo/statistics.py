"""Paired comparison of policies on the same prompts and seeds."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Interval:
    """A statistic with its bootstrap 95 % interval."""

    value: float
    low: float
    high: float

    @property
    def decimals(self) -> int:
        """Places after the point that it is worth: two digits of its width."""
        width = self.high - self.low
        # What is left of rounding is no width.
        return (
            3
            if not width > 1e-9 * max(abs(self.low), abs(self.high))
            else min(6, max(0, 1 - math.floor(math.log10(width))))
        )

    def describe(self, sign: str = '') -> str:
        """As text; ``sign='+'`` for a difference."""
        value, low, high = (fixed(x, self.decimals, sign) for x in (self.value, self.low, self.high))
        return f'{value} ({low} to {high})'


def fixed(value: float, decimals: int, sign: str = '') -> str:
    """With this many places, or in powers of ten where all of them would be zeros."""
    tiny = 0 < abs(value) < 0.5 * 10**-decimals and decimals == 6
    return f'{value:{sign}.1e}' if tiny else f'{value:{sign}.{decimals}f}'


def paired_gain(before: np.ndarray, after: np.ndarray, resamples: int = 10_000, seed: int = 0) -> Interval:
    """``(mean after - mean before) / std before``: the gain in units of the per-sample spread before training.

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
    return Interval(float((after - before).mean() / before.std()), float(low), float(high))


def mean_interval(values: np.ndarray, resamples: int = 10_000, seed: int = 0) -> Interval:
    """The mean over prompts, and over runs where there are several.

    Args:
        values: ``(N,)`` of one run, or ``(S, N)`` of S runs that differ in their seed; prompts with a NaN in any of
            them are left out.

    Raises:
        ValueError: no prompt is left.
    """
    return paired_difference(np.zeros_like(np.atleast_2d(values)[:1]), values, resamples, seed)


def paired_difference(first: np.ndarray, second: np.ndarray, resamples: int = 10_000, seed: int = 0) -> Interval:
    """Mean of ``second`` minus mean of ``first``.

    Prompts are resampled in common, since both sides were sampled from the same prompts and seeds. Runs are resampled
    on each side for itself, since runs of equal seed are no pairs once they learn from different things (a bootstrap of
    two levels: Davison and Hinkley 1997, section 3.8). With one run on a side, the interval knows nothing of how much
    another seed would differ.

    Args:
        first, second: ``(N,)``, or ``(S, N)`` of S runs; prompts with a NaN anywhere are left out.

    Raises:
        ValueError: no prompt is left.
    """
    sides = [np.atleast_2d(side).astype(np.float64) for side in (first, second)]
    keep = np.logical_and.reduce([np.isfinite(side).all(axis=0) for side in sides])
    if not keep.any():
        raise ValueError('no prompt has a valid score on both sides')
    rng = np.random.default_rng(seed)
    prompts = rng.multinomial(keep.sum(), np.full(keep.sum(), 1 / keep.sum()), size=resamples) / keep.sum()
    means = []
    for side in sides:
        runs = rng.multinomial(len(side), np.full(len(side), 1 / len(side)), size=resamples) / len(side)
        means.append((runs * (prompts @ side[:, keep].T)).sum(axis=1))
    low, high = np.percentile(means[1] - means[0], [2.5, 97.5])
    # Equal sides differ by rounding alone, which would look like an interval around zero.
    grain = 1e-12 * max(np.abs(side[:, keep]).max() for side in sides)
    low, high = (0.0 if abs(end) < grain else end for end in (low, high))
    return Interval(float(sides[1][:, keep].mean() - sides[0][:, keep].mean()), float(low), float(high))


#: Two-sided 95 % quantile of Student's t for 1, 2, ... degrees of freedom; beyond, the last one is a bit too wide.
_T95 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228)


def seed_interval(values: np.ndarray) -> Interval:
    """Mean of one number of each run ``(S,)``, S at least two, with Student's interval over runs.

    Raises:
        ValueError: there are less than two runs.
    """
    values = np.asarray(values, np.float64)
    if len(values) < 2:
        raise ValueError(f'an interval over seeds needs two runs, got {len(values)}')
    half = _T95[min(len(values) - 1, len(_T95)) - 1] * values.std(ddof=1) / math.sqrt(len(values))
    return Interval(float(values.mean()), float(values.mean() - half), float(values.mean() + half))


def seed_difference(first: Mapping[int, float], second: Mapping[int, float]) -> Interval:
    """Mean of ``second`` less ``first`` over the seeds that both have, with Student's interval over these pairs.

    Runs of equal seed meet the same prompts in the same order and begin with the same noise, and so are blocks of one
    experiment: what an easy seed gives to both sides cancels.

    Args:
        first, second: seed -> one number of its run.

    Raises:
        ValueError: less than two seeds are common to them.
    """
    common = sorted(first.keys() & second.keys())
    if len(common) < 2:
        raise ValueError(f'a difference over seeds needs two seeds that both sides have, got {common}')
    return seed_interval(np.array([second[seed] - first[seed] for seed in common]))


def seed_reach(first: Mapping[int, float], second: Mapping[int, float]) -> float | None:
    """Half the width of Student's 95 % interval of the difference of two groups of runs.

    Of pairs of equal seed where the groups have the same seeds, else of two independent samples (Welch 1947).

    Args:
        first, second: seed -> one number of its run.

    Returns:
        None where one of the groups has less than two seeds: nothing is known of how much another seed would differ.
    """
    if min(len(first), len(second)) < 2:
        return None
    if first.keys() == second.keys():
        pairs = seed_difference(first, second)
        return (pairs.high - pairs.low) / 2
    shares = [np.var(list(side.values()), ddof=1) / len(side) for side in (first, second)]
    if not sum(shares):
        return 0.0
    sizes = (len(first) - 1, len(second) - 1)
    freedom = int(sum(shares) ** 2 / sum(share**2 / size for share, size in zip(shares, sizes, strict=True)))
    return _T95[min(max(freedom, 1), len(_T95)) - 1] * math.sqrt(sum(shares))


def widened(interval: Interval, reach: float | None) -> Interval:
    """An interval that reaches at least this far to both sides of its value."""
    if reach is None:
        return interval
    return Interval(
        interval.value, min(interval.low, interval.value - reach), max(interval.high, interval.value + reach)
    )
