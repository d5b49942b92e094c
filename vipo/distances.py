"""How far apart pictures are: in features of a frozen vision model, in pixels, and on parts of a picture."""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations

import torch
import torch.nn.functional as F
from torch import Tensor

from vipo.rewards.judge import evenly_spaced
from vipo.structurers.backbones.base import Backbone

#: Most frames of a clip that a backbone for pictures looks at.
FRAMES = 8


def dense_features(backbone: Backbone, pixels: Tensor) -> Tensor:
    """Features ``(B, t, D, h, w)`` of each sample.

    Args:
        pixels: ``(B, 3, F, Y, X)`` in [0, 1]; of a clip, a backbone for pictures sees at most :data:`FRAMES` frames,
            evenly spaced.
    """
    if backbone.clips:
        return backbone(pixels).map
    seen = pixels[:, :, evenly_spaced(pixels.shape[2], FRAMES)]
    frames = seen.transpose(1, 2)
    return backbone(frames.flatten(0, 1)).map.unflatten(0, frames.shape[:2])


def feature_distance(a: Tensor, b: Tensor) -> Tensor:
    """``1 - cos`` of the features at each position, averaged over positions and frames: ``(B,)``, from 0 to 2.

    That is half of the squared distance of features normalised at each position, which is LPIPS (Zhang et al. 2018,
    arXiv 1801.03924, equation 1) of one layer with equal channel weights.

    Args:
        a, b: ``(B, t, D, h, w)``, see :func:`dense_features`.
    """
    return 1 - F.cosine_similarity(a.float(), b.float(), dim=2).flatten(1).mean(1)


def pixel_distance(a: Tensor, b: Tensor, weight: Tensor | None = None) -> Tensor:
    """Root of the mean squared difference of colour values: ``(B,)``, from 0 to 1.

    Args:
        a, b: ``(B, 3, F, Y, X)`` in [0, 1].
        weight: ``(B, 1, 1, Y, X)``, how much each place counts; NaN comes out where it is zero everywhere.
    """
    squared = (a.float() - b.float()).square().mean((1, 2))
    if weight is None:
        return squared.mean((1, 2)).sqrt()
    place = weight[:, 0, 0].to(squared)
    return ((squared * place).sum((1, 2)) / place.sum((1, 2))).sqrt()


def mean_pairwise(samples: list[Tensor], distance: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """Mean distance between the samples of each prompt: ``(B,)``; it falls towards 0 where a policy collapses.

    This is the diversity of Zhu et al. 2017 (arXiv 1711.11586, section 4): pairs of samples of one input.

    Args:
        samples: K >= 2 tensors whose first axis is the prompts.
    """
    return torch.stack([distance(a, b) for a, b in combinations(samples, 2)]).mean(0)
