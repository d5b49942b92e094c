"""Picture pre-processing in torch: batched, on the device, differentiable."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch.nn.functional as F
from torch import Tensor

from vipo.rewards.pillow_resize import quantize, resize_as_pillow

if TYPE_CHECKING:
    from PIL import Image

OPENAI_MEAN = (0.48145466, 0.4578275, 0.40821073)
OPENAI_STD = (0.26862954, 0.26130258, 0.27577711)


def resize_center_crop(
    pixels: Tensor,
    side: int,
    *,
    mode: str = 'bicubic',
    antialias: bool = True,
    levels: bool = False,
    offset: str = 'round',
) -> Tensor:
    """Shorter edge to ``side``, then the central square: ``(N, 3, Y, X)`` -> ``(N, 3, side, side)``.

    Args:
        levels: exactly as Pillow resizes pictures of 8 bits (bicubic), see :mod:`vipo.rewards.pillow_resize`; ``mode``
            and ``antialias`` then have no say. False does both axes at once and rounds nothing, as torchvision's
            transforms on float tensors do; a bicubic filter may then leave [0, 1] slightly.
        offset: where the square begins when the margin is odd: ``'round'`` is half to even (torchvision), ``'down'``
            is what the processors of transformers do.
    """
    height, width = pixels.shape[-2:]
    if min(height, width) != side:
        # The longer side is truncated, in torchvision as in transformers.
        size = (side, int(side * width / height)) if height <= width else (int(side * height / width), side)
        if levels:
            pixels = resize_as_pillow(pixels, size)
        else:
            pixels = F.interpolate(pixels, size=size, mode=mode, antialias=antialias, align_corners=False)
    elif levels:
        pixels = quantize(pixels)
    begin = round if offset == 'round' else int
    top, left = (begin((length - side) / 2) for length in pixels.shape[-2:])
    return pixels[..., top : top + side, left : left + side]


def normalize(pixels: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """``(x - mean) / std`` per channel of ``(N, 3, Y, X)``."""
    return (pixels - pixels.new_tensor(mean).reshape(3, 1, 1)) / pixels.new_tensor(std).reshape(3, 1, 1)


def to_pil(pixels: Tensor) -> list[Image.Image]:
    """Pictures ``(N, 3, Y, X)`` in [0, 1] as PIL's, rounded to 8 bits."""
    from PIL import Image

    # One at a time: what lies between float and file then stays in the processor's cache.
    levels = ((picture.detach().clamp(0, 1) * 255).round().byte().permute(1, 2, 0) for picture in pixels)
    return [Image.fromarray(level.cpu().contiguous().numpy()) for level in levels]
