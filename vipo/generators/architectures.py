"""The published models as their config files describe them: for plans and rehearsals without a download.

Only what differs from the class's defaults in diffusers is written down. Sources: diffusers' conversion scripts and the
models' pages; tests/generators/test_architectures.py compares the numbers of parameters with the published ones.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from vipo.assets import resolve


@dataclass(frozen=True)
class Architecture:
    """A published pipeline without its weights.

    Attributes:
        pipeline: name of diffusers' pipeline class.
        transformer, vae: class name and options.
        scheduler: the options of the scheduler that a sigma schedule depends on.
        extras: entries of the pipeline's index beside its components.
        second: whether there is a ``transformer_2`` of the same shape.
        text_encoders: name -> millions of parameters.
    """

    pipeline: str
    transformer: tuple[str, dict[str, Any]]
    vae: tuple[str, dict[str, Any]]
    scheduler: dict[str, Any]
    text_encoders: dict[str, int]
    extras: dict[str, Any] = field(default_factory=dict)
    second: bool = False

    @property
    def index(self) -> dict[str, Any]:
        """As the pipeline's ``model_index.json`` would have it."""
        parts = {'transformer': self.transformer, 'vae': self.vae}
        parts |= {'transformer_2': self.transformer} if self.second else {}
        return {'_class_name': self.pipeline, **{n: ('diffusers', c) for n, (c, _) in parts.items()}, **self.extras}

    def skeleton(self, name: str, device: str = 'meta') -> nn.Module:
        """``'transformer'``, ``'transformer_2'`` or ``'vae'`` without its weights."""
        import diffusers

        kind, options = self.vae if name == 'vae' else self.transformer
        with torch.device(device):
            return getattr(diffusers, kind)(**options)


def _image_vae(scaling_factor: float, shift_factor: float) -> tuple[str, dict[str, Any]]:
    options = {
        'down_block_types': ('DownEncoderBlock2D',) * 4,
        'up_block_types': ('UpDecoderBlock2D',) * 4,
        'block_out_channels': (128, 256, 512, 512),
        'layers_per_block': 2,
        'latent_channels': 16,
        'use_quant_conv': False,
        'use_post_quant_conv': False,
        'scaling_factor': scaling_factor,
        'shift_factor': shift_factor,
    }
    return 'AutoencoderKL', options


def _sd3(width_in_heads: int, layers: int, positions: int, **options: Any) -> Architecture:
    transformer = {
        'in_channels': 16,
        'out_channels': 16,
        'num_layers': layers,
        'num_attention_heads': width_in_heads,
        'caption_projection_dim': 64 * width_in_heads,
        'joint_attention_dim': 4096,
        'pooled_projection_dim': 2048,
        'pos_embed_max_size': positions,
        **options,
    }
    return Architecture(
        'StableDiffusion3Pipeline',
        ('SD3Transformer2DModel', transformer),
        _image_vae(1.5305, 0.0609),
        {'shift': 3.0},
        {'CLIP-L': 124, 'CLIP-bigG': 695, 'T5-XXL': 4762},
    )


def _flux(guidance: bool, **scheduler: Any) -> Architecture:
    return Architecture(
        'FluxPipeline',
        ('FluxTransformer2DModel', {'guidance_embeds': guidance}),
        _image_vae(0.3611, 0.1159),
        scheduler,
        {'CLIP-L': 123, 'T5-XXL': 4762},
    )


def _wan(layers: int, heads: int, feed_forward: int, shift: float = 3.0, **options: Any) -> Architecture:
    channels, vae = options.pop('channels', 16), options.pop('vae', {})
    transformer = {
        'in_channels': channels,
        'out_channels': channels,
        'num_layers': layers,
        'num_attention_heads': heads,
        'attention_head_dim': 128,
        'ffn_dim': feed_forward,
        'text_dim': 4096,
        'freq_dim': 256,
        'cross_attn_norm': True,
        'qk_norm': 'rms_norm_across_heads',
    }
    return Architecture(
        'WanPipeline',
        ('WanTransformer3DModel', transformer),
        ('AutoencoderKLWan', vae),
        {'flow_shift': shift},
        {'UMT5-XXL': 5681},
        **options,
    )


_FLUX_SHIFT = {'base_shift': 0.5, 'max_shift': 1.15, 'base_image_seq_len': 256, 'max_image_seq_len': 4096}
_WAN_22_VAE = {
    'base_dim': 160,
    'decoder_base_dim': 256,
    'z_dim': 48,
    'in_channels': 12,
    'out_channels': 12,
    'patch_size': 2,
    'is_residual': True,
    'scale_factor_spatial': 16,
    # The published statistics are in its config file; sizes do not depend on them.
    'latents_mean': [0.0] * 48,
    'latents_std': [1.0] * 48,
}

#: Hub id -> what it is.
ARCHITECTURES: dict[str, Architecture] = {
    'stabilityai/stable-diffusion-3-medium-diffusers': _sd3(24, 24, 192),
    'stabilityai/stable-diffusion-3.5-medium': _sd3(
        24, 24, 384, qk_norm='rms_norm', dual_attention_layers=tuple(range(13))
    ),
    'stabilityai/stable-diffusion-3.5-large': _sd3(38, 38, 192, qk_norm='rms_norm'),
    'black-forest-labs/FLUX.1-dev': _flux(True, shift=3.0, use_dynamic_shifting=True, **_FLUX_SHIFT),
    'black-forest-labs/FLUX.1-schnell': _flux(False, shift=1.0, use_dynamic_shifting=False),
    'Wan-AI/Wan2.1-T2V-1.3B-Diffusers': _wan(30, 12, 8960),
    'Wan-AI/Wan2.1-T2V-14B-Diffusers': _wan(40, 40, 13824),
    'Wan-AI/Wan2.2-T2V-A14B-Diffusers': _wan(40, 40, 13824, second=True, extras={'boundary_ratio': 0.875}),
    'Wan-AI/Wan2.2-TI2V-5B-Diffusers': _wan(
        30, 24, 14336, 5.0, channels=48, vae=_WAN_22_VAE, extras={'expand_timesteps': True}
    ),
    'hunyuanvideo-community/HunyuanVideo': Architecture(
        'HunyuanVideoPipeline',
        ('HunyuanVideoTransformer3DModel', {}),
        ('AutoencoderKLHunyuanVideo', {}),
        {'shift': 7.0},
        {'Llama-3-8B': 7505, 'CLIP-L': 123},
    ),
}


def is_known(name: str) -> bool:
    """Whether the architecture of a model can be had without a download.

    Raises:
        ValueError: the name can only be a local path, and does not exist.
    """
    return name in ARCHITECTURES or Path(resolve(name)).is_dir()
