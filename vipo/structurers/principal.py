"""Principal components of many items at once: a few products with the data where those are shown to suffice."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from vipo.registry import ConfigError

#: Up to this many patches or features an exact decomposition costs next to nothing.
_SMALL = 64
#: Rows of a Krylov block beyond the components that are asked for: more rows, fewer blocks.
_EXTRA = 9
#: Ritz vectors beyond the components whose residuals are watched.
_WATCHED = 4
#: On a CPU, bytes per thread of the items that are worked on together: they stay in its cache between the products.
_CACHE = 4 * 2**20
#: Of a number in float32 sums, relative to the largest eigenvalue.
_ROUNDING = 2e-7


def principal_components(tokens: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """PCA of each item's tokens.

    The sign of a principal axis is arbitrary; here the axis entry of largest magnitude is positive, as in scikit-learn.
    The axes come from a few products with the tokens where those are shown to suffice, see :func:`_krylov`, and from
    the exact decomposition elsewhere.

    Args:
        tokens: ``(..., N, D)``.
        count: K, at most ``min(N, D)``.

    Returns:
        Projections ``(..., N, K)``, axes ``(..., K, D)`` and variances ``(..., K)`` over the N tokens (divided by N -
        1), in descending order. Variances and projections of a constant item are 0.

    Raises:
        ConfigError: fewer than K components can be had.
    """
    n, d = tokens.shape[-2:]
    if not 1 <= count <= min(n, d):
        raise ConfigError(f'cannot take {count} principal components of {n} patches with {d} features')
    x = tokens.reshape(-1, n, d).mT  # features before patches, as backbones give them
    together = max(1, len(x) if x.is_cuda else _CACHE * torch.get_num_threads() // (4 * n * d))
    parts = [_leading(part.float(), count) for part in x.split(together)]
    projected, axes, values = (torch.cat(each) for each in zip(*parts, strict=True))
    largest = axes.gather(-1, axes.abs().argmax(-1, keepdim=True))
    sign = torch.where(largest < 0, -1.0, 1.0)
    lead = tokens.shape[:-2]
    return (
        (projected * sign).mT.reshape(*lead, n, count),
        (axes * sign).reshape(*lead, count, d),
        (values / max(n - 1, 1)).reshape(*lead, count),
    )


def _leading(x: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Projections ``(M, K, N)``, axes ``(M, K, D)`` and eigenvalues ``(M, K)`` of the scatter of ``(M, D, N)``."""
    if min(x.shape[1:]) <= max(_SMALL, 6 * (count + _EXTRA)):
        projected, axes = _exact(x, count)
    else:
        projected, axes, sure = _krylov(x, count)
        if not sure.all():
            projected[~sure], axes[~sure] = _exact(x[~sure], count)
    values = projected.square().sum(-1)
    something = values > _nothing(x)[:, None]
    return projected * something[..., None], axes, values * something


def _nothing(x: Tensor) -> Tensor:
    """The eigenvalue ``(M,)`` that rounding makes of ``(M, D, N)`` where all N tokens are the same."""
    return 1e-11 * x.shape[-1] * x[..., 0].square().sum(-1)


def _exact(x: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Projections ``(M, K, N)`` and axes ``(M, K, D)`` of ``(M, D, N)``, by way of float64."""
    centred = x.double()
    centred = centred - centred.mean(-1, keepdim=True)
    if x.shape[1] <= x.shape[2]:
        axes = torch.linalg.eigh(centred @ centred.mT)[1][..., -count:].flip(-1).mT
    else:
        vectors = torch.linalg.eigh(centred.mT @ centred)[1][..., -count:].flip(-1)
        axes = F.normalize((centred @ vectors).mT, dim=-1)
    return (axes @ centred).float(), axes.float()


def _krylov(x: Tensor, count: int, steps: int = 5, tolerance: float = 1e-4) -> tuple[Tensor, Tensor, Tensor]:
    """The leading axes from a block Krylov space (Musco and Musco 2015, arXiv 1504.05477), and whether they are sure.

    The space grows until every item is sure, or would not become so, or ``steps`` blocks are in it. The axes are the
    images of the Ritz vectors, one power step further than these, for which :func:`_error` holds. Vectors are rows,
    which multiply faster.

    Args:
        x: ``(M, D, N)`` float32.

    Returns:
        Projections ``(M, K, N)``, axes ``(M, K, D)`` and ``(M,)`` bool.
    """
    block, watched, n = count + _EXTRA, count + _WATCHED, x.shape[-1]
    start = torch.randn(block + 1, n, generator=torch.Generator().manual_seed(0)).to(x)
    start -= start.mean(-1, keepdim=True)
    start[-1] = 1 / n
    first = start @ x.mT
    last, mean = _orthonormal(first[:, :-1]), first[:, -1:]
    basis = images = last[:, :0]
    for step in range(steps):
        product = _centred(last @ x)  # as if x were centred, which is never stored
        image = product @ x.mT - product.sum(-1, keepdim=True) * mean  # the scatter times each row
        basis, images = torch.cat([basis, last], dim=1), torch.cat([images, image], dim=1)
        if step:
            small = (basis @ images.mT).double()
            values, vectors = torch.linalg.eigh((small + small.mT) / 2)
            values, rows = values[:, -watched:].flip(-1), vectors[..., -watched:].flip(-1).mT.to(x)
            axes, raised = rows @ basis, rows @ images
            residuals = (raised - axes * values[..., None].to(x)).norm(dim=-1).double()
            error, least = _error(values, residuals, count)
            silent = values[:, 0] <= _nothing(x)
            sure = silent | (error <= tolerance)
            if step == steps - 1 or (sure | (least > tolerance)).all():
                break
        last = _orthonormal(_without(image, basis))
    axes = F.normalize(raised[:, :count], dim=-1)
    return _centred(axes @ x), axes, sure


def _error(values: Tensor, residuals: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """By how much the image of a Ritz vector is off at most, and how much of that is rounding.

    The residual of a Ritz vector is orthogonal to the others, so what it lacks lies where eigenvalues are below the
    last one watched (Davis and Kahan); a power step shrinks that by their ratio. Two Ritz vectors mix only through what
    both lack, and through rounding, which weighs the more the nearer their eigenvalues are.

    Args:
        values, residuals: Ritz values, descending, and norms of the residuals, ``(M, L)`` float64.
        count: K, how many of them matter.

    Returns:
        Of the worst of K axes, ``(M,)`` each; not a number where fewer than K eigenvalues are distinct from the last.
    """
    own, others, beyond = values[:, :count, None], values[:, None, :-1], values[:, -1, None]
    lacks = residuals[:, :count] / (own[..., 0] - beyond)
    apart = (own - others).abs()
    apart.diagonal(dim1=1, dim2=2).fill_(torch.inf)
    mixed = (lacks[..., None] * residuals[:, None, :-1] / apart * (others / own).clamp(max=1)).sum(-1)
    rounding = _ROUNDING * values[:, :1] / torch.minimum(apart.amin(-1), own[..., 0] - beyond)
    error = lacks * beyond / own[..., 0] + mixed + rounding
    return error.amax(-1), rounding.amax(-1)


def _centred(rows: Tensor) -> Tensor:
    return rows - rows.mean(-1, keepdim=True)


def _without(rows: Tensor, basis: Tensor) -> Tensor:
    """Rows less their part in the span of orthonormal rows; twice, as once leaves what rounding brings back."""
    for _ in range(2):
        rows = rows - (rows @ basis.mT) @ basis
    return rows


def _orthonormal(rows: Tensor) -> Tensor:
    return torch.linalg.qr(rows.mT).Q.mT
