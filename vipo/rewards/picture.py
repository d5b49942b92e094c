"""What rewards of single pictures share."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from vipo.rewards.base import Reward, RewardOutput, check_batch


class PictureReward(Reward):
    """A reward of still pictures. A clip is refused: :class:`~vipo.rewards.FrameReward` says which frames count.

    Attributes:
        batch_size: most pictures in one forward pass.
    """

    batch_size: int = 64

    def __call__(
        self, pixels: Tensor, prompts: Sequence[str], metadata: Sequence[dict[str, Any]] | None = None
    ) -> RewardOutput:
        with torch.no_grad():
            return RewardOutput(self._in_batches(pixels, prompts))

    def differentiable_scores(
        self, pixels: Tensor, prompts: Sequence[str], metadata: Sequence[dict[str, Any]] | None = None
    ) -> Tensor:
        return self._in_batches(pixels, prompts)

    def _in_batches(self, pixels: Tensor, prompts: Sequence[str]) -> Tensor:
        check_batch(pixels, prompts)
        check_pictures(self, pixels)
        scores = [
            self.score_pictures(pixels[i : i + self.batch_size, :, 0], prompts[i : i + self.batch_size])
            for i in range(0, len(pixels), self.batch_size)
        ]
        return torch.cat(scores)

    @abstractmethod
    def score_pictures(self, pixels: Tensor, prompts: Sequence[str]) -> Tensor:
        """Scores ``(N,)`` of pictures ``(N, 3, Y, X)`` in [0, 1], differentiable with respect to the pixels unless
        the class says otherwise (:attr:`Reward.differentiable`).
        """


def check_pictures(reward: Reward, pixels: Tensor) -> None:
    """Refuse clips.

    Raises:
        ValueError: ``(B, 3, F, Y, X)`` have more than one frame.
    """
    if pixels.shape[2] != 1:
        name = type(reward).__name__
        raise ValueError(
            f'{name} scores pictures, and these are clips of {pixels.shape[2]} frames. Say which frames count: '
            f"reward=dict(type='FrameReward', reward=dict(type='{name}', ...))"
        )
