"""The samples of an iteration, divided among ranks and passes: each exactly once, in shares as even as they can be."""

from itertools import chain

import pytest

from vipo.engine.batch import BatchPlan
from vipo.registry import ConfigError


def plans(world_size, **sizes):
    return [BatchPlan(**sizes, world_size=world_size, rank=rank) for rank in range(world_size)]


@pytest.mark.parametrize('world_size', [1, 2, 3, 4, 5, 7])
@pytest.mark.parametrize('micro', [2, 3, 100])
@pytest.mark.parametrize(('prompts', 'group', 'updates'), [(2, 12, 1), (4, 6, 2), (1, 7, 1), (6, 8, 4), (7, 3, 3)])
def test_every_sample_is_trained_once_whatever_the_ranks(world_size, micro, prompts, group, updates):
    ranks = plans(
        world_size,
        prompts_per_iteration=prompts,
        group_size=group,
        updates_per_iteration=updates,
        micro_batch_size=micro,
    )
    step = prompts * group // updates
    for update in range(updates):
        seen = [[n for piece in plan.updates(micro)[update] for n in plan.numbers[piece]] for plan in ranks]
        # Those that one process takes for this optimiser step, and no rank has two more than another.
        assert sorted(chain(*seen)) == list(range(update * step, (update + 1) * step))
        assert max(map(len, seen)) - min(map(len, seen)) <= 1
    # Where weights are shared, a pass of one rank alone would wait for ever.
    assert len({len(plan.slices(micro)) for plan in ranks}) == 1
    for plan in ranks:
        lengths = [piece.stop - piece.start for piece in plan.slices(micro)]
        assert sum(lengths) == plan.samples
        assert 1 <= min(lengths) <= max(lengths) == plan.longest(micro) <= micro
        assert max(lengths) - min(lengths) <= 1
        assert len({n // group for n in plan.numbers}) <= plan.most_groups


@pytest.mark.parametrize(('world_size', 'prompts', 'updates'), [(2, 4, 2), (4, 8, 1), (3, 6, 2)])
def test_groups_stay_whole_where_they_can(world_size, prompts, updates):
    for plan in plans(world_size, prompts_per_iteration=prompts, group_size=5, updates_per_iteration=updates):
        groups = [n // 5 for n in plan.numbers]
        assert all(groups.count(g) == 5 for g in groups)
        assert plan.most_groups == prompts // world_size


def test_known_shares():
    first, second = plans(2, prompts_per_iteration=1, group_size=7, micro_batch_size=3)
    assert (first.numbers, second.numbers) == ([0, 1, 2, 3], [4, 5, 6])
    assert first.slices(3) == [slice(0, 2), slice(2, 4)]
    assert second.slices(3) == [slice(0, 2), slice(2, 3)]
    assert 'optimiser step(s) of 7 samples, 2 process(es), micro-batches of 2' in first.describe()


@pytest.mark.parametrize(
    ('sizes', 'said'),
    [
        ({'group_size': 1}, 'batch.group_size is 1'),
        ({'prompts_per_iteration': 0}, 'batch.prompts_per_iteration must be at least 1'),
        ({'micro_batch_size': 0}, 'batch.micro_batch_size must be at least 1'),
        ({'replay_micro_batch_size': -1}, 'batch.replay_micro_batch_size must be at least 1'),
        ({'updates_per_iteration': 5}, 'batch.updates_per_iteration=5 does not divide the 8 samples'),
        ({'updates_per_iteration': 4, 'world_size': 3}, 'cannot be divided among 3 processes'),
        ({'world_size': 3, 'micro_batch_size': 1}, 'batch.micro_batch_size=1: the 8 samples'),
        ({'world_size': 3, 'micro_batch_size': 2, 'replay_micro_batch_size': 1}, 'batch.replay_micro_batch_size=1'),
    ],
)
def test_what_cannot_be_divided_is_refused(sizes, said):
    with pytest.raises(ConfigError, match=said):
        BatchPlan(**{'prompts_per_iteration': 2, 'group_size': 4, **sizes})
