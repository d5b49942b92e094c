"""The size of a picture as a JPEG file, to be made small or large."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from vipo.registry import REWARDS
from vipo.rewards.picture import PictureReward
from vipo.rewards.preprocess import to_pil

if TYPE_CHECKING:
    from PIL import Image

_SIGNS = {'small': -1, 'large': 1}


@REWARDS.register_module()
class CompressibilityReward(PictureReward):
    """Kilobytes (1000 bytes) that a picture takes as a JPEG file (Black et al. 2023, arXiv 2305.13301).

    Larger pictures take more; compare scores at one resolution only. The prompt plays no part, and there is no
    gradient. A picture with a pixel that is no number has no score.

    Args:
        prefer: ``'small'`` scores minus the size (compressibility), ``'large'`` the size (incompressibility).
        quality: of the encoder, Pillow's with its default chroma subsampling.

    Raises:
        ValueError: an option is out of its range.
    """

    def __init__(self, prefer: str = 'small', quality: int = 95) -> None:
        if prefer not in _SIGNS:
            raise ValueError(f'reward.prefer must be one of {tuple(_SIGNS)}, got {prefer!r}')
        if not 1 <= quality <= 100:
            raise ValueError(f'reward.quality must be from 1 to 100, got {quality!r}')
        self.prefer = prefer
        self.quality = quality

    def score_pictures(self, pixels: Tensor, prompts: Sequence[str]) -> Tensor:
        sizes = torch.tensor([self._kilobytes(picture) for picture in to_pil(pixels)])
        known = pixels.isfinite().flatten(1).all(1).cpu()
        return torch.where(known, _SIGNS[self.prefer] * sizes, float('nan'))

    def _kilobytes(self, picture: Image.Image) -> float:
        file = io.BytesIO()
        picture.save(file, format='JPEG', quality=self.quality)
        return file.tell() / 1000
