"""Stateless randomness: every draw comes from a seed derived from what it is for, never from a global state.

Exact resume, results that do not depend on the number of ranks or on micro-batching, and simple tests all follow.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from numbers import Integral

import torch
from torch import Tensor


def derive_seed(*parts: int | str) -> int:
    """A 63-bit seed from any sequence of integers and strings; equal parts give equal seeds on every machine."""
    parts = tuple(int(p) if isinstance(p, Integral) else p for p in parts)
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, 'little') >> 1


class SampleNoise:
    """Gaussian noise in which each sample of a batch has a stream of its own.

    Drawn on the CPU and then moved, so that a sample's noise is the same on every device.

    Args:
        seeds: one per sample, see :func:`derive_seed`.
        shape: of one sample, ``(C, T, H, W)``.
        device: where the noise goes.
        signs: one factor of +1 or -1 per sample; None for +1.
    """

    def __init__(
        self,
        seeds: Sequence[int],
        shape: Sequence[int],
        device: torch.device | str = 'cpu',
        signs: Sequence[int] | None = None,
    ) -> None:
        self.seeds = list(seeds)
        self.signs = [1] * len(self.seeds) if signs is None else list(signs)
        self.shape = tuple(shape)
        self.device = device

    def __call__(self, stream: int | str) -> Tensor:
        """Noise ``(B, C, T, H, W)`` float32 of a named stream: a denoising step, or ``'initial'``."""
        draws = []
        for seed, sign in zip(self.seeds, self.signs, strict=True):
            generator = torch.Generator().manual_seed(derive_seed(seed, stream))
            draws.append(sign * torch.randn(self.shape, generator=generator))
        return torch.stack(draws).to(self.device)
