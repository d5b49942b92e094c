"""The contract of a perceptual backbone: pictures in, a dense feature map out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass
class Features:
    """Dense features of N pictures.

    Attributes:
        map: ``(N, D, h, w)`` float32.
        cls_attention: ``(N, h, w)``, the last layer's attention from the CLS token averaged over heads, or None
            where the backbone has no CLS token or was not asked.
    """

    map: Tensor
    cls_attention: Tensor | None = None


class Backbone(ABC):
    """A frozen vision model. Not part of the trained module tree."""

    #: Says whether :attr:`Features.cls_attention` can be had.
    has_cls_attention = False

    @abstractmethod
    def __call__(self, pixels: Tensor) -> Features:
        """Features of ``(N, 3, Y, X)`` pictures in [0, 1], without gradients."""

    def to(self, device: torch.device | str) -> Backbone:
        """Move the weights, if there are any."""
        return self
