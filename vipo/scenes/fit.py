"""A smooth reward that sees nothing but the named objects: how well they fill their places."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from vipo.registry import REWARDS
from vipo.rewards.base import Reward, RewardOutput, check_batch
from vipo.scenes.draw import named_masks, object_places
from vipo.scenes.grammar import COLORS, parse_prompt


@REWARDS.register_module()
class SceneFitReward(Reward):
    """Mean over the named objects of the overlap of what has their colour with their shape at their named place.

    A pixel has a colour by ``s = exp(-d^2 / (2 tolerance^2))``, with its distance d to it in RGB. With the mask m of
    the object the overlap is ``sum(s m) / sum(s + m - s m)``, from 0 to 1, over the squares where objects may lie. What
    is outside of them, the background, is not seen: for experiments in which it is known where the signal is.
    Drawings of the scene have about 0.6, since their objects are not just in the middle of their places.

    Args:
        tolerance: in RGB, where black and white are the square root of 3 apart.

    Raises:
        ValueError: the tolerance is not positive.
    """

    differentiable = True

    def __init__(self, tolerance: float = 0.25) -> None:
        if not tolerance > 0:
            raise ValueError(f'reward.tolerance must be positive, got {tolerance}')
        self.tolerance = tolerance

    def __call__(
        self, pixels: Tensor, prompts: Sequence[str], metadata: Sequence[dict[str, Any]] | None = None
    ) -> RewardOutput:
        return RewardOutput(self.differentiable_scores(pixels, prompts))

    def differentiable_scores(
        self, pixels: Tensor, prompts: Sequence[str], metadata: Sequence[dict[str, Any]] | None = None
    ) -> Tensor:
        check_batch(pixels, prompts)
        if not prompts:
            return pixels.new_zeros(0, dtype=torch.float32)
        return torch.stack([self._fit(p[:, 0].float(), prompt) for p, prompt in zip(pixels, prompts, strict=True)])

    def _fit(self, picture: Tensor, prompt: str) -> Tensor:
        scene, side = parse_prompt(prompt), picture.shape[-1]
        inside = object_places(scene, side).to(picture.device)
        masks = named_masks(scene, side).to(picture.device)[:, inside]
        colors = torch.tensor([COLORS[thing.color] for thing in scene.objects], device=picture.device)
        away = (picture[:, inside] - colors[..., None]).square().sum(1)
        same = (-away / (2 * self.tolerance**2)).exp()
        return ((same * masks).sum(-1) / (same + masks - same * masks).sum(-1)).mean()
