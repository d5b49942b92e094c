"""Attention in bfloat16 on a CPU, where torch's fused kernel is no faster than in float32."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

#: Under this name transformers finds :func:`attention`.
NAME = 'vipo_cpu_bfloat16'


def attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **options: Any,
) -> tuple[Tensor, Tensor | None]:
    """``softmax(scaling q k^T) v`` as two products in bfloat16, a picture at a time; the fused kernel anywhere else.

    The kernel keeps scores in float32, which its products on a CPU pay for. Here scores are rounded to bfloat16 as the
    queries and keys that they come from are; sums are in float32. One picture's scores stay in the cache.

    Args:
        module, attention_mask, dropout, options: as transformers passes them.
        query, key, value: ``(N, heads, T, d)``.
        scaling: None is ``d ** -0.5``.

    Returns:
        ``(N, T, heads, d)``, and the weights where the fused kernel returned some.
    """
    if query.device.type != 'cpu' or query.dtype != torch.bfloat16 or attention_mask is not None or dropout:
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **options
        )
    found = torch.empty_like(query.transpose(1, 2), memory_format=torch.contiguous_format)
    scaled = query * (query.shape[-1] ** -0.5 if scaling is None else scaling)
    for out, q, k, v in zip(found, scaled, key, value, strict=True):
        out.copy_(((q @ k.mT).softmax(-1) @ v).transpose(0, 1))
    return found, None


AttentionInterface.register(NAME, attention)
