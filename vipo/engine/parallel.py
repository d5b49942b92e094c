"""The few collective operations that the loop needs; without a process group each is the identity."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from mmengine.dist import all_gather, all_gather_object, all_reduce, barrier, get_rank, get_world_size, is_distributed
from torch import Tensor, distributed, nn
from torch.distributed.tensor import DTensor

from vipo.engine.checksum import checksum
from vipo.engine.clock import PhaseClock
from vipo.engine.scoring import RunStopped
from vipo.engine.watchdog import current_watchdog
from vipo.generators.base import Generator
from vipo.registry import ConfigError


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
    """Values to log, the same on every rank: the largest of a deviation or a peak, the mean of everything else.

    Args:
        samples: of this rank; the mean counts each alike.
    """
    if get_world_size() == 1:
        return logs
    everyone = all_gather_object((samples, logs))
    total = sum(count for count, _ in everyone)
    return {
        name: max(theirs[name] for _, theirs in everyone)
        if name.endswith(('deviation', 'peak_mib'))
        else sum(count * theirs[name] for count, theirs in everyone) / total
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
    """End the process group once every rank is done; a rank that exits with its threads still connected may crash.

    torch 2.14 keeps threads of gloo until Python has ended where parameters were divided (FSDP2 on CPUs); rarely, that
    aborts a rank on its way out.
    """
    if is_distributed():
        barrier()
        if (watchdog := current_watchdog()) is not None:
            watchdog.close()
        distributed.destroy_process_group()


def check_equal_weights(named: Iterable[tuple[str, Tensor]], when: str) -> None:
    """Stop ranks that have drifted apart, which training in parallel can never notice by itself.

    Bit patterns are compared, by one reduction of 16 bytes per tensor. What is divided among the ranks is left out: of
    each part there is one copy, and so nothing to compare it with.

    Args:
        named: names and tensors, in the same order on every rank.
        when: for the message.

    Raises:
        RunStopped: the weights of some rank differ from those of rank 0.
    """
    copies = [(name, x) for name, x in named if not isinstance(x, DTensor)]
    if get_world_size() == 1 or not copies:
        return
    sums = torch.stack([checksum(x) for _, x in copies])
    ends = torch.stack([sums, ~sums])  # the largest of the second row is the inverse of the smallest of the first
    all_reduce(ends, 'max')
    if torch.equal(ends[0], ~ends[1]):
        return
    everyone = torch.stack(all_gather(sums))
    differs = everyone != everyone[0]
    ranks = differs.any(dim=1).nonzero().flatten().tolist()
    numbers = differs.any(dim=0).nonzero().flatten().tolist()
    raise RunStopped(
        f'the weights on rank(s) {ranks} differ from those on rank 0 {when}: {len(numbers)} of {len(copies)} tensors, '
        f'the first is {copies[numbers[0]][0]}. Something that depends on the rank touched weights or gradients: '
        'a hook, an unseeded initialisation, another version of a library or another copy of the model on that machine'
    )


class EqualWeights:
    """Compares the weights of the ranks: all of them after the first iteration, then the trained ones now and then.

    Args:
        every: iterations between two comparisons; 0 for the first alone.

    Raises:
        ConfigError: ``every`` is negative.
    """

    def __init__(self, every: int) -> None:
        if every < 0:
            raise ConfigError(f'train_cfg.compare_weights_every must be at least 0, got {every}')
        self.every = every
        self._compared = False

    def __call__(self, module: nn.Module, iteration: int) -> None:
        """Compare where it is time to.

        Raises:
            RunStopped: some rank has other weights than rank 0.
        """
        if self._compared and not (self.every and iteration % self.every == 0):
            return
        named = [(n, p) for n, p in module.named_parameters() if p.requires_grad or not self._compared]
        check_equal_weights(named, when=f'after iteration {iteration}')
        self._compared = True
