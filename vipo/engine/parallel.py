"""The few collective operations that the loop needs; without a process group each is the identity."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from mmengine.dist import all_gather, all_gather_object, barrier, get_world_size, is_distributed
from torch import Tensor, distributed
from torch.distributed.tensor import DTensor

from vipo.engine.scoring import RunStopped


def gather(x: Tensor) -> Tensor:
    """Concatenate tensors of all ranks in rank order; their first axes may differ."""
    if get_world_size() == 1:
        return x
    lengths = [int(n) for n in all_gather(torch.tensor([len(x)]))]
    padded = torch.cat([x, x.new_zeros(max(lengths) - len(x), *x.shape[1:])])
    return torch.cat([part[:n] for part, n in zip(all_gather(padded), lengths, strict=True)])


def check_same(value: Any, what: str) -> None:
    """Nothing where all ranks have the same plain value.

    Raises:
        RunStopped: ranks have other ones.
    """
    if get_world_size() == 1:
        return
    everyone = all_gather_object(value)
    for rank, theirs in enumerate(everyone):
        if theirs != everyone[0]:
            raise RunStopped(f'{what} on rank {rank} are {theirs}, and on rank 0 {everyone[0]}')


def check_same_names(names: Iterable[str], what: str) -> list[str]:
    """The names in one order for all ranks.

    Raises:
        RunStopped: ranks have other ones; a collective operation on them would mix values or hang.
    """
    mine = sorted(names)
    check_same(mine, what)
    return mine


def over_ranks(logs: dict[str, float], samples: int) -> dict[str, float]:
    """Values to log, the same on every rank: the largest of a deviation, the mean of everything else.

    Args:
        samples: of this rank; the mean counts each alike.
    """
    if get_world_size() == 1:
        return logs
    everyone = all_gather_object((samples, logs))
    total = sum(count for count, _ in everyone)
    return {
        name: max(theirs[name] for _, theirs in everyone)
        if name.endswith('deviation')
        else sum(count * theirs[name] for count, theirs in everyone) / total
        for name in logs
    }


def leave() -> None:
    """End the process group once every rank is done; a rank that exits with its threads still connected may crash."""
    if is_distributed():
        barrier()
        distributed.destroy_process_group()


def check_equal_weights(
    parameters: Iterable[Tensor], what: str = 'the trained weights', when: str = 'after the first update'
) -> None:
    """Stop ranks that have drifted apart, which training in parallel can never notice by itself.

    What is divided among the ranks differs by design and is left out: it was compared before it was divided.

    Raises:
        RunStopped: the weights of some rank differ from those of rank 0.
    """
    if get_world_size() == 1:
        return
    # Equal weights give equal sums bit for bit; the second sum sees exchanged values too.
    copies = (p.detach().double() for p in parameters if not isinstance(p, DTensor))
    sums = [(p.sum().item(), p.square().sum().item()) for p in copies]
    everyone = all_gather_object(sums)
    apart = [rank for rank, theirs in enumerate(everyone) if theirs != everyone[0]]
    if apart:
        raise RunStopped(
            f'{what} on rank(s) {apart} differ from those on rank 0 {when}. Something '
            'that depends on the rank touched weights or gradients: a hook, an unseeded initialisation, or another '
            'version of a library on that machine'
        )
