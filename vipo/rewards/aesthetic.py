"""LAION aesthetic score, version 2."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vipo.registry import REWARDS
from vipo.registry.build import torch_dtype
from vipo.rewards.base import check_batch_size
from vipo.rewards.checkpoints import check_sha256, load_strictly, locate_file, read_tensors
from vipo.rewards.clip_reward import ClipReward
from vipo.rewards.clip_towers import ClipTowers
from vipo.rewards.linear_head import LinearHead

_PAGE = 'https://github.com/christophschuhmann/improved-aesthetic-predictor'
_FILE = 'sac+logos+ava1-l14-linearMSE.pth'
_SHA256 = '21dd590f3ccdc646f0d53120778b296013b096a035a2718c9cb0d511bff0f1e0'


@REWARDS.register_module()
class AestheticReward(ClipReward):
    """How people would rate a picture's looks, from the unit vector of a CLIP; the prompt plays no part.

    The published head is linear layers with nothing between them, so it is one affine map of the vector and is folded
    into it. About 4 to 7 for the published head on ``'openai/clip-vit-large-patch14'``.

    Args:
        head: the head's file, or a folder that holds it, under the published layer names ``layers.{0,2,4,6,7}``. The
            published one lies on GitHub, not on the hub; without it the error says where.
        sha256: refuse a head with another digest. A file of the published name is checked against the published
            digest anyway.
        pretrained: the CLIP that the head was trained on: hub id or local folder in transformers' layout.
        batch_size: most pictures in one forward pass.
        device: of the weights, which then stay there; None follows the run.
        dtype: of the CLIP; the affine map is float32.

    Raises:
        ValueError: no head is given, its digest, keys or shapes differ, or the CLIP does not fit its config.
    """

    reads_prompts = False

    def __init__(
        self,
        head: str | None = None,
        sha256: str | None = None,
        pretrained: str = 'openai/clip-vit-large-patch14',
        batch_size: int = 64,
        device: str | None = None,
        dtype: str = 'float32',
    ) -> None:
        if head is None:
            raise ValueError(
                f'reward.head must name the file of the head. Download {_FILE} (3.7 MB) from {_PAGE} and set '
                f'reward.head=/path/to/{_FILE}'
            )
        path = locate_file(head, '', _FILE, 'reward.head')
        if sha256 is not None or path.name == _FILE:
            check_sha256(path, sha256 or _SHA256)
        # The published code crops as OpenAI's package does.
        self.towers = ClipTowers.from_pretrained(pretrained, torch_dtype(dtype), offset='round')
        width = self.towers.model.config.projection_dim
        self.weight, self.bias = load_strictly(lambda: LinearHead(width), read_tensors(path), path).fold()
        del self.towers.model.text_model, self.towers.model.text_projection
        self.batch_size = check_batch_size(batch_size)
        self.place(device)

    @classmethod
    def rehearsal(cls, options: dict[str, Any], folder: Path) -> dict[str, Any]:
        """What changes in these options for a rehearsal, see :mod:`vipo.engine.rehearsal`."""
        from vipo.rewards.twins import write_aesthetic_head

        head = write_aesthetic_head(folder / 'aesthetic')
        return {**super().rehearsal(options, folder), 'head': head, 'sha256': None}

    def move(self, device: torch.device | str) -> None:
        super().move(device)
        self.weight, self.bias = self.weight.to(device), self.bias.to(device)

    def score_pictures(self, pixels: Tensor, prompts: Sequence[str]) -> Tensor:
        return self.towers.image(pixels) @ self.weight + self.bias
