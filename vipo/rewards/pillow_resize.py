"""Pillow's bicubic resize of 8-bit pictures, level by level, in torch: batched, on the device, differentiable.

Published scores were trained and measured on pictures that Pillow resized. It computes in fixed point and rounds after
each axis, so a float resize gives other levels at edges; here every level is the same. X comes first, as in
the Pillow of the checkpoints' time; Pillow 13 begins with Y where a picture shrinks more along it, which moves some
levels by one.
"""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor

#: Bits behind the point of Pillow's weights for 8-bit channels.
_BITS = 22


def resize_as_pillow(pixels: Tensor, size: tuple[int, int]) -> Tensor:
    """``(N, 3, Y, X)`` in [0, 1], read as 256 levels, to ``size``; the gradient passes as if nothing were rounded."""
    with torch.no_grad():
        levels = (pixels.clamp(0, 1) * 255).round().double()
        if pixels.shape[-1] != size[1]:
            levels = _rounded(levels @ _weights(pixels, -1, size[1]).mT)
        if pixels.shape[-2] != size[0]:
            levels = _rounded(_weights(pixels, -2, size[0]) @ levels)
        exact = levels.to(pixels.dtype).div_(255)
    if not pixels.requires_grad:
        return exact
    smooth = pixels
    if pixels.shape[-1] != size[1]:
        smooth = smooth @ _weights(pixels, -1, size[1]).mT.to(pixels.dtype)
    if pixels.shape[-2] != size[0]:
        smooth = _weights(pixels, -2, size[0]).to(pixels.dtype) @ smooth
    return smooth + (exact - smooth).detach()


def quantize(pixels: Tensor) -> Tensor:
    """To the nearest of 256 levels in [0, 1]; the gradient passes as if nothing were rounded or cut."""
    levels = pixels.detach().clamp(0, 1).mul_(255).round_().div_(255)
    return pixels + (levels - pixels).detach() if pixels.requires_grad else levels


@lru_cache(maxsize=64)
def bicubic_weights(before: int, after: int) -> Tensor:
    """Weights ``(after, before)`` in units of 2^-22, whole numbers in float64.

    The cubic with a = -1/2, as wide as the pictures shrink, cut off at the border, normalised and rounded.
    """
    scale = before / after
    stretch = max(scale, 1.0)
    out = torch.zeros(after, before, dtype=torch.float64)
    for i in range(after):
        middle = (i + 0.5) * scale
        first = max(0, int(middle - 2 * stretch + 0.5))
        last = min(before, int(middle + 2 * stretch + 0.5))
        weights = [_cubic(abs(j + 0.5 - middle) / stretch) for j in range(first, last)]
        total = sum(weights)
        whole = [math.copysign(int(abs(w / total) * 2**_BITS + 0.5), w) for w in weights]
        out[i, first:last] = torch.tensor(whole, dtype=torch.float64)
    return out


def _cubic(x: float) -> float:
    if x < 1:
        return (1.5 * x - 2.5) * x * x + 1
    return ((-0.5 * x + 2.5) * x - 4) * x + 2 if x < 2 else 0.0


def _weights(pixels: Tensor, axis: int, size: int) -> Tensor:
    """Weights ``(size, length of the axis)`` in float64, exact: a power of two is all that they are divided by."""
    return bicubic_weights(pixels.shape[axis], size).to(pixels.device) / 2**_BITS


def _rounded(levels: Tensor) -> Tensor:
    """To whole levels, in place; sums of 30 bits are exact in float64."""
    return levels.add_(0.5).floor_().clamp_(0, 255)
