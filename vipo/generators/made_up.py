"""Encodings of prompts without a text encoder, for models with random weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from vipo.randomness import derive_seed


def made_up_texts(
    texts: Sequence[str], shapes: Mapping[str, tuple[int, ...]], device: torch.device | str, dtype: torch.dtype
) -> dict[str, Tensor]:
    """Normal numbers in the shapes of encodings, always the same for a text.

    Args:
        shapes: of one text, by name; ``mask`` is all ones.

    Returns:
        Tensors whose first axis is that of ``texts``.
    """
    draws = [torch.Generator().manual_seed(derive_seed('text', text)) for text in texts]
    return {
        name: torch.ones(len(texts), *shape, dtype=torch.long, device=device)
        if name == 'mask'
        else torch.stack([torch.randn(shape, generator=draw) for draw in draws]).to(device, dtype)
        for name, shape in shapes.items()
    }
