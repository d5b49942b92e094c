"""How the samples of an iteration are divided, and what travels from phase to phase."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from vipo.diffusion.rollout import Trajectory
from vipo.diffusion.steps import StepPlan
from vipo.generators.base import Conditioning
from vipo.registry import ConfigError
from vipo.rewards.base import RewardOutput


@dataclass(frozen=True)
class BatchPlan:
    """Sizes of an iteration. All but ``micro_batch_size`` are global: ranks only divide the work.

    Args:
        prompts_per_iteration: distinct prompts.
        group_size: samples of each prompt, compared with each other.
        updates_per_iteration: optimiser steps made from one rollout.
        micro_batch_size: samples per forward pass on a rank, in rollout and replay.
        replay_micro_batch_size: samples per forward and backward pass of the replay; None is ``micro_batch_size``.
            Where the two differ, the old log-probs are computed again at the replay's geometry.
        world_size: ranks.

    Raises:
        ConfigError: a size is below its minimum, or the samples cannot be divided as asked.
    """

    prompts_per_iteration: int
    group_size: int
    updates_per_iteration: int = 1
    micro_batch_size: int = 16
    replay_micro_batch_size: int | None = None
    world_size: int = 1

    def __post_init__(self) -> None:
        for name in ('prompts_per_iteration', 'updates_per_iteration', 'micro_batch_size', 'world_size'):
            if getattr(self, name) < 1:
                raise ConfigError(f'batch.{name} must be at least 1, got {getattr(self, name)}')
        if self.group_size < 2:
            raise ConfigError(
                f'batch.group_size is {self.group_size}: advantages are relative to the other samples of a prompt, so '
                'a group needs at least 2, and 8 or more to be worth its name'
            )
        if self.prompts_per_iteration % self.world_size:
            raise ConfigError(
                f'batch.prompts_per_iteration={self.prompts_per_iteration} cannot be divided among {self.world_size} '
                f'processes; take a multiple of {self.world_size}'
            )
        if self.world_size > 1 and self.prompts_per_iteration % (self.world_size * self.updates_per_iteration):
            raise ConfigError(
                f'batch.prompts_per_iteration={self.prompts_per_iteration} cannot be divided into '
                f'batch.updates_per_iteration={self.updates_per_iteration} parts on {self.world_size} processes: an '
                'optimiser step would see other samples than on one process; take a multiple of '
                f'{self.world_size * self.updates_per_iteration}'
            )
        for name in ('micro_batch_size', 'replay_micro_batch_size'):
            size = getattr(self, name)
            if size is not None and (size < 1 or self.update_samples % size):
                fits = [n for n in range(1, self.update_samples + 1) if self.update_samples % n == 0]
                raise ConfigError(
                    f'batch.{name}={size} does not divide the {self.update_samples} samples that a process trains on '
                    f'per optimiser step ({self.prompts_per_iteration} prompts x {self.group_size} samples / '
                    f'{self.updates_per_iteration} updates / {self.world_size} processes); sizes that do: {fits}'
                )

    @property
    def samples(self) -> int:
        """Samples per iteration on one rank."""
        return self.prompts_per_iteration * self.group_size // self.world_size

    @property
    def update_samples(self) -> int:
        """Samples per optimiser step on one rank."""
        total = self.prompts_per_iteration * self.group_size
        parts = self.updates_per_iteration * self.world_size
        if total % parts:
            raise ConfigError(
                f'{total} samples per iteration cannot be divided into batch.updates_per_iteration='
                f'{self.updates_per_iteration} equal parts on {self.world_size} processes'
            )
        return total // parts

    @property
    def replay_size(self) -> int:
        """Samples per forward pass of the replay."""
        return self.replay_micro_batch_size or self.micro_batch_size

    def slices(self, size: int) -> list[slice]:
        """A rank's samples in pieces of ``size``."""
        return [slice(i, i + size) for i in range(0, self.samples, size)]

    def describe(self) -> str:
        """The plan in one line, printed at the start."""
        return (
            f'{self.prompts_per_iteration} prompts x {self.group_size} samples per iteration, '
            f'{self.updates_per_iteration} optimiser step(s) of {self.update_samples * self.world_size} samples, '
            f'{self.world_size} process(es), micro-batches of {self.micro_batch_size} (replay {self.replay_size})'
        )


@dataclass
class Samples:
    """One rank's samples of an iteration; each phase adds its part. N is the number of samples.

    Attributes:
        prompts: N prompts, a group's copies beside each other.
        group: ``(N,)`` int64, the group of each sample: the number of its prompt among all of the iteration.
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
