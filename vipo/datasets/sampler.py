"""Which prompts an iteration gets."""

from __future__ import annotations

from collections.abc import Iterator, Sized
from itertools import islice

import torch
from torch.utils.data import Sampler

from vipo.registry import DATA_SAMPLERS


@DATA_SAMPLERS.register_module()
class PromptSampler(Sampler):
    """Deals the prompts in a new order each time all of them were dealt, without an end.

    Every rank is dealt all prompts of an iteration, and takes its part of their samples. The order is that of
    MMEngine's ``InfiniteSampler`` on one process. It follows from the seed alone, so that :meth:`dealt` can say what
    comes before it comes.

    Args:
        dataset: of the prompts.
        shuffle: deal in random order.
        seed: of the orders.

    Raises:
        ValueError: there are no prompts.
    """

    def __init__(self, dataset: Sized, shuffle: bool = True, seed: int = 0) -> None:
        if not len(dataset):
            raise ValueError('train_dataloader.dataset has no prompts')
        self.size = len(dataset)
        self.shuffle = shuffle
        self.seed = seed

    def __iter__(self) -> Iterator[int]:
        return self._order()

    def __len__(self) -> int:
        return self.size

    def dealt(self, start: int, stop: int) -> list[int]:
        """Indices of the prompts that are dealt from the ``start``-th to before the ``stop``-th."""
        return list(islice(self._order(), start, stop))

    def _order(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed)
        while True:
            yield from torch.randperm(self.size, generator=generator).tolist() if self.shuffle else range(self.size)
