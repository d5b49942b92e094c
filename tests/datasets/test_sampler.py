"""Which prompts an iteration gets."""

from itertools import islice

import pytest
from mmengine.dataset import InfiniteSampler
from torch.utils.data import DataLoader

from vipo.datasets import PromptSampler, sampler


@pytest.fixture
def rank(monkeypatch):
    """``rank(r, n)``: be the process r of n, for our sampler and for MMEngine's."""

    def be(number, world):
        monkeypatch.setattr(sampler, 'get_rank', lambda: number)
        monkeypatch.setattr(sampler, 'get_world_size', lambda: world)
        monkeypatch.setattr('mmengine.dataset.sampler.get_dist_info', lambda: (number, world))

    return be


@pytest.mark.parametrize('shuffle', [True, False])
@pytest.mark.parametrize(('number', 'world'), [(0, 1), (0, 4), (3, 4)])
def test_order_is_that_of_mmengine(rank, shuffle, number, world):
    rank(number, world)
    ours, theirs = (cls(range(7), shuffle=shuffle, seed=5) for cls in (PromptSampler, InfiniteSampler))
    assert list(islice(ours, 50)) == list(islice(theirs, 50))
    assert len(ours) == len(theirs) == 7


@pytest.mark.parametrize('world', [1, 2, 3])
def test_what_will_be_dealt_is_what_the_ranks_get(rank, world):
    """Batches of 6 prompts over all ranks, from the third iteration to the fifth, as a loader gives them."""
    deals = PromptSampler(range(10), seed=3)
    got = []
    for number in range(world):
        rank(number, world)
        batches = list(islice(DataLoader(range(10), batch_size=6 // world, sampler=deals), 5))
        got += [i for batch in batches[2:] for i in batch.tolist()]
    assert sorted(got) == sorted(deals.dealt(2 * 6, 5 * 6))
    assert set(deals.dealt(0, 10)) == set(range(10))


def test_asking_changes_nothing():
    deals = PromptSampler(range(10), seed=3)
    running = iter(deals)
    first = [next(running) for _ in range(4)]
    assert deals.dealt(0, 100)[:4] == first
    assert deals.dealt(0, 100)[4] == next(running)
    assert deals.dealt(0, 100) != PromptSampler(range(10), seed=4).dealt(0, 100)
    with pytest.raises(ValueError, match='has no prompts'):
        PromptSampler([])
