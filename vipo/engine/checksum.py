"""A number for the bits of a tensor, to find copies that are not equal."""

from __future__ import annotations

import torch
from torch import Tensor

#: Elements at a time: what is made of them is eight bytes each.
_PIECE = 1 << 22
_SPREAD = -7046029254386353131  # odd, its bits look random
_INTEGER = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


@torch.no_grad()
def checksum(x: Tensor) -> Tensor:
    """The sum over all places of bits times an odd number that belongs to the place, modulo ``2**64``.

    Equal bits give equal sums on any device and in any order of summing. Tensors that differ at one place never have
    the same sum; others that differ do by chance alone.

    Args:
        x: of any shape, with elements of at most 8 bytes.

    Returns:
        int64, without dimensions, on the device of ``x``.
    """
    bits = x.detach().reshape(-1).contiguous().view(_INTEGER[x.element_size()])
    total = torch.zeros((), dtype=torch.int64, device=x.device)
    for start in range(0, len(bits), _PIECE):
        piece = bits[start : start + _PIECE].to(torch.int64)
        place = torch.arange(start, start + len(piece), device=x.device)
        total += (piece * (place * _SPREAD * 2 + 1)).sum()
    return total
