"""Tiny random pipelines of every family: production classes, a few thousand weights, built in a fraction of a second.

A twin keeps what shapes depend on (compression of the autoencoder, latent channels, patch sizes, positions of the axes)
and shrinks what they do not (width, depth, vocabulary).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from vipo.generators.twin_tokenizers import clip_tokenizer, llama_tokenizer, t5_tokenizer


def _clip_config(tokenizer: Any, width: int = 32) -> Any:
    from transformers import CLIPTextConfig

    return CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=37,
        num_attention_heads=4,
        num_hidden_layers=3,
        max_position_embeddings=77,
        hidden_act='gelu',
        projection_dim=width,
        bos_token_id=tokenizer.bos_token_id,
        # Another id would make transformers pool at another token.
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def _t5_options(tokenizer: Any, width: int = 32) -> dict[str, Any]:
    return {
        'vocab_size': len(tokenizer),
        'd_model': width,
        'd_kv': 8,
        'd_ff': 37,
        'num_layers': 2,
        'num_heads': 4,
        'relative_attention_num_buckets': 8,
        'dropout_rate': 0.0,
        'feed_forward_proj': 'gated-gelu',
        'pad_token_id': tokenizer.pad_token_id,
        'eos_token_id': tokenizer.eos_token_id,
        'decoder_start_token_id': 0,
    }


def _image_vae(scaling_factor: float, shift_factor: float) -> nn.Module:
    from diffusers import AutoencoderKL

    # Four blocks: the real factor of 8 between pixels and latents.
    return AutoencoderKL(
        sample_size=32,
        down_block_types=('DownEncoderBlock2D',) * 4,
        up_block_types=('UpDecoderBlock2D',) * 4,
        block_out_channels=(4, 4, 4, 4),
        layers_per_block=1,
        latent_channels=16,
        norm_num_groups=1,
        use_quant_conv=False,
        use_post_quant_conv=False,
        scaling_factor=scaling_factor,
        shift_factor=shift_factor,
    )


def sd3() -> Any:
    """Stable Diffusion 3.5 medium: dual attention in the first block, query and key normalised."""
    from diffusers import FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel, StableDiffusion3Pipeline
    from transformers import CLIPTextModelWithProjection, T5Config, T5EncoderModel

    clip, t5 = clip_tokenizer(), t5_tokenizer()
    return StableDiffusion3Pipeline(
        transformer=SD3Transformer2DModel(
            sample_size=32,
            patch_size=2,
            in_channels=16,
            out_channels=16,
            num_layers=2,
            attention_head_dim=8,
            num_attention_heads=4,
            caption_projection_dim=32,
            joint_attention_dim=64,
            pooled_projection_dim=64,
            pos_embed_max_size=96,
            dual_attention_layers=(0,),
            qk_norm='rms_norm',
        ),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=_image_vae(1.5305, 0.0609),
        text_encoder=CLIPTextModelWithProjection(_clip_config(clip)),
        text_encoder_2=CLIPTextModelWithProjection(_clip_config(clip)),
        text_encoder_3=T5EncoderModel(T5Config(**_t5_options(t5, 64))),
        tokenizer=clip,
        tokenizer_2=clip_tokenizer(),
        tokenizer_3=t5,
    )


def flux() -> Any:
    """FLUX.1-dev: guidance as an input, a time shift that depends on the number of tokens."""
    from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel
    from transformers import CLIPTextModel, T5Config, T5EncoderModel

    clip, t5 = clip_tokenizer(), t5_tokenizer()
    return FluxPipeline(
        transformer=FluxTransformer2DModel(
            patch_size=1,
            in_channels=64,
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=32,
            pooled_projection_dim=32,
            guidance_embeds=True,
            axes_dims_rope=(4, 4, 8),
        ),
        scheduler=FlowMatchEulerDiscreteScheduler(
            shift=3.0,
            use_dynamic_shifting=True,
            base_shift=0.5,
            max_shift=1.15,
            base_image_seq_len=256,
            max_image_seq_len=4096,
        ),
        vae=_image_vae(0.3611, 0.1159),
        text_encoder=CLIPTextModel(_clip_config(clip)),
        tokenizer=clip,
        text_encoder_2=T5EncoderModel(T5Config(**_t5_options(t5))),
        tokenizer_2=t5,
    )


def _wan_transformer(channels: int) -> nn.Module:
    from diffusers import WanTransformer3DModel

    return WanTransformer3DModel(
        patch_size=(1, 2, 2),
        num_attention_heads=2,
        attention_head_dim=12,
        in_channels=channels,
        out_channels=channels,
        text_dim=32,
        freq_dim=256,
        ffn_dim=32,
        num_layers=2,
        cross_attn_norm=True,
        qk_norm='rms_norm_across_heads',
        rope_max_seq_len=32,
    )


def _wan(vae: dict[str, Any], channels: int = 16, flow_shift: float = 3.0, **options: Any) -> Any:
    from diffusers import AutoencoderKLWan, UniPCMultistepScheduler, WanPipeline
    from transformers import UMT5Config, UMT5EncoderModel

    t5 = t5_tokenizer()
    return WanPipeline(
        tokenizer=t5,
        text_encoder=UMT5EncoderModel(UMT5Config(**_t5_options(t5))),
        vae=AutoencoderKLWan(
            base_dim=4, dim_mult=[1, 1, 1, 1], num_res_blocks=1, temperal_downsample=[False, True, True], **vae
        ),
        scheduler=UniPCMultistepScheduler(
            prediction_type='flow_prediction', use_flow_sigmas=True, flow_shift=flow_shift
        ),
        transformer=_wan_transformer(channels),
        **options,
    )


def wan21() -> Any:
    """Wan2.1 T2V."""
    return _wan({'z_dim': 16})


def wan22() -> Any:
    """Wan2.2 T2V A14B: one transformer for much noise, another for little."""
    return _wan({'z_dim': 16}, transformer_2=_wan_transformer(16), boundary_ratio=0.875)


def wan22_5b() -> Any:
    """Wan2.2 TI2V 5B: 48 latent channels, a factor of 16 in space, a timestep per token."""
    statistics = {'latents_mean': [0.0] * 48, 'latents_std': [1.0] * 48}
    vae = {'z_dim': 48, 'in_channels': 12, 'out_channels': 12, 'patch_size': 2, 'is_residual': True}
    return _wan({**vae, **statistics, 'scale_factor_spatial': 16}, 48, 5.0, transformer_2=None, expand_timesteps=True)


def hunyuan_video() -> Any:
    """HunyuanVideo: a Llama encoder whose third last layer is used, and guidance as an input."""
    from diffusers import (
        AutoencoderKLHunyuanVideo,
        FlowMatchEulerDiscreteScheduler,
        HunyuanVideoPipeline,
        HunyuanVideoTransformer3DModel,
    )
    from transformers import CLIPTextModel, LlamaConfig, LlamaModel

    llama, clip = llama_tokenizer(), clip_tokenizer()
    return HunyuanVideoPipeline(
        text_encoder=LlamaModel(
            LlamaConfig(
                vocab_size=len(llama),
                hidden_size=16,
                intermediate_size=37,
                num_attention_heads=4,
                num_hidden_layers=4,
                pad_token_id=llama.pad_token_id,
                bos_token_id=llama.bos_token_id,
                eos_token_id=llama.eos_token_id,
            )
        ),
        tokenizer=llama,
        transformer=HunyuanVideoTransformer3DModel(
            in_channels=16,
            out_channels=16,
            num_attention_heads=2,
            attention_head_dim=12,
            num_layers=1,
            num_single_layers=1,
            num_refiner_layers=1,
            patch_size=2,
            patch_size_t=1,
            guidance_embeds=True,
            text_embed_dim=16,
            pooled_projection_dim=32,
            rope_axes_dim=(4, 4, 4),
        ),
        vae=AutoencoderKLHunyuanVideo(
            latent_channels=16,
            block_out_channels=(8, 8, 8, 8),
            layers_per_block=1,
            norm_num_groups=4,
            scaling_factor=0.476986,
        ),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=7.0),
        text_encoder_2=CLIPTextModel(_clip_config(clip)),
        tokenizer_2=clip,
    )


#: Name -> function that builds the pipeline.
TWINS: dict[str, Callable[[], Any]] = {f.__name__: f for f in (sd3, flux, wan21, wan22, wan22_5b, hunyuan_video)}


def build_twin(name: str, seed: int = 0) -> Any:
    """The tiny pipeline of that name, its weights from ``seed`` alone, in evaluation mode."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        pipe = TWINS[name]()
    for component in pipe.components.values():
        if isinstance(component, nn.Module):
            component.eval()
    pipe.set_progress_bar_config(disable=True)
    return pipe


def save_twin(name: str, folder: str | Path, seed: int = 0) -> str:
    """Write a twin in the folder layout of its real sibling, and return where."""
    build_twin(name, seed).save_pretrained(folder)
    return str(folder)
