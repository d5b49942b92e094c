"""The contract of a map strategy."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor


class Allocator(ABC):
    """A rule that says where learning pressure goes."""

    #: Whether it cannot do without :attr:`Features.cls_attention`.
    needs_cls_attention: bool = False
    #: Whether all frames of a clip are on one scale, so that a constant frame has that value and not the mean of the
    #: others.
    over_clip: bool = False
    #: Whether a feature that is not finite makes it raise FloatingPointError, so that nobody need look at them before.
    finds_nonfinite: bool = False
    #: Whether a single frame tells it nothing, so that pictures are refused.
    needs_clips: bool = False
    #: Whether the same value everywhere is what it is for, so that no run warns of it.
    uniform: bool = False

    @abstractmethod
    def __call__(self, features: Tensor, cls_attention: Tensor | None = None) -> Tensor:
        """Raw map of each frame.

        Args:
            features: ``(B, F, D, h, w)``.
            cls_attention: ``(B, F, h, w)`` or None.

        Returns:
            ``(B, F, h, w)``, non-negative. A frame that is constant means "no preference here", unless
            :attr:`over_clip` is set.
        """
