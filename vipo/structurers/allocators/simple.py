"""Map strategies that read a quantity off the backbone as it is."""

from __future__ import annotations

import torch
from torch import Tensor

from vipo.registry import ALLOCATORS
from vipo.structurers.allocators.base import Allocator
from vipo.structurers.functional import gaussian_blur, minmax


@ALLOCATORS.register_module()
class UniformAllocator(Allocator):
    """Ones: every position counts the same. The paper's all-ones ablation."""

    uniform = True

    def __call__(self, features: Tensor, cls_attention: Tensor | None = None) -> Tensor:
        return torch.ones_like(features[:, :, 0])


@ALLOCATORS.register_module()
class CLSAttentionAllocator(Allocator):
    """Where the CLS token of the backbone looks, scaled to [0, 1] in each frame.

    Args:
        sigma: of a Gaussian on the patch grid, in patches; 0 for none.

    Raises:
        ValueError: sigma is negative.
    """

    needs_cls_attention = True

    def __init__(self, sigma: float = 1.0) -> None:
        self.sigma = _check_sigma(sigma)

    def __call__(self, features: Tensor, cls_attention: Tensor | None = None) -> Tensor:
        if cls_attention is None:
            raise ValueError(
                'CLSAttentionAllocator needs a backbone that returns its CLS attention: set backbone.cls_attention=True'
            )
        return minmax(gaussian_blur(cls_attention, self.sigma), (-2, -1))


@ALLOCATORS.register_module()
class FeatureNormAllocator(Allocator):
    """How long the feature vectors are, scaled to [0, 1] in each frame.

    Args:
        sigma: of a Gaussian on the patch grid, in patches; 0 for none.

    Raises:
        ValueError: sigma is negative.
    """

    def __init__(self, sigma: float = 1.0) -> None:
        self.sigma = _check_sigma(sigma)

    def __call__(self, features: Tensor, cls_attention: Tensor | None = None) -> Tensor:
        return minmax(gaussian_blur(features.norm(dim=2), self.sigma), (-2, -1))


def _check_sigma(sigma: float) -> float:
    if sigma < 0:
        raise ValueError(f'allocator.sigma must not be negative, got {sigma}')
    return sigma
