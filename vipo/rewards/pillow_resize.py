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
    pixels = quantize(pixels)
    if pixels.shape[-1] != size[1]:
        pixels = _along(pixels, size[1])
    if pixels.shape[-2] != size[0]:
        pixels = _along(pixels.mT, size[0]).mT
    return pixels


def quantize(pixels: Tensor) -> Tensor:
    """To the nearest of 256 levels in [0, 1]; the gradient passes as if nothing were rounded or cut."""
    levels = (pixels.clamp(0, 1) * 255).round() / 255
    return pixels + (levels - pixels).detach()


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


def _along(pixels: Tensor, size: int) -> Tensor:
    """Resize the last axis of levels."""
    weights = bicubic_weights(pixels.shape[-1], size).to(pixels.device)
    with torch.no_grad():  # whole numbers below 2^53: exact
        levels = (pixels.double() * 255).round() @ weights.mT
        exact = ((levels + 2 ** (_BITS - 1)) / 2**_BITS).floor().clamp(0, 255) / 255
    exact = exact.to(pixels.dtype)
    if not pixels.requires_grad:
        return exact
    smooth = pixels @ (weights.mT / 2**_BITS).to(pixels.dtype)
    return smooth + (exact - smooth).detach()
