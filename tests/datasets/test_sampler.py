"""Which prompts an iteration gets."""

from itertools import islice

import pytest
from mmengine.dataset import InfiniteSampler
from torch.utils.data import DataLoader

from vipo.datasets import PromptSampler


@pytest.mark.parametrize('shuffle', [True, False])
def test_order_is_that_of_mmengine(shuffle):
    ours, theirs = (cls(range(7), shuffle=shuffle, seed=5) for cls in (PromptSampler, InfiniteSampler))
    assert list(islice(ours, 50)) == list(islice(theirs, 50))
    assert len(ours) == len(theirs) == 7


def test_what_will_be_dealt_is_what_a_loader_gives(monkeypatch):
    """Batches of 6 prompts, from the third iteration to the fifth, on whichever rank."""
    monkeypatch.setenv('RANK', '1')
    monkeypatch.setenv('WORLD_SIZE', '3')
    deals = PromptSampler(range(10), seed=3)
    batches = list(islice(DataLoader(range(10), batch_size=6, sampler=deals), 5))
    assert [i for batch in batches[2:] for i in batch.tolist()] == deals.dealt(2 * 6, 5 * 6)
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
