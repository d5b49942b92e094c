"""PickScore v1."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from vipo.registry import REWARDS
from vipo.registry.build import torch_dtype
from vipo.rewards.base import check_batch_size
from vipo.rewards.clip_reward import ClipReward
from vipo.rewards.clip_towers import ClipTowers


@REWARDS.register_module()
class PickScoreReward(ClipReward):
    """A CLIP ViT-H/14 tuned on which of two pictures users picked (Kirstain et al. 2023, arXiv 2305.01569).

    The score is ``exp(logit_scale) cos(image, text) / scale``; about 18 to 24 for the public checkpoint and
    ``scale = 1``.

    Args:
        pretrained: hub id or local folder in transformers' layout, with its tokenizer.
        scale: divides the score. 1 is the score as published; trainers that mix it with other rewards divide by 26.
        batch_size: most pictures in one forward pass.
        device: of the weights, which then stay there; None follows the run.
        dtype: of the weights.

    Raises:
        ValueError: the checkpoint does not fit its config, or ``scale`` is not positive.
    """

    def __init__(
        self,
        pretrained: str = 'yuvalkirstain/PickScore_v1',
        scale: float = 1.0,
        batch_size: int = 64,
        device: str | None = None,
        dtype: str = 'float32',
    ) -> None:
        if not scale > 0:
            raise ValueError(f'reward.scale divides the score and must be positive, got {scale!r}')
        self.towers = ClipTowers.from_pretrained(pretrained, torch_dtype(dtype))
        self.place(device)
        self.factor = self.towers.logit_scale / scale
        self.batch_size = check_batch_size(batch_size)

    def score_pictures(self, pixels: Tensor, prompts: Sequence[str]) -> Tensor:
        return self.factor * self.towers.cosine(pixels, prompts)
