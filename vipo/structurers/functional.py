"""The maths of allocation maps, batched: smoothing, scaling, alignment in space and time."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def minmax(x: Tensor, dims: tuple[int, ...]) -> Tensor:
    """Scale to [0, 1] over ``dims``; what is constant there, up to rounding, becomes 0."""
    low, high = x.amin(dims, keepdim=True), x.amax(dims, keepdim=True)
    span = high - low
    flat = span <= 1e-6 * torch.maximum(low.abs(), high.abs())
    return torch.where(flat, 0.0, (x - low) / span.masked_fill(flat, 1.0))


def gaussian_blur(x: Tensor, sigma: float) -> Tensor:
    """Separable Gaussian on the last two axes, cut at 4 sigma, borders mirrored (``scipy.ndimage`` mode 'reflect')."""
    if sigma == 0:
        return x
    rows = _blur_matrix(x.shape[-2], sigma).to(x)
    columns = _blur_matrix(x.shape[-1], sigma).to(x)
    return rows @ x @ columns.mT


def _blur_matrix(size: int, sigma: float) -> Tensor:
    return torch.from_numpy(_blur_weights(size, sigma))


@lru_cache(maxsize=64)
def _blur_weights(size: int, sigma: float) -> NDArray[np.float64]:
    radius = int(4 * sigma + 0.5)
    offsets = np.arange(-radius, radius + 1)
    kernel = np.exp(-0.5 * (offsets / sigma) ** 2)
    source = (np.arange(size)[:, None] + offsets) % (2 * size)
    source = np.where(source >= size, 2 * size - 1 - source, source)
    weights = np.zeros((size, size))
    np.add.at(weights, (np.arange(size)[:, None], source), kernel / kernel.sum())
    return weights


def resize_to_grid(maps: Tensor, height: int, width: int, offset: float = 0.0) -> Tensor:
    """Bilinear with antialias: ``(B, F, h, w)`` -> ``(B, F, height, width)``.

    Args:
        offset: of the positions, see :class:`vipo.structurers.backbones.Features`.
    """
    if maps.shape[-2:] == (height, width) and not offset:
        return maps
    rows = resize_matrix(maps.shape[-2], height, offset).to(maps)
    columns = resize_matrix(maps.shape[-1], width, offset).to(maps)
    return rows @ maps @ columns.mT


def resize_matrix(size: int, target: int, offset: float = 0.0, target_offset: float = 0.0) -> Tensor:
    """Weights ``(target, size)`` of a linear resize with antialias, as PIL's, between positions that may be off.

    Position i of n stands for the place (i + 0.5 + offset) / n of a side. Beyond the outermost places nothing changes.
    """
    return torch.from_numpy(_resize_weights(size, target, offset, target_offset))


@lru_cache(maxsize=64)
def _resize_weights(size: int, target: int, offset: float, target_offset: float) -> NDArray[np.float64]:
    scale = size / target
    wanted = (np.arange(target) + 0.5 + target_offset) * scale - offset
    distance = np.abs(np.arange(size) + 0.5 - wanted.clip(0.5, size - 0.5)[:, None])
    weights = (1 - distance / max(scale, 1.0)).clip(min=0)
    return weights / weights.sum(1, keepdims=True)


def align_in_time(maps: Tensor, frames: int) -> Tensor:
    """Pool pixel frames to the latent frames of a causal video autoencoder.

    Latent frame 0 is pixel frame 0; with a time stride of r, latent frame k > 0 is the mean of pixel frames
    ``r (k - 1) + 1 .. r k``.

    Args:
        maps: ``(B, F, h, w)``.
        frames: latent frames T, with ``F = r (T - 1) + 1``.

    Raises:
        ValueError: no whole stride r fits.
    """
    count = maps.shape[1]
    if count == frames:
        return maps
    stride = _stride(count, frames)
    later = maps[:, 1:].unflatten(1, (frames - 1, stride)).mean(2)
    return torch.cat([maps[:, :1], later], dim=1)


def latent_frames(count: int, frames: int) -> range:
    """The last of the pixel frames that go into each latent frame, see :func:`align_in_time`.

    Raises:
        ValueError: no whole stride fits ``count`` pixel frames to ``frames`` latent ones.
    """
    return range(0, count, 1 if count == frames else _stride(count, frames))


def _stride(count: int, frames: int) -> int:
    stride, rest = divmod(count - 1, max(frames - 1, 1))
    if frames == 1 or rest or stride < 1:
        raise ValueError(
            f'{count} pixel frames do not belong to {frames} latent frames of a causal autoencoder: '
            'F must be r * (T - 1) + 1 for a whole number r'
        )
    return stride


def blur_in_time(maps: Tensor, sigma: float) -> Tensor:
    """Gaussian over the frames of ``(B, T, h, w)``, cut at 4 sigma, ends mirrored."""
    if sigma == 0 or maps.shape[1] == 1:
        return maps
    return torch.einsum('st,bthw->bshw', _blur_matrix(maps.shape[1], sigma).to(maps), maps)


def of_one_colour(pixels: Tensor) -> Tensor:
    """Whether each frame ``(B, F)`` of pixels ``(B, C, F, Y, X)`` has one colour, to within half a step of 8 bits."""

    def constant(frames: Tensor) -> Tensor:
        values = frames.flatten(-2)
        return (values.amax(-1) - values.amin(-1) <= 0.5 / 255).all(-1)

    frames = pixels.transpose(1, 2)
    flat = constant(frames[..., :: -(-pixels.shape[-2] // 4), :: -(-pixels.shape[-1] // 4)])
    if flat.any():  # few frames get here: reading every pixel takes as long as all that is done with their features
        flat[flat.clone()] = constant(frames[flat])
    return flat


def entropy(maps: Tensor) -> Tensor:
    """Entropy of each map taken as a distribution, divided by its maximum: 1 is uniform, 0 a single position."""
    p = maps.flatten(1)
    p = p / p.sum(1, keepdim=True)
    return -torch.special.xlogy(p, p).sum(1) / math.log(p.shape[1])
