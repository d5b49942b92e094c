import random
from collections import Counter

import pytest

from vipo.diffusion import RandomFraction, Window

SELECTORS = [RandomFraction(0.6), Window(3), Window(2, first=1, last=4)]
every_selector = pytest.mark.parametrize('selector', SELECTORS, ids=['fraction', 'window', 'bounded'])


@every_selector
def test_same_seed_and_iteration_give_the_same_plan(selector):
    random.seed(1)
    first = selector(10, seed=3, iteration=7)
    random.seed(2)
    assert selector(10, seed=3, iteration=7) == first


@every_selector
def test_plan_varies_over_iterations_and_seeds(selector):
    assert len({selector(10, 0, i).trained for i in range(50)}) > 2
    assert [selector(10, 0, i) for i in range(50)] != [selector(10, 1, i) for i in range(50)]


@every_selector
@pytest.mark.parametrize('steps', [6, 10])
def test_last_step_is_never_stochastic(selector, steps):
    for i in range(100):
        plan = selector(steps, 0, i)
        assert max(plan.stochastic) < steps - 1
        assert set(plan.trained) <= plan.stochastic
        assert list(plan.trained) == sorted(set(plan.trained))


@pytest.mark.parametrize(('fraction', 'steps', 'count'), [(0.6, 11, 6), (1.0, 11, 10), (0.01, 11, 1), (0.5, 2, 1)])
def test_fraction_of_the_steps_that_can_be_trained(fraction, steps, count):
    plan = RandomFraction(fraction)(steps, 0, 0)
    assert len(plan.trained) == count
    assert plan.stochastic == frozenset(range(steps - 1))


def test_fraction_favours_no_step():
    times = Counter(step for i in range(1000) for step in RandomFraction(0.5)(11, 0, i).trained)
    assert set(times) == set(range(10))
    assert all(420 < count < 580 for count in times.values())


def test_window_is_contiguous_and_all_that_explores():
    starts = set()
    for i in range(200):
        plan = Window(3)(8, 0, i)
        start = plan.trained[0]
        assert plan.trained == (start, start + 1, start + 2)
        assert plan.stochastic == frozenset(plan.trained)
        starts.add(start)
    assert starts == {0, 1, 2, 3, 4}


def test_window_keeps_its_bounds():
    assert {Window(2, first=1, last=4)(10, 0, i).trained[0] for i in range(200)} == {1, 2, 3}
    assert {Window(2, first=4, last=99)(7, 0, i).trained for i in range(50)} == {(4, 5)}


def test_bad_options():
    for fraction in (0, -0.1, 1.1):
        with pytest.raises(ValueError, match='fraction'):
            RandomFraction(fraction)
    for options in ({'size': 0}, {'first': -1}):
        with pytest.raises(ValueError, match='size'):
            Window(**options)


@pytest.mark.parametrize('selector', [RandomFraction(), Window(1)])
def test_one_step_rollout_has_nothing_to_train(selector):
    with pytest.raises(ValueError, match='nothing to train'):
        selector(1, 0, 0)


@pytest.mark.parametrize('window', [Window(4), Window(2, first=3), Window(3, first=0, last=1)])
def test_window_must_fit(window):
    with pytest.raises(ValueError, match='does not fit'):
        window(4, 0, 0)
