"""Picture pre-processing in torch: batched, on the device, differentiable."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

OPENAI_MEAN = (0.48145466, 0.4578275, 0.40821073)
OPENAI_STD = (0.26862954, 0.26130258, 0.27577711)


def resize_center_crop(pixels: Tensor, side: int, *, mode: str = 'bicubic', antialias: bool = True) -> Tensor:
    """Shorter edge to ``side``, then the central square: ``(N, 3, Y, X)`` -> ``(N, 3, side, side)``.

    Values are not clamped, as in torchvision's transforms on tensors; a bicubic filter may leave [0, 1] slightly.
    """
    height, width = pixels.shape[-2:]
    short = min(height, width)
    if short != side:
        # torchvision truncates the longer side.
        size = (side, int(side * width / height)) if height <= width else (int(side * height / width), side)
        pixels = F.interpolate(pixels, size=size, mode=mode, antialias=antialias, align_corners=False)
    height, width = pixels.shape[-2:]
    top, left = round((height - side) / 2), round((width - side) / 2)
    return pixels[..., top : top + side, left : left + side]


def normalize(pixels: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """``(x - mean) / std`` per channel of ``(N, 3, Y, X)``."""
    return (pixels - pixels.new_tensor(mean).reshape(3, 1, 1)) / pixels.new_tensor(std).reshape(3, 1, 1)
