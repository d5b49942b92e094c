"""Maps that do not look at the pixels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from vipo.registry import STRUCTURERS
from vipo.rewards.base import check_pixels
from vipo.structurers.base import Structurer

PRIORS = ('uniform', 'center')


@STRUCTURERS.register_module()
class PriorStructurer(Structurer):
    """Ones, or a Gaussian around the middle of the picture: controls, and factors of a product.

    Args:
        prior: ``'uniform'`` or ``'center'``.
        width: std of the Gaussian in units of half the height and half the width.

    Raises:
        ValueError: unknown prior, or a width that is not positive.
    """

    def __init__(self, prior: str = 'uniform', width: float = 0.5) -> None:
        if prior not in PRIORS:
            raise ValueError(f'structurer.prior must be one of {PRIORS}, got {prior!r}')
        if not width > 0:
            raise ValueError(f'structurer.width must be positive, got {width}')
        self.prior, self.width, self.uniform = prior, width, prior == 'uniform'

    def __call__(
        self,
        pixels: Tensor,
        grid: tuple[int, int, int],
        prompts: Sequence[str] | None = None,
        metadata: Sequence[dict[str, Any]] | None = None,
    ) -> Tensor:
        check_pixels(pixels)
        maps = torch.ones(len(pixels), 1, *grid, device=pixels.device)
        if self.prior == 'uniform':
            return maps
        rows, columns = (_gaussian(size, self.width).to(pixels.device) for size in grid[1:])
        plane = rows[:, None] * columns
        return maps * (plane / plane.mean())


def _gaussian(size: int, width: float) -> Tensor:
    """At the middles of ``size`` equal cells of [-1, 1], up to a factor: the largest value is 1."""
    exponent = -0.5 * (((2 * torch.arange(size, dtype=torch.float64) + 1) / size - 1) / width).square()
    return torch.exp(exponent - exponent.max()).float()
