"""The maths of allocation maps, batched: principal components, smoothing, scaling, alignment in space and time."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from vipo.registry import ConfigError

#: Up to this many patches or features an exact decomposition costs next to nothing.
_SMALL = 64


def principal_components(tokens: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """PCA of each item's tokens.

    The sign of a principal axis is arbitrary; here the axis entry of largest magnitude is positive, as in scikit-learn.
    The axes come from a few products with the tokens where those are shown to suffice, see :func:`_krylov`, and from
    the exact decomposition elsewhere.

    Args:
        tokens: ``(..., N, D)``.
        count: K, at most ``min(N, D)``.

    Returns:
        Projections ``(..., N, K)``, axes ``(..., K, D)`` and explained variance ratios ``(..., K)``, in descending
        order of variance. A constant item has ratios of 0.

    Raises:
        ConfigError: fewer than K components can be had.
    """
    n, d = tokens.shape[-2:]
    if not 1 <= count <= min(n, d):
        raise ConfigError(f'cannot take {count} principal components of {n} patches with {d} features')
    x = tokens.float().reshape(-1, n, d).mT  # features before patches, as backbones give them
    mean = x.mean(-1, keepdim=True)
    if min(n, d) <= max(_SMALL, 8 * (count + 5)):
        axes, values, projected = _exact(x, mean, count)
    else:
        axes, values, projected, sure = _krylov(x, mean, count)
        if not sure.all():
            axes[~sure], values[~sure], projected[~sure] = _exact(x[~sure], mean[~sure], count)
    largest = axes.gather(-1, axes.abs().argmax(-1, keepdim=True))
    sign = torch.where(largest < 0, -1.0, 1.0)
    axes, projected = axes * sign, (projected * sign).mT
    total = _total_scatter(x, mean)
    ratio = torch.where(total > 0, values.clamp(min=0) / total, 0.0).float()
    lead = tokens.shape[:-2]
    return projected.reshape(*lead, n, count), axes.reshape(*lead, count, d), ratio.reshape(*lead, count)


def _total_scatter(x: Tensor, mean: Tensor) -> Tensor:
    """``sum |x - mean|^2`` of each ``(M, D, N)``, as ``(M, 1)`` float64."""
    whole = torch.linalg.vector_norm(x, dim=(1, 2)).double().square()
    total = whole - x.shape[-1] * mean.double().square().sum((1, 2))
    lost = total < 1e-2 * whole  # the difference of two large numbers: these once more, the long way
    if lost.any():
        total[lost] = x[lost].var(-1, correction=0).double().sum(-1) * x.shape[-1]
    return total.clamp(min=0)[:, None]


def _exact(x: Tensor, mean: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Axes ``(M, K, D)``, eigenvalues ``(M, K)`` and projections ``(M, K, N)`` of ``(M, D, N)``, by way of float64."""
    centred = x.double() - mean.double()
    centred -= centred.mean(-1, keepdim=True)  # what rounding of a large mean has left
    if x.shape[1] <= x.shape[2]:
        values, vectors = torch.linalg.eigh(centred @ centred.mT)
        axes = vectors[..., -count:].flip(-1).mT
    else:
        values, vectors = torch.linalg.eigh(centred.mT @ centred)
        axes = F.normalize((centred @ vectors[..., -count:].flip(-1)).mT, dim=-1)
    return axes.float(), values[..., -count:].flip(-1), (axes @ centred).float()


def _krylov(
    x: Tensor, mean: Tensor, count: int, steps: int = 5, tolerance: float = 1e-4
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The leading axes from a block Krylov space (Musco and Musco 2015, arXiv 1504.05477), and whether they are sure.

    An axis is off by at most its residual over the distance of its eigenvalue from the nearest other one (Davis and
    Kahan). Where that is below ``tolerance`` for all axes the item is sure; a spectrum without gaps is not. The space
    grows until all items are sure or ``steps`` blocks are in it. Vectors are rows, which multiply faster.

    Args:
        x: ``(M, D, N)`` float32.
        mean: over N, ``(M, D, 1)``.

    Returns:
        Axes ``(M, K, D)``, eigenvalues ``(M, K)`` float64, projections ``(M, K, N)`` and ``(M,)`` bool.
    """
    start = torch.randn(max(16, count + 5), x.shape[-1], generator=torch.Generator().manual_seed(0)).to(x)
    last = _orthonormal((start - start.mean(-1, keepdim=True)) @ x.mT)
    basis, seen, images = last[:, :0], x[:, :0], last[:, :0]
    for step in range(steps):
        product = last @ x
        product = product - product.mean(-1, keepdim=True)  # as if x were centred, which is never stored
        image = product @ x.mT - product.sum(-1, keepdim=True) * mean.mT  # the scatter times each row
        basis, images = torch.cat([basis, last], dim=1), torch.cat([images, image], dim=1)
        seen = torch.cat([seen, product], dim=1)
        small = (basis @ images.mT).double()
        values, vectors = torch.linalg.eigh((small + small.mT) / 2)
        values, rows = values[:, -count - 3 :].flip(-1), vectors[..., -count - 3 :].flip(-1).mT.to(x)
        axes = rows @ basis
        residual = rows @ images - axes * values[..., None].to(x)
        gaps = values[:, :count] - values[:, 1 : count + 1]
        nearest = torch.minimum(gaps, F.pad(gaps[:, :-1], (1, 0), value=torch.inf))
        sure = (residual[:, :count].norm(dim=-1).double() <= tolerance * nearest).all(-1)
        if sure.all() or step == steps - 1:
            break
        last = _orthonormal(_without(residual, basis))
    return axes[:, :count].contiguous(), values[:, :count].contiguous(), (rows @ seen)[:, :count], sure


def _without(rows: Tensor, basis: Tensor) -> Tensor:
    """Rows less their part in the span of orthonormal rows; twice, as once leaves what rounding brings back."""
    for _ in range(2):
        rows = rows - (rows @ basis.mT) @ basis
    return rows


def _orthonormal(rows: Tensor) -> Tensor:
    return torch.linalg.qr(rows.mT).Q.mT


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
    radius = int(4 * sigma + 0.5)
    offsets = torch.arange(-radius, radius + 1)
    kernel = torch.exp(-0.5 * (offsets.double() / sigma) ** 2)
    kernel = kernel / kernel.sum()
    source = (torch.arange(size)[:, None] + offsets) % (2 * size)
    source = torch.where(source >= size, 2 * size - 1 - source, source)
    return torch.zeros(size, size, dtype=torch.float64).scatter_add_(1, source, kernel.expand(size, -1))


def resize_to_grid(maps: Tensor, height: int, width: int) -> Tensor:
    """Bilinear with antialias: ``(B, F, h, w)`` -> ``(B, F, height, width)``."""
    if maps.shape[-2:] == (height, width):
        return maps
    return F.interpolate(maps, size=(height, width), mode='bilinear', antialias=True, align_corners=False)


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


def latent_frames(count: int, frames: int) -> list[int]:
    """The last of the pixel frames that go into each latent frame, see :func:`align_in_time`.

    Raises:
        ValueError: no whole stride fits ``count`` pixel frames to ``frames`` latent ones.
    """
    return list(range(count)) if count == frames else list(range(0, count, _stride(count, frames)))


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


def entropy(maps: Tensor) -> Tensor:
    """Entropy of each map taken as a distribution, divided by its maximum: 1 is uniform, 0 a single position."""
    p = maps.flatten(1)
    p = p / p.sum(1, keepdim=True)
    return -torch.special.xlogy(p, p).sum(1) / math.log(p.shape[1])
