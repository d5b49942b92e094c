"""Which end of a principal component is "salient": named strategies for a sign that PCA leaves open."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

#: ``strategy(components (B, F, K, h, w), features (B, F, D, h, w), cls_attention or None) -> evidence (B, K)``;
#: where the evidence is negative the component is turned over, in all frames of the clip.
Strategy = Callable[[Tensor, Tensor, Tensor | None], Tensor]


def as_computed(components: Tensor, features: Tensor, attention: Tensor | None) -> Tensor:
    """Leave the sign that PCA happened to give."""
    return components.new_ones(components.shape[0], components.shape[2])


def reversed_sign(components: Tensor, features: Tensor, attention: Tensor | None) -> Tensor:
    """The opposite of ``as_computed``: a control."""
    return -as_computed(components, features, attention)


def cls_attention(components: Tensor, features: Tensor, attention: Tensor | None) -> Tensor:
    """Agree with where the CLS token looks."""
    if attention is None:
        raise ValueError(
            "orientation 'cls_attention' needs a backbone that returns it: set backbone.cls_attention=True"
        )
    return _agreement(components, attention)


def feature_norm(components: Tensor, features: Tensor, attention: Tensor | None) -> Tensor:
    """Agree with the length of the feature vectors."""
    return _agreement(components, features.norm(dim=2))


def center(components: Tensor, features: Tensor, attention: Tensor | None) -> Tensor:
    """Agree with being away from the border: the frame of a picture is mostly background."""
    height, width = components.shape[-2:]
    y = torch.linspace(-1, 1, height, device=components.device).abs()[:, None]
    x = torch.linspace(-1, 1, width, device=components.device).abs()[None, :]
    return _agreement(components, -torch.maximum(y, x).expand(*components.shape[:2], height, width))


def minority(components: Tensor, features: Tensor, attention: Tensor | None) -> Tensor:
    """The smaller side is the figure: positive skewness, since an object covers less than its background."""
    centred = components - components.mean((1, 3, 4), keepdim=True)
    return centred.pow(3).sum((1, 3, 4))


def _agreement(components: Tensor, guide: Tensor) -> Tensor:
    """Covariance over the clip of each component with a guide ``(B, F, h, w)``."""
    guide = guide - guide.mean((1, 2, 3), keepdim=True)
    return (components * guide.unsqueeze(2)).sum((1, 3, 4))


ORIENTATIONS: dict[str, Strategy] = {
    'as_computed': as_computed,
    'reversed': reversed_sign,
    'cls_attention': cls_attention,
    'feature_norm': feature_norm,
    'center': center,
    'minority': minority,
}
