"""The published models' transformers as their config files describe them, for plans and rehearsals without a download.

Only what differs from the class's defaults in diffusers is written down. Sources: diffusers' conversion scripts and the
models' pages; tests/generators/test_architectures.py compares the numbers of parameters with the published ones.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

_SD35 = {'in_channels': 16, 'out_channels': 16, 'joint_attention_dim': 4096, 'pooled_projection_dim': 2048}
_WAN = {'text_dim': 4096, 'freq_dim': 256, 'cross_attn_norm': True, 'qk_norm': 'rms_norm_across_heads'}
_WAN_14B = {**_WAN, 'num_layers': 40, 'num_attention_heads': 40, 'attention_head_dim': 128, 'ffn_dim': 13824}

#: Hub id -> class name of the transformer, and its options.
TRANSFORMERS: dict[str, tuple[str, dict[str, Any]]] = {
    'stabilityai/stable-diffusion-3-medium-diffusers': (
        'SD3Transformer2DModel',
        {
            **_SD35,
            'num_layers': 24,
            'num_attention_heads': 24,
            'caption_projection_dim': 1536,
            'pos_embed_max_size': 192,
        },
    ),
    'stabilityai/stable-diffusion-3.5-medium': (
        'SD3Transformer2DModel',
        {
            **_SD35,
            'num_layers': 24,
            'num_attention_heads': 24,
            'caption_projection_dim': 1536,
            'pos_embed_max_size': 384,
            'dual_attention_layers': tuple(range(13)),
            'qk_norm': 'rms_norm',
        },
    ),
    'stabilityai/stable-diffusion-3.5-large': (
        'SD3Transformer2DModel',
        {
            **_SD35,
            'num_layers': 38,
            'num_attention_heads': 38,
            'caption_projection_dim': 2432,
            'pos_embed_max_size': 192,
            'qk_norm': 'rms_norm',
        },
    ),
    'black-forest-labs/FLUX.1-dev': ('FluxTransformer2DModel', {'guidance_embeds': True}),
    'black-forest-labs/FLUX.1-schnell': ('FluxTransformer2DModel', {'guidance_embeds': False}),
    'Wan-AI/Wan2.1-T2V-1.3B-Diffusers': (
        'WanTransformer3DModel',
        {**_WAN, 'num_layers': 30, 'num_attention_heads': 12, 'attention_head_dim': 128, 'ffn_dim': 8960},
    ),
    'Wan-AI/Wan2.1-T2V-14B-Diffusers': ('WanTransformer3DModel', _WAN_14B),
    # Two of them.
    'Wan-AI/Wan2.2-T2V-A14B-Diffusers': ('WanTransformer3DModel', _WAN_14B),
    'Wan-AI/Wan2.2-TI2V-5B-Diffusers': (
        'WanTransformer3DModel',
        {
            **_WAN,
            'in_channels': 48,
            'out_channels': 48,
            'num_layers': 30,
            'num_attention_heads': 24,
            'attention_head_dim': 128,
            'ffn_dim': 14336,
        },
    ),
    'hunyuanvideo-community/HunyuanVideo': ('HunyuanVideoTransformer3DModel', {}),
}


def meta_transformer(name: str) -> nn.Module | None:
    """The full-size transformer of a published model on the meta device; None where the model is not known here."""
    import diffusers

    if name not in TRANSFORMERS:
        return None
    kind, options = TRANSFORMERS[name]
    with torch.device('meta'):
        return getattr(diffusers, kind)(**options)
