"""The contract of a perceptual backbone: pictures or clips in, a dense feature map out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass
class Features:
    """Dense features of N pictures, or of B clips.

    Attributes:
        map: ``(N, D, h, w)`` float32; of clips ``(B, t, D, h, w)``, where a feature frame may stand for several pixel
            frames.
        cls_attention: ``(N, h, w)`` or ``(B, t, h, w)``, the attention from the CLS token averaged over heads, or None
            where the backbone has no CLS token or was not asked.
        spans: of clips alone: how many pixel frames each of the t feature frames stands for, in order. They sum to F.
        offset: how far what a position stands for lies off the middle of its cell, to the right and downwards, in
            cells.
    """

    map: Tensor
    cls_attention: Tensor | None = None
    spans: tuple[int, ...] | None = None
    offset: float = 0.0


class Backbone(ABC):
    """A frozen vision model. Not part of the trained module tree.

    A subclass that loads a model has the class methods ``hub_models``, ``model_bytes`` and ``rehearsal`` of
    :class:`vipo.rewards.base.Reward`. One that works on the model of the run's reward has a method ``bind(reward)``,
    which the structurer passes the built reward to.
    """

    #: Says whether :attr:`Features.cls_attention` can be had.
    has_cls_attention = False
    #: Says whether it sees whole clips ``(B, 3, F, Y, X)`` in place of pictures.
    clips = False

    @abstractmethod
    def __call__(self, pixels: Tensor) -> Features:
        """Features of ``(N, 3, Y, X)`` pictures, or ``(B, 3, F, Y, X)`` clips, in [0, 1], without gradients."""

    def to(self, device: torch.device | str) -> Backbone:
        """Move the weights, if there are any."""
        return self
