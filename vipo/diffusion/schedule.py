"""Sigma schedules. Sigmas are built here and passed on; no scheduler object of another library decides them."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def sigma_schedule(num_steps: int, shift: float = 1.0) -> Tensor:
    """Sigmas of a rectified flow, ``(num_steps + 1,)`` float32, from 1 down to exactly 0.

    A uniform grid 1, 1 - 1/S, ..., 1/S is moved towards noise by the static time shift of Stable Diffusion 3
    (Esser et al. 2024, arXiv 2403.03206, eq. 23): ``sigma' = shift * sigma / (1 + (shift - 1) * sigma)``.

    Raises:
        ValueError: fewer than one step, or a shift that is not positive.
    """
    if num_steps < 1:
        raise ValueError(f'num_steps must be at least 1, got {num_steps}')
    if shift <= 0:
        raise ValueError(f'shift must be positive, got {shift}')
    grid = torch.linspace(1, 1 / num_steps, num_steps, dtype=torch.float64)
    grid = shift * grid / (1 + (shift - 1) * grid)
    return torch.cat([grid, grid.new_zeros(1)]).float()


def exponential_shift(sigmas: Tensor, mu: float) -> Tensor:
    """Dynamic time shift of FLUX: ``sigma' = e^mu / (e^mu + 1 / sigma - 1)``; equals the static shift at ``e^mu``.

    In this form the ends stay exactly 1 and 0; others round 1 to 1 +- 1e-7, which is beside Flow's pole or refused.
    """
    return 1 / (1 + (1 / sigmas - 1) / math.exp(mu))
