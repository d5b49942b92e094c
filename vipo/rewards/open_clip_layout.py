"""A checkpoint in open_clip's layout (HPSv2, LAION CLIP) in the words of transformers' ``CLIPModel``."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from torch import Tensor

from vipo.assets.intact import read_object
from vipo.rewards.checkpoints import claim

#: open_clip's ViT-H-14, which HPSv2 and HPSv2.1 fine-tune.
VIT_H_14 = {
    'embed_dim': 1024,
    'vision_cfg': {'image_size': 224, 'layers': 32, 'width': 1280, 'head_width': 80, 'patch_size': 14},
    'text_cfg': {'context_length': 77, 'vocab_size': 49408, 'width': 1024, 'heads': 16, 'layers': 24},
}
_TOWERS = {
    'visual.class_embedding': 'vision_model.embeddings.class_embedding',
    'visual.positional_embedding': 'vision_model.embeddings.position_embedding.weight',
    'visual.conv1.': 'vision_model.embeddings.patch_embedding.',
    'visual.ln_pre.': 'vision_model.pre_layrnorm.',
    'visual.ln_post.': 'vision_model.post_layernorm.',
    'visual.transformer.resblocks.': 'vision_model.encoder.layers.',
    'token_embedding.': 'text_model.embeddings.token_embedding.',
    'positional_embedding': 'text_model.embeddings.position_embedding.weight',
    'ln_final.': 'text_model.final_layer_norm.',
    'transformer.resblocks.': 'text_model.encoder.layers.',
    'logit_scale': 'logit_scale',
}
_BLOCK = {
    '.ln_1.': '.layer_norm1.',
    '.ln_2.': '.layer_norm2.',
    '.attn.out_proj.': '.self_attn.out_proj.',
    '.mlp.c_fc.': '.mlp.fc1.',
    '.mlp.c_proj.': '.mlp.fc2.',
}


def to_transformers(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename and reshape open_clip's keys to those of ``CLIPModel``.

    Fused query-key-value projections are split in three, and the two output projections are transposed.

    Raises:
        ValueError: a key that no open_clip CLIP has.
    """
    out: dict[str, Tensor] = {}
    for key, value in state.items():
        if key in ('visual.proj', 'text_projection'):
            tower = 'visual' if key == 'visual.proj' else 'text'
            claim(out, f'{tower}_projection.weight', value.T.contiguous())
            continue
        if key == 'attn_mask':  # a buffer that old checkpoints carry
            continue
        new = next((b + key.removeprefix(a) for a, b in _TOWERS.items() if key.startswith(a)), None)
        if new is None:
            raise ValueError(f'{key!r} is not a key of an open_clip CLIP checkpoint')
        fused = re.fullmatch(r'(.*)\.attn\.in_proj_(weight|bias)', new)
        if fused:
            if value.ndim not in (1, 2) or len(value) % 3:
                raise ValueError(f'{key!r} of shape {tuple(value.shape)} is no fused projection of three equal parts')
            for name, part in zip('qkv', value.chunk(3), strict=True):
                claim(out, f'{fused[1]}.self_attn.{name}_proj.{fused[2]}', part.contiguous())
            continue
        for a, b in _BLOCK.items():
            new = new.replace(a, b)
        claim(out, new, value)
    return out


def read_sizes(checkpoint: Path) -> dict[str, Any]:
    """Sizes from ``open_clip_config.json`` beside a checkpoint; those of ViT-H-14 where there is none."""
    description = checkpoint.parent / 'open_clip_config.json'
    if not description.exists():
        return VIT_H_14
    sizes = read_object(description).get('model_cfg')
    if not isinstance(sizes, dict) or not {'embed_dim', 'vision_cfg', 'text_cfg'} <= sizes.keys():
        raise ValueError(f'{description} has no model_cfg with embed_dim, vision_cfg and text_cfg')
    return sizes


def clip_config(sizes: dict[str, Any]) -> dict[str, Any]:
    """Arguments of ``CLIPConfig`` for open_clip's sizes."""
    vision, text = sizes['vision_cfg'], sizes['text_cfg']
    return {
        'projection_dim': sizes['embed_dim'],
        'vision_config': {
            'hidden_size': vision['width'],
            'intermediate_size': 4 * vision['width'],
            'num_hidden_layers': vision['layers'],
            'num_attention_heads': vision['width'] // vision.get('head_width', 64),
            'image_size': vision['image_size'],
            'patch_size': vision['patch_size'],
            'hidden_act': 'gelu',
        },
        'text_config': {
            'hidden_size': text['width'],
            'intermediate_size': 4 * text['width'],
            'num_hidden_layers': text['layers'],
            'num_attention_heads': text['heads'],
            'max_position_embeddings': text['context_length'],
            'vocab_size': text['vocab_size'],
            'hidden_act': 'gelu',
            # open_clip pools at the largest id, which is the end token: the last of the vocabulary.
            'eos_token_id': text['vocab_size'] - 1,
            'bos_token_id': text['vocab_size'] - 2,
        },
    }
