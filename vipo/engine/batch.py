"""How the samples of an iteration are divided, and what travels from phase to phase."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property

from torch import Tensor

from vipo.diffusion.rollout import Trajectory
from vipo.diffusion.steps import StepPlan
from vipo.generators.base import Conditioning
from vipo.registry import ConfigError
from vipo.rewards.base import RewardOutput


@dataclass(frozen=True)
class BatchPlan:
    """Sizes of an iteration. All but the micro-batches are global: ranks only divide the work.

    The samples of an iteration have numbers, the ``group_size`` of each prompt one after another. Each optimiser step
    takes the next of them in equal shares, and each rank its part of every share: whole groups where that comes out
    even, else groups are spread over ranks, and some ranks may have a sample more than others.

    Args:
        prompts_per_iteration: distinct prompts.
        group_size: samples of each prompt, compared with each other.
        updates_per_iteration: optimiser steps made from one rollout.
        micro_batch_size: most samples in a forward pass on a rank, in rollout and replay.
        replay_micro_batch_size: most samples in a forward and backward pass of the replay; None is
            ``micro_batch_size``. Where the two differ, the old log-probs are computed again at the replay's geometry.
        world_size: ranks.
        rank: which of them this is.

    Raises:
        ConfigError: a size is below its minimum, or the samples cannot be divided as asked.
    """

    prompts_per_iteration: int
    group_size: int
    updates_per_iteration: int = 1
    micro_batch_size: int = 16
    replay_micro_batch_size: int | None = None
    world_size: int = 1
    rank: int = 0

    def __post_init__(self) -> None:
        for name in ('prompts_per_iteration', 'updates_per_iteration', 'micro_batch_size', 'replay_micro_batch_size'):
            size = getattr(self, name)
            if size is not None and size < 1:
                raise ConfigError(f'batch.{name} must be at least 1, got {size}')
        if self.group_size < 2:
            raise ConfigError(
                f'batch.group_size is {self.group_size}: advantages are relative to the other samples of a prompt, so '
                'a group needs at least 2, and 8 or more to be worth its name'
            )
        if self.total % self.updates_per_iteration:
            raise ConfigError(
                f'batch.updates_per_iteration={self.updates_per_iteration} does not divide the {self.total} samples of '
                f'an iteration ({self.prompts_per_iteration} prompts x {self.group_size} samples)'
            )
        if self.update_samples < self.world_size:
            raise ConfigError(
                f'an optimiser step of {self.update_samples} samples ({self.prompts_per_iteration} prompts x '
                f'{self.group_size} samples / {self.updates_per_iteration} updates) cannot be divided among '
                f'{self.world_size} processes: each needs at least one. Raise batch.prompts_per_iteration or '
                'batch.group_size'
            )
        for name, size in (('micro_batch_size', self.micro_batch_size), ('replay_micro_batch_size', self.replay_size)):
            if self._passes(size) > self.update_samples // self.world_size:
                raise ConfigError(
                    f'batch.{name}={size}: the {self.update_samples} samples of an optimiser step are no even share '
                    f'for {self.world_size} processes, so some would make a pass more than others. Set it to 2 or '
                    f'more, or make the samples a multiple of {self.world_size}'
                )

    @property
    def total(self) -> int:
        """Samples per iteration on all ranks."""
        return self.prompts_per_iteration * self.group_size

    @property
    def update_samples(self) -> int:
        """Samples per optimiser step on all ranks."""
        return self.total // self.updates_per_iteration

    @cached_property
    def numbers(self) -> list[int]:
        """The samples of this rank, by their numbers among all of the iteration."""
        own = _part(self.update_samples, self.world_size, self.rank)
        return [update * self.update_samples + i for update in range(self.updates_per_iteration) for i in own]

    @property
    def samples(self) -> int:
        """Samples per iteration on this rank."""
        return len(self.numbers)

    @property
    def most_groups(self) -> int:
        """Groups of which the rank with most of them has samples."""
        ranks = (replace(self, rank=rank) for rank in range(self.world_size))
        return max(len({number // self.group_size for number in plan.numbers}) for plan in ranks)

    @property
    def replay_size(self) -> int:
        """Most samples in a forward pass of the replay."""
        return self.replay_micro_batch_size or self.micro_batch_size

    def updates(self, size: int) -> list[list[slice]]:
        """This rank's samples of each optimiser step in pieces of at most ``size``, as many pieces on every rank."""
        share, count = self.samples // self.updates_per_iteration, self._passes(size)
        parts = [_part(share, count, i) for i in range(count)]
        starts = range(0, self.samples, share)
        return [[slice(start + part.start, start + part.stop) for part in parts] for start in starts]

    def slices(self, size: int) -> list[slice]:
        """All of :meth:`updates` in one list."""
        return [piece for pieces in self.updates(size) for piece in pieces]

    def longest(self, size: int) -> int:
        """Samples of the longest of :meth:`slices`."""
        return max(piece.stop - piece.start for piece in self.slices(size))

    def _passes(self, size: int) -> int:
        """Pieces of at most ``size`` that the rank with most samples makes of an optimiser step."""
        return _ceil(_ceil(self.update_samples, self.world_size), size)

    def describe(self) -> str:
        """The plan in one line, printed at the start."""
        return (
            f'{self.prompts_per_iteration} prompts x {self.group_size} samples per iteration, '
            f'{self.updates_per_iteration} optimiser step(s) of {self.update_samples} samples, '
            f'{self.world_size} process(es), micro-batches of {self.longest(self.micro_batch_size)} '
            f'(replay {self.longest(self.replay_size)})'
        )


def _ceil(count: int, size: int) -> int:
    return -(-count // size)


def _part(count: int, parts: int, number: int) -> range:
    """Part ``number`` of ``range(count)``; the first parts have one more where it does not come out even."""
    share, more = divmod(count, parts)
    start = number * share + min(number, more)
    return range(start, start + share + (number < more))


@dataclass
class Samples:
    """One rank's samples of an iteration; each phase adds its part. N is the number of samples.

    Attributes:
        prompts: N prompts, a group's copies beside each other.
        number: ``(N,)`` int64, ascending: which of the iteration's samples these are.
        group: ``(N,)`` int64, the group of each sample: the number of its prompt among all of the iteration. Other
            samples of it may be on other ranks.
        seeds: N seeds of the samples' own noise.
        signs: N factors of the own noise, +1 or -1.
        group_seeds: N seeds that the samples of a group share.
        conditioning: of the N prompts.
        plan: the denoising steps that explore and that are trained.
        trajectory: of all N samples, in micro-batch order.
        pixels: ``(N, 3, F, Y, X)``, in main memory.
        reward: of the N samples.
        advantage: ``(N,)``, or ``(N, T, H, W)`` where the map is on the reward.
        allocation: ``(N, 1, T, H, W)``, or None where the loss takes no map.
    """

    prompts: list[str]
    metadata: list[dict]
    number: Tensor
    group: Tensor
    seeds: list[int]
    signs: list[int]
    group_seeds: list[int]
    conditioning: Conditioning
    plan: StepPlan
    trajectory: Trajectory | None = None
    pixels: Tensor | None = None
    reward: RewardOutput | None = None
    advantage: Tensor | None = None
    allocation: Tensor | None = None
    extra: dict = field(default_factory=dict)
