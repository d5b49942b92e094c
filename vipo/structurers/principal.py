"""Principal components of many items at once: a few products with the data where those suffice."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from vipo.registry import ConfigError

#: Up to this many patches or features an exact decomposition costs next to nothing.
_SMALL = 64
#: Directions that are searched for beyond the components that are asked for: more directions, fewer products.
_EXTRA = 13
#: By how much of their spread the tokens of half the items in a row may change to the next one, as root mean squares.
#: One item in ``_APART`` is then searched from nothing, for so many directions beyond the components that are asked for
#: or, if these are fewer, three; the search in each begins from so many of the strongest of these, and of its own.
_ALIKE = 0.5
_APART = 5
_EXTRA_OF_FEW = 5
_EXTRA_OF_OTHERS = 3
_OWN = 2
#: Of a projection's error relative to the projection, both as root mean squares.
_TOLERANCE = 1e-4
#: Of a residual, relative to its Ritz value: up to this an eigenvalue is taken as found.
_RESOLVED = 0.2
#: Of the last Ritz value that matters: where one that is not resolved may be as large, it may be of a component too.
_HIDDEN = 0.5
#: Of a number in float32 sums, relative to the largest eigenvalue.
_ROUNDING = 2e-7
#: Of the largest eigenvalue: where products of products with the scatter stay within float32.
_RANGE = 1e-10, 1e16
#: In place of a divisor of 0.
_TINY = 1e-200
#: On a CPU, bytes per thread of the items that are worked on together.
_TOGETHER = 32 * 2**20


@torch.no_grad()
def principal_components(tokens: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """PCA of each item's tokens.

    The sign of a principal axis is arbitrary; here the axis entry of largest magnitude is positive, as in scikit-learn.
    The axes come from a few products with the tokens where a projection is then off by no more than 1e-4 of its size,
    as :func:`_error` estimates, and from the exact decomposition elsewhere.

    Args:
        tokens: ``(..., N, D)``. It is faster where items in a row are alike, as frames of a clip are.
        count: K, at most ``min(N, D)``.

    Returns:
        Projections ``(..., N, K)``, axes ``(..., K, D)`` and variances ``(..., K)`` over the N tokens (divided by N -
        1), in descending order. Variances and projections of a constant item are 0.

    Raises:
        ConfigError: fewer than K components can be had.
        FloatingPointError: a token is not finite, or its square is not in float32.
    """
    *lead, n, d = tokens.shape
    if not 1 <= count <= min(n, d):
        raise ConfigError(f'cannot take {count} principal components of {n} patches with {d} features')
    x = tokens.reshape(-1, n, d)
    together = max(1, len(x) if x.is_cuda else _TOGETHER * torch.get_num_threads() // (4 * n * d))
    parts = [_leading(part.float(), count) for part in x.split(together)]
    projected, axes = parts[0] if len(parts) == 1 else (torch.cat(each) for each in zip(*parts, strict=True))
    values = _finite(projected.square().sum(-1))
    something = values > _nothing(x)[:, None]
    largest = axes.gather(-1, axes.abs().argmax(-1, keepdim=True))
    sign = torch.where(largest < 0, -1.0, 1.0)
    return (
        (projected * (sign * something[..., None])).mT.reshape(*lead, n, count),
        (axes * sign).reshape(*lead, count, d),
        (values * something / max(n - 1, 1)).reshape(*lead, count),
    )


def _leading(x: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Projections ``(M, K, N)`` and axes ``(M, K, D)`` of ``(M, N, D)``."""
    if min(x.shape[1:]) <= max(_SMALL, 5 * (count + _EXTRA)):
        return _exact(x, count)
    try:
        axes, sure = _search(x, _directions(x, count), count)
    except FloatingPointError:  # of 1e17 and more float32 has no products
        return _exact(x, count)
    projected = _projected(x, axes)
    if not sure.all():
        for few in (~sure).nonzero()[:, 0].split(8):
            projected[few], axes[few] = _exact(x[few], count)
    return projected, axes


