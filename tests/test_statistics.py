import numpy as np
import pytest
from scipy import stats

from vipo.statistics import paired_gain


def test_by_hand():
    before = np.array([1.0, 2.0, 3.0, 4.0])
    gain = paired_gain(before, before + np.array([1.0, 1.0, 0.0, 0.0]))
    assert gain.value == pytest.approx(0.5 / 1.25**0.5)
    assert gain.low < gain.value < gain.high


def test_interval_is_scipys_paired_percentile_bootstrap():
    rng = np.random.default_rng(0)
    before = rng.normal(1, 2, 80)
    after = before + rng.normal(3, 0.5, 80)
    gain = paired_gain(before, after)

    def statistic(x, y, axis):
        return (y.mean(axis) - x.mean(axis)) / x.std(axis)

    theirs = stats.bootstrap(
        (before, after), statistic, paired=True, method='percentile', n_resamples=10_000, vectorized=True, rng=1
    ).confidence_interval
    assert gain.value == pytest.approx(statistic(before, after, 0))
    assert (gain.low, gain.high) == pytest.approx((theirs.low, theirs.high), abs=0.02)


def test_pairing_counts():
    """The same two sets of scores: an equal gain for everyone is certain, a shuffled one is not."""
    before = np.random.default_rng(0).normal(size=100)
    paired = paired_gain(before, before + 0.2)
    shuffled = paired_gain(before, before[::-1] + 0.2)
    assert paired.value == pytest.approx(shuffled.value)
    assert shuffled.high - shuffled.low > 3 * (paired.high - paired.low)
    assert paired.low > 0 > shuffled.low


def test_pairs_with_a_nan_are_dropped():
    before = np.array([1.0, np.nan, 3.0, 4.0, 9.0])
    after = np.array([2.0, 5.0, 4.0, 6.0, np.nan])
    assert paired_gain(before, after) == paired_gain(np.array([1.0, 3.0, 4.0]), np.array([2.0, 4.0, 6.0]))


def test_seed_decides():
    rng = np.random.default_rng(0)
    before, after = rng.normal(size=30), rng.normal(size=30)
    assert paired_gain(before, after, seed=1) == paired_gain(before, after, seed=1)
    assert paired_gain(before, after, seed=1).low != paired_gain(before, after, seed=2).low


def test_resamples_without_spread_are_left_out():
    gain = paired_gain(np.array([0.1, 0.1, 0.3]), np.array([0.2, 0.2, 0.4]))
    assert np.isfinite([gain.low, gain.high]).all()
    assert gain.high < 10


@pytest.mark.parametrize(
    'before',
    [[], [1.0], [1.0, np.nan], [2.0, 2.0, 2.0], [0.1, 0.1, 0.1]],
    ids=['none', 'one', 'nan', 'flat', 'rounded'],
)
def test_nothing_to_measure_by(before):
    before = np.array(before)
    with pytest.raises(ValueError, match='two pairs'):
        paired_gain(before, before + 1)
