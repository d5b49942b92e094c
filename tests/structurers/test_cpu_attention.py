"""Attention in bfloat16: against float64 by hand, and inside of every backbone."""

import pytest
import torch

from vipo.scenes.draw import draw
from vipo.scenes.grammar import parse_prompt
from vipo.structurers.backbones import DINOv2Backbone, cpu_attention
from vipo.structurers.backbones.cpu_attention import attention


@pytest.mark.parametrize('scaling', [None, 0.3])
def test_is_attention(scaling, normal):
    q, k, v = (normal(2, 3, 7, 16, seed=i).bfloat16() for i in range(3))
    found, weights = attention(None, q, k, v, None, scaling=scaling)
    assert weights is None
    scores = torch.einsum('nhqd,nhkd->nhqk', q.double(), k.double()) * (0.25 if scaling is None else scaling)
    exact = torch.einsum('nhqk,nhkd->nqhd', scores.exp() / scores.exp().sum(-1, keepdim=True), v.double())
    assert found.shape == (2, 7, 3, 16)
    assert found.is_contiguous()
    assert (found - exact).abs().max() < 0.02 * exact.abs().max()
    # pictures do not see each other
    alone, _ = attention(None, q[1:], k[1:], v[1:], None, scaling=scaling)
    assert alone.equal(found[1:])


@pytest.mark.parametrize('kind', ['float32', 'mask'])
def test_anything_else_is_left_to_the_fused_kernel(kind, monkeypatch, normal):
    seen = []
    monkeypatch.setattr(cpu_attention, 'sdpa_attention_forward', lambda *given, **options: seen.append(options))
    q = normal(1, 2, 4, 8)
    mask = torch.zeros(1, 1, 4, 4) if kind == 'mask' else None
    attention(None, *[q if kind == 'float32' else q.bfloat16()] * 3, mask, scaling=0.5, is_causal=False)
    assert seen == [{'dropout': 0.0, 'scaling': 0.5, 'is_causal': False}]


def test_the_embedded_model_is_as_near_as_with_the_fused_kernel():
    """Of a model that was trained, whose scores are larger than those of random weights."""
    x = draw([parse_prompt('a large red circle at the left on a striped gray background')] * 4, seed=1).pixels
    exact = DINOv2Backbone('vipo://tiny-dinov2')(x).map
    half = DINOv2Backbone('vipo://tiny-dinov2', dtype='bfloat16')
    assert half.model.config._attn_implementation == cpu_attention.NAME
    ours = (half(x).map - exact).norm()
    half.model.set_attn_implementation('sdpa')
    assert ours < 1.2 * (half(x).map - exact).norm()
    assert ours < 0.03 * exact.norm()