def _nothing(x: Tensor) -> Tensor:
    """The eigenvalue ``(M,)`` that rounding makes of ``(M, N, D)`` where all N tokens are the same."""
    return 1e-11 * x.shape[1] * x[:, 0].float().square().sum(-1)


def _exact(x: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Projections ``(M, K, N)`` and axes ``(M, K, D)`` of ``(M, N, D)``, by way of float64."""
    centred = _centred(x.double(), 1)
    if x.shape[2] <= x.shape[1]:
        axes = _eigh(centred.mT @ centred)[1][..., -count:].flip(-1).mT
    else:
        vectors = _eigh(centred @ centred.mT)[1][..., -count:].flip(-1)
        axes = F.normalize(vectors.mT @ centred, dim=-1)
    return (axes @ centred.mT).float(), axes.float()


def _directions(x: Tensor, count: int) -> Tensor:
    """Orthonormal directions ``(M, R, D)`` to begin with.

    Where neighbours are alike most are those of a few items. The others are an item's own, random sums of its tokens:
    what none of the few has can be orthogonal to theirs by the arrangement of a picture, and is found by its part in
    these sums alone.
    """
    if not _alike(x):
        return _orthonormal(_sketched(x, count + _EXTRA))
    few = x[_first(len(x)) :: _APART]
    few = _scattered(few, _orthonormal(_sketched(few, max(count, 3) + _EXTRA_OF_FEW)))
    exact = few.double()  # squares of these can leave float32
    strongest = _eigh(exact @ exact.mT)[1][..., -max(count, 3) - _EXTRA_OF_OTHERS :].mT.to(few)
    return _orthonormal(torch.cat([_between(_orthonormal(strongest @ few), len(x)), _sums(x, _OWN)], 1))


def _between(few: Tensor, many: int) -> Tensor:
    """Directions ``(many, R, D)`` from orthonormal ones ``(m, R, D)`` of m items, ``_APART`` from one to the next.

    Those of the nearest item, moved towards what they are within the space of the one on the other side: where
    neighbours are alike, what is between two begins between their spaces. Vectors could not be paired, as which ones
    span a space is arbitrary.
    """
    shares = torch.from_numpy(_shares(many)).to(few)
    others = few[(torch.arange(len(few))[:, None] + torch.tensor([-1, 0, 1])).clamp(0, len(few) - 1)]
    turned = few[:, None] @ others.mT @ others
    return (shares @ turned.flatten(2).flatten(0, 1)).unflatten(1, few.shape[1:])


@lru_cache(maxsize=16)
def _shares(many: int) -> NDArray[np.float32]:
    """Of ``(many, 3 m)``: the directions of m items within the spaces of the item before, their own and the next."""
    items = np.arange(many)
    few = items[_first(many) :: _APART]
    nearest = abs(items[:, None] - few).argmin(1)
    away = items - few[nearest]
    shares = np.zeros((many, len(few), 3), np.float32)
    shares[items, nearest, 1] = 1 - abs(away) / _APART
    shares[items, nearest, 1 + np.sign(away)] += abs(away) / _APART
    return shares.reshape(many, -1)


def _first(many: int) -> int:
    """The first of ``many`` items that is searched from nothing, so that as few are left before it as at the end."""
    return (many - 1) % _APART // 2


def _alike(x: Tensor) -> bool:
    """Whether most neighbours in a row ``(M, N, D)`` are, see :data:`_ALIKE`; a few numbers of each are asked."""
    some = x[:, :: x.shape[1] // 4, ::8]
    change, spread = (some[1:] - some[:-1]).norm(dim=(1, 2)), _centred(some, 1).norm(dim=(1, 2))
    return len(x) > 2 and bool(change.median() <= _ALIKE * spread.median())


def _sketched(x: Tensor, rows: int) -> Tensor:
    """Sums ``(M, R, D)`` of strong directions of ``(M, N, D)``."""
    return _scattered(x, _sums(x, rows))


def _sums(x: Tensor, rows: int) -> Tensor:
    """Random sums ``(M, R, D)`` of the tokens ``(M, N, D)``.

    No component is orthogonal to them by the arrangement of a picture, as it could be with signs for weights.
    """
    weights = torch.from_numpy(_weights(rows, x.shape[1])).to(x)
    return weights @ x if _by_token(x) else (x.mT @ weights.mT).mT


@lru_cache(maxsize=16)
def _weights(rows: int, tokens: int) -> NDArray[np.float32]:
    """Always the same ``(R, N)``, whose rows add up to 0, so that a large mean does not drown the rest."""
    weights = np.random.default_rng(0).standard_normal((rows, tokens), np.float32)
    return weights - weights.mean(1, keepdims=True)


def _search(x: Tensor, start: Tensor, count: int, blocks: int = 5) -> tuple[Tensor, Tensor]:
    """The leading axes from a block Krylov space (Musco and Musco 2015, arXiv 1504.05477), and whether they are sure.

    The space of an item grows until it is sure, or would not become so, or ``blocks`` are in it. Vectors are rows.

    Args:
        x: ``(M, N, D)`` float32.
        start: orthonormal directions ``(M, R, D)``, R > K + 1.

    Returns:
        Axes ``(M, K, D)`` and ``(M,)`` bool.
    """
    basis, images = start, _scattered(x, start)
    beside, left = _without(images, basis), torch.arange(len(x), device=x.device)
    axes, sure, going = _ritz(basis, images, beside, count)
    for _ in range(blocks - 1):
        if not going.any():
            break
        if going.sum() <= len(going) // 2:  # a copy of more of them would cost more than the products with the others
            x, left, basis, images, beside = (each[going] for each in (x, left, basis, images, beside))
            going = going[going]
        last = _orthonormal(beside)
        image = _scattered(x, last)
        basis, images = torch.cat([basis, last], 1), torch.cat([images, image], 1)
        beside = _without(image, basis)
        found, enough, further = _ritz(basis, images, beside, count)
        axes[left[going]], sure[left[going]] = found[going], enough[going]
        going = going & further
    return axes, sure


def _ritz(basis: Tensor, images: Tensor, beside: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Axes ``(M, K, D)`` from a basis ``(M, B, D)`` and its images; whether they are sure; whether they may become it.

    The axes are the images of the Ritz vectors, one power step further than these, for which :func:`_error` holds. What
    the basis lacks of the images is ``beside`` ``(M, R, D)``, of the last R of them; those before are within it.
    """
    watched = count + _EXTRA
    values, vectors = _eigh((basis @ images.mT).double())
    values, chosen = values[:, -watched:].flip(-1), vectors[..., -watched:].flip(-1).mT
    parts = chosen[..., -beside.shape[1] :]
    residuals = parts @ (beside @ beside.mT).double() @ parts.mT
    error, least = _error(values.clamp(min=0), residuals, count)
    largest = values[:, 0]
    known = (largest > _RANGE[0]) & (largest < _RANGE[1])
    sure = known & (error <= _TOLERANCE)
    return F.normalize(chosen[:, :count].to(images) @ images, dim=-1), sure, known & ~sure & (least <= _TOLERANCE)


def _error(values: Tensor, residuals: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """How far off the projection on the image of a Ritz vector is, to first order, and what must be left by rounding.

    The residual r of a Ritz vector of value t is orthogonal to all Ritz vectors. Along eigenvectors beyond these, with
    eigenvalues up to b, the image is off by |r| b / (t (t - b)) at most (Davis and Kahan). Along the eigenvector near
    another one, of value s and residual q, it is off by r'q / (t |t - s|), as that eigenvector leans towards q / s;
    how it leans further among eigenvalues up to b adds at most |r| |q| b / (s - b) to r'q. A projection is off by as
    much times the root of the ratio of eigenvalues. These errors are orthogonal. Rounding mixes two directions the more
    the nearer their eigenvalues are; of these, one is within |r| of t.

    Args:
        values: Ritz values, descending, ``(M, L)`` float64. The last one before the first that is not resolved stands
            for b: what the basis lacks can be as strong as that, while Ritz values that are not resolved are too small.
        residuals: inner products of the residuals, ``(M, L, L)``.
        count: K, how many of them matter.

    Returns:
        Of the worst of K projections, relative to its root mean square, ``(M,)`` each; not a number where fewer than K
        eigenvalues are distinct from the last, and infinite where another component may be hidden in what is not
        resolved.
    """
    norms = residuals.diagonal(dim1=1, dim2=2).clamp(min=0).sqrt()
    resolved = norms <= _RESOLVED * values
    own, others = values[:, :count, None], values[:, None]
    beyond = values.gather(1, (resolved.cumprod(1).sum(1, True) - 1).clamp(min=count))[..., None]
    apart = (own - others).abs()
    apart.diagonal(dim1=1, dim2=2).fill_(torch.inf)
    both = norms[:, :count, None] * norms[:, None] * (beyond / (others - beyond).clamp(min=_TINY))
    shared = (residuals[:, :count].abs() + both) / others.clamp(min=_TINY)
    mixed = torch.minimum(shared, norms[:, :count, None]) * others / (own * apart) * (others / own).sqrt()
    mixed *= others > beyond
    own, beyond = own[..., 0], beyond[..., 0]
    lacking = norms[:, :count] / (own - beyond) * (beyond / own) ** 1.5
    rounding = _ROUNDING * values[:, :1] / torch.minimum(apart.amin(-1), own - beyond)
    error = (lacking.square() + mixed.square().sum(-1)).sqrt() + rounding
    reach = ((values + norms) * ~resolved)[:, count:]
    error = error.masked_fill(reach.amax(-1, True) > _HIDDEN * values[:, count - 1 : count], torch.inf)
    apart += norms[:, :count, None] + norms[:, None]  # an eigenvalue is that near to each
    least = _ROUNDING * values[:, :1] / torch.minimum(apart.amin(-1), own - beyond + norms[:, :count])
    return error.amax(-1), least.amax(-1)


def _projected(x: Tensor, rows: Tensor) -> Tensor:
    """Projections ``(M, R, N)`` of ``(M, N, D)`` on rows ``(M, R, D)``, as if x were centred, which is never stored."""
    projected = (x @ rows.mT).mT if _by_token(x) else rows @ x.mT
    for _ in range(2):  # once leaves what rounding brings back, and the mean would multiply it
        projected -= projected.mean(-1, keepdim=True)
    return projected


def _scattered(x: Tensor, rows: Tensor) -> Tensor:
    """Rows ``(M, R, D)`` times the scatter of ``(M, N, D)``."""
    projected = _projected(x, rows)
    return projected @ x if _by_token(x) else (x.mT @ projected.mT).mT


def _by_token(x: Tensor) -> bool:
    """Whether the features of a token lie together, or a feature's tokens, as of a map ``(D, h, w)``.

    Of the two ways to write a product, the one that suits this takes half the time.
    """
    return x.stride(-1) == 1


def _eigh(matrices: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues ``(..., n)``, ascending, and eigenvectors in columns.

    On some CPUs torch's own gives up on some large matrices with rows of zeros, as of features that are never active,
    or of low rank (https://github.com/pytorch/pytorch/issues/145801). NumPy's does not, but its threads wait busily for
    more afterwards, which slows down all that follows.
    """
    _finite(matrices)
    try:
        return torch.linalg.eigh(matrices)
    except torch.linalg.LinAlgError:
        values, vectors = (torch.from_numpy(each).to(matrices) for each in np.linalg.eigh(matrices.cpu().numpy()))
        return values, vectors


def _finite(products: Tensor) -> Tensor:
    if not math.isfinite(products.sum()):
        raise FloatingPointError('a token is not finite, or its square is not')
    return products


def _centred(x: Tensor, dim: int) -> Tensor:
    return x - x.mean(dim, keepdim=True)


def _without(rows: Tensor, basis: Tensor) -> Tensor:
    """Rows less their part in the span of orthonormal rows; twice, as once leaves what rounding brings back."""
    for _ in range(2):
        rows = rows - (rows @ basis.mT) @ basis
    return rows


def _orthonormal(rows: Tensor) -> Tensor:
    return torch.linalg.qr(rows.mT).Q.mT
