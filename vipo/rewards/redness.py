"""How red pictures are: the ViPO paper's reward that needs no model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from vipo.registry import REWARDS
from vipo.rewards.base import Reward, RewardOutput, check_batch


@REWARDS.register_module()
class RednessReward(Reward):
    """Mean over the pixels of ``red - (green + blue) / 2`` (arXiv 2511.18719); from -1 to 1, 0 for grey.

    Clips are taken as they are: the mean then runs over all frames alike.
    """

    differentiable = True

    def __call__(
        self, pixels: Tensor, prompts: Sequence[str], metadata: Sequence[dict[str, Any]] | None = None
    ) -> RewardOutput:
        check_batch(pixels, prompts)
        return RewardOutput(redness(pixels))

    def differentiable_scores(
        self, pixels: Tensor, prompts: Sequence[str], metadata: Sequence[dict[str, Any]] | None = None
    ) -> Tensor:
        check_batch(pixels, prompts)
        return redness(pixels)


def redness(pixels: Tensor) -> Tensor:
    """``(N,)``: the mean of ``red - (green + blue) / 2`` over all but the first two axes of ``(N, 3, ...)``."""
    red, green, blue = pixels.float().flatten(2).mean(-1).unbind(1)
    return red - (green + blue) / 2
