import numpy as np
import pytest
from scipy import stats

from vipo.statistics import (
    Interval,
    mean_interval,
    paired_difference,
    paired_gain,
    seed_difference,
    seed_interval,
    seed_reach,
    widened,
)


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


def test_difference_of_one_run_each_is_the_paired_bootstrap():
    rng = np.random.default_rng(0)
    first = rng.normal(1, 2, 80)
    second = first + rng.normal(0.3, 0.5, 80)
    ours = paired_difference(first, second)
    theirs = stats.bootstrap(
        (second - first,), np.mean, method='percentile', n_resamples=10_000, rng=1
    ).confidence_interval
    assert ours.value == pytest.approx((second - first).mean())
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=0.01)
    assert mean_interval(second - first).low == pytest.approx(theirs.low, abs=0.01)


def test_several_seeds_widen_the_interval_by_how_much_they_differ():
    """With prompts that all agree, what is left is the spread of the mean of the drawn seeds."""
    runs = np.repeat(np.array([[0.0], [1.0], [2.0], [3.0]]), 50, axis=1)
    ours = paired_difference(np.zeros(50), runs)
    means = np.random.default_rng(1).choice(4, size=(20_000, 4)).mean(1)
    assert ours.value == 1.5
    assert (ours.low, ours.high) == pytest.approx(tuple(np.percentile(means, [2.5, 97.5])), abs=0.13)
    assert mean_interval(runs[:1]).high == 0.0
    assert paired_difference(runs[:1] + 0.3, runs[:1] + 0.3) == Interval(0.0, 0.0, 0.0)


def test_prompts_are_drawn_in_common():
    """Prompts of very different difficulty cancel out of a difference, and only of a difference."""
    hard = np.random.default_rng(0).normal(size=60)
    paired = paired_difference(np.stack([hard, hard]), np.stack([hard + 0.1, hard + 0.1]))
    assert (paired.low, paired.high) == pytest.approx((0.1, 0.1))
    assert mean_interval(hard).high - mean_interval(hard).low > 0.2


def test_prompts_with_a_nan_anywhere_are_left_out():
    first = np.array([[0.0, 0.0, np.nan], [0.0, 0.0, 0.0]])
    assert paired_difference(first, np.array([1.0, 3.0, 100.0])).value == 2.0
    with pytest.raises(ValueError, match='no prompt'):
        paired_difference(np.array([np.nan]), np.array([1.0]))


@pytest.mark.parametrize(
    ('interval', 'text'),
    [
        (Interval(0.0123456, 0.00785, 0.01847), '+0.012 (+0.008 to +0.018)'),
        (Interval(12.345, 10.0, 14.0), '+12.3 (+10.0 to +14.0)'),
        (Interval(2.2e-7, 1e-7, 3e-7), '+2.2e-07 (+1.0e-07 to +3.0e-07)'),
        (Interval(1.0, 1.0, 1.0), '+1.000 (+1.000 to +1.000)'),
    ],
)
def test_interval_as_text(interval, text):
    assert interval.describe('+') == text


def test_intervals_over_seeds_are_scipys():
    rng = np.random.default_rng(4)
    for runs in (2, 5, 11):
        values = rng.normal(0.3, 0.1, runs)
        theirs = stats.t.interval(0.95, runs - 1, values.mean(), stats.sem(values))
        ours = seed_interval(values)
        assert (ours.low, ours.high) == pytest.approx(theirs, abs=1e-4)  # the quantiles have three decimals


def test_difference_over_seeds_is_scipys_of_pairs():
    rng = np.random.default_rng(5)
    common = rng.normal(0, 3, 5)
    first, second = common + rng.normal(0, 1, 5), common + rng.normal(2, 1, 5)
    theirs = stats.ttest_rel(second, first).confidence_interval()
    # in another order, and with a seed that only one side has
    ours = seed_difference({9: 100.0, **dict(enumerate(first))}, {i: second[i] for i in (3, 1, 4, 0, 2)})
    assert (ours.low, ours.high) == pytest.approx(theirs, abs=1e-3)
    assert ours.value == pytest.approx((second - first).mean())


def test_one_seed_has_no_interval_over_seeds():
    with pytest.raises(ValueError, match='two runs'):
        seed_interval(np.array([1.0]))
    with pytest.raises(ValueError, match=r'got \[2\]'):
        seed_difference({0: 1.0, 2: 1.0}, {2: 2.0, 3: 2.0})
    assert seed_difference({0: 1.0, 1: 1.0}, {0: 2.0, 1: 2.0}) == Interval(1.0, 1.0, 1.0)


def test_reach_of_seeds_is_scipys():
    rng = np.random.default_rng(3)
    a, b = rng.normal(0, 1, 5), rng.normal(1, 0.3, 5)
    paired = stats.ttest_rel(b, a).confidence_interval()
    first, second = dict(enumerate(a)), dict(enumerate(b))
    assert seed_reach(first, second) == pytest.approx((paired.high - paired.low) / 2, rel=1e-3)
    welch = stats.ttest_ind(b, a, equal_var=False).confidence_interval()
    # whole degrees of freedom: a little wider
    half = (welch.high - welch.low) / 2
    assert half <= seed_reach(first, dict(enumerate(b, 10))) < 1.1 * half
    assert seed_reach(first, {0: 1.0}) is None
    assert seed_reach({0: 1.0, 1: 1.0}, {2: 2.0, 3: 2.0}) == 0


def test_widened_reaches_to_both_sides():
    narrow = Interval(0.5, 0.4, 0.9)
    assert widened(narrow, 0.2) == Interval(0.5, 0.3, 0.9)
    assert widened(narrow, 0.05) == widened(narrow, None) == narrow
