"""The paper's map: principal components of patch features."""

from __future__ import annotations

import torch
from torch import Tensor

from vipo.registry import ALLOCATORS
from vipo.structurers.allocators.base import Allocator
from vipo.structurers.functional import gaussian_blur, minmax
from vipo.structurers.orientation import ORIENTATIONS
from vipo.structurers.principal import principal_components

COMBINATIONS = ('variance', 'average', 'first')


@ALLOCATORS.register_module()
class PCAAllocator(Allocator):
    """The paper's recipe (arXiv 2511.18719): principal components of a frame's patch features.

    Each projection is oriented and scaled to [0, 1], they are summed, smoothed on the patch grid, and the sum is
    scaled to [0, 1] again.

    Args:
        components: how many principal components, K.
        combine: ``'variance'`` weights by explained variance ratio; ``'average'`` and ``'first'``, which takes the
            first alone whatever ``components`` says, are the paper's ablations.
        sigma: of the Gaussian, in patches; 0 for none.
        orientation: one of :data:`vipo.structurers.orientation.ORIENTATIONS`, decided once per clip; each frame's
            axes follow those of the frame before, and where a clip cuts to another scene that may be either way.
            ``'center'`` takes what lies away from the border for the figure, so that an object in a corner gets next to
            nothing; ``'minority'`` takes the smaller side, wherever it lies.

    Raises:
        ValueError: an option is unknown or out of range.
    """

    finds_nonfinite = True

    def __init__(
        self, components: int = 3, combine: str = 'variance', sigma: float = 1.0, orientation: str = 'center'
    ) -> None:
        if combine not in COMBINATIONS:
            raise ValueError(f'allocator.combine must be one of {COMBINATIONS}, got {combine!r}')
        if orientation not in ORIENTATIONS:
            raise ValueError(f'allocator.orientation must be one of {tuple(ORIENTATIONS)}, got {orientation!r}')
        if components < 1 or sigma < 0:
            raise ValueError(f'need components >= 1 and sigma >= 0, got {components} and {sigma}')
        self.components = 1 if combine == 'first' else components
        self.combine = combine
        self.sigma = sigma
        self.orientation = orientation
        self.needs_cls_attention = orientation == 'cls_attention'

    def __call__(self, features: Tensor, cls_attention: Tensor | None = None) -> Tensor:
        height, width = features.shape[-2:]
        tokens = features.flatten(3).mT
        projected, axes, variances = principal_components(tokens, self.components)
        maps = projected.mT.unflatten(-1, (height, width)) * _follow(axes)[..., None, None]
        evidence = ORIENTATIONS[self.orientation](maps, features, cls_attention)
        maps = maps * torch.where(evidence < 0, -1.0, 1.0)[:, None, :, None, None]
        maps = minmax(maps, (-2, -1))
        if self.combine == 'variance':
            weight = variances / variances.sum(-1, keepdim=True).clamp(min=1e-30)
            combined = (maps * weight[..., None, None]).sum(2)
        else:
            combined = maps.mean(2)
        return minmax(gaussian_blur(combined, self.sigma), (-2, -1))


def _follow(axes: Tensor) -> Tensor:
    """Signs ``(B, F, K)`` that make every frame's axes point the way of the frame before, starting at +1."""
    agree = (axes[:, 1:] * axes[:, :-1]).sum(-1)
    steps = torch.where(agree < 0, -1.0, 1.0)
    return torch.cat([torch.ones_like(axes[:, :1, :, 0]), steps.cumprod(dim=1)], dim=1)
