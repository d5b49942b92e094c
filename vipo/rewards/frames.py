"""A reward of pictures on the frames of a clip."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from vipo.registry import REWARDS
from vipo.rewards.base import Reward, RewardOutput, check_batch
from vipo.rewards.function import as_reward

#: What becomes of the scores ``(B, k)`` of k frames.
AGGREGATES = {'mean': lambda x: x.mean(1), 'min': lambda x: x.amin(1), 'max': lambda x: x.amax(1)}


@REWARDS.register_module()
class FrameReward(Reward):
    """Scores frames by a reward of pictures, all of them in one batch.

    Args:
        reward: config of the reward of pictures.
        frames: how many, evenly spaced from the first to the last; 1 is the first alone, None all of them. A clip with
            fewer gives all of its own.
        aggregate: ``'mean'``, ``'min'`` or ``'max'`` over the frames. A clip is valid where all of them are.

    Raises:
        ValueError: unknown aggregate, or less than one frame.
    """

    def __init__(self, reward: Mapping[str, Any] | Reward, frames: int | None = None, aggregate: str = 'mean') -> None:
        if aggregate not in AGGREGATES:
            raise ValueError(f'aggregate must be one of {tuple(AGGREGATES)}, got {aggregate!r}')
        if frames is not None and frames < 1:
            raise ValueError(f'frames must be at least 1 or None for all, got {frames}')
        self.reward = as_reward(REWARDS.build(reward, at='reward'))
        self.frames, self.aggregate = frames, AGGREGATES[aggregate]

    @property
    def differentiable(self) -> bool:
        return self.reward.differentiable

    def move(self, device: torch.device | str) -> None:
        self.reward.to(device)

    def __call__(
        self, pixels: Tensor, prompts: Sequence[str], metadata: Sequence[dict[str, Any]] | None = None
    ) -> RewardOutput:
        stills, count = self._stills(pixels, prompts)
        output = self.reward(stills, *_repeated(prompts, metadata, count))
        valid = output.valid.unflatten(0, (-1, count)).all(1)
        parts = {name: self.aggregate(v.unflatten(0, (-1, count))) for name, v in output.parts.items()}
        return RewardOutput(self.aggregate(output.scores.unflatten(0, (-1, count))), parts=parts, valid=valid)

    def differentiable_scores(
        self, pixels: Tensor, prompts: Sequence[str], metadata: Sequence[dict[str, Any]] | None = None
    ) -> Tensor:
        stills, count = self._stills(pixels, prompts)
        scores = self.reward.differentiable_scores(stills, *_repeated(prompts, metadata, count))
        return self.aggregate(scores.unflatten(0, (-1, count)))

    def _stills(self, pixels: Tensor, prompts: Sequence[str]) -> tuple[Tensor, int]:
        """The chosen frames ``(B * count, 3, 1, Y, X)``, and how many each clip has."""
        check_batch(pixels, prompts)
        total = pixels.shape[2]
        count = total if self.frames is None else min(self.frames, total)
        chosen = pixels[:, :, torch.linspace(0, total - 1, count).round().long()]
        return chosen.transpose(1, 2).flatten(0, 1)[:, :, None], count


def _repeated(
    prompts: Sequence[str], metadata: Sequence[dict[str, Any]] | None, count: int
) -> tuple[list[str], list[dict[str, Any]] | None]:
    """Prompts and records of clips, once for each of their frames."""
    records = None if metadata is None else [m for m in metadata for _ in range(count)]
    return [p for p in prompts for _ in range(count)], records
