"""The few collective operations that the loop needs; without a process group each is the identity."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from mmengine.dist import all_gather, all_gather_object, barrier, get_rank, get_world_size, is_distributed
from torch import Tensor, distributed
from torch.distributed.tensor import DTensor

from vipo.engine.clock import PhaseClock
from vipo.engine.scoring import RunStopped
from vipo.generators.base import Generator


def gather(x: Tensor) -> Tensor:
    """Concatenate equal-sized tensors of all ranks in rank order."""
    return torch.cat(all_gather(x)) if get_world_size() > 1 else x


def check_same_names(names: Iterable[str], what: str) -> list[str]:
    """The names in one order for all ranks.

    Raises:
        RunStopped: ranks have other ones; a collective operation on them would mix values or hang.
    """
    mine = sorted(names)
    if get_world_size() > 1:
        everyone = all_gather_object(mine)
        for rank, theirs in enumerate(everyone):
            if theirs != everyone[0]:
                raise RunStopped(f'{what} on rank {rank} are {theirs}, and on rank 0 {everyone[0]}')
    return mine


def over_ranks(logs: dict[str, float]) -> dict[str, float]:
    """Values to log, the same on every rank: the largest of a deviation or a peak, the mean of everything else."""
    if get_world_size() == 1:
        return logs
    everyone = all_gather_object(logs)
    return {
        name: max(rank[name] for rank in everyone)
        if name.endswith(('deviation', 'peak_mib'))
        else sum(rank[name] for rank in everyone) / len(everyone)
        for name in logs
    }


def encode_in_shares(generator: Generator, prompts: Sequence[str], clock: PhaseClock) -> None:
    """Have a generator that stores encodings store those of all prompts; ranks divide what is missing."""
    missing = generator.unencoded(prompts)
    barrier()  # before anybody writes, so that all divide the same list
    mine = missing[get_rank() :: get_world_size()]
    with clock.phase('encode prompts ahead', len(mine)):
        generator.encode_ahead(mine, clock.advance)
        barrier()
        # Nothing is left to do here, unless the ranks do not share the folder.
        generator.encode_ahead(generator.unencoded(prompts), clock.advance)


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
