"""An ImageReward checkpoint, which is in BLIP's own layout, in the words of transformers' BLIP classes."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from torch import Tensor

from vipo.rewards.checkpoints import claim

#: ViT-L/16 at 224 and a BERT-base with cross-attention to it, in the words of ``BlipVisionConfig``, ``BlipTextConfig``.
IMAGE_REWARD = {
    'vision': {
        'hidden_size': 1024,
        'intermediate_size': 4096,
        'num_hidden_layers': 24,
        'num_attention_heads': 16,
        'image_size': 224,
        'patch_size': 16,
    },
    'text': {
        'vocab_size': 30524,
        'hidden_size': 768,
        'intermediate_size': 3072,
        'num_hidden_layers': 12,
        'num_attention_heads': 12,
        'max_position_embeddings': 512,
    },
}
#: Of the contrastive objective that BLIP was trained with; no score passes through them.
UNUSED = ('blip.vision_proj.weight', 'blip.vision_proj.bias', 'blip.text_proj.weight', 'blip.text_proj.bias')
#: A buffer that old checkpoints carry.
POSITIONS = 'blip.text_encoder.embeddings.position_ids'
#: Published beginning of a name -> ours.
PREFIXES = {
    'blip.visual_encoder.cls_token': 'vision.embeddings.class_embedding',
    'blip.visual_encoder.pos_embed': 'vision.embeddings.position_embedding',
    'blip.visual_encoder.patch_embed.proj.': 'vision.embeddings.patch_embedding.',
    'blip.visual_encoder.blocks.': 'vision.encoder.layers.',
    'blip.visual_encoder.norm.': 'vision.post_layernorm.',
    'blip.text_encoder.': 'text.',
    'mlp.': 'head.',
}
#: The same within a block of the vision transformer.
BLOCK = {
    '.norm1.': '.layer_norm1.',
    '.norm2.': '.layer_norm2.',
    '.attn.qkv.': '.self_attn.qkv.',
    '.attn.proj.': '.self_attn.projection.',
}


def to_transformers(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename the keys of ``ImageReward.pt``: to transformers' after ``vision.`` and ``text.``, to ours after ``head.``.

    Raises:
        ValueError: a key that no ImageReward checkpoint has.
    """
    out: dict[str, Tensor] = {}
    for key, value in state.items():
        if key in UNUSED or key == POSITIONS:
            continue
        new = next((b + key.removeprefix(a) for a, b in PREFIXES.items() if key.startswith(a)), None)
        if new is None:
            raise ValueError(f'{key!r} is not a key of an ImageReward checkpoint')
        if re.match(r'vision\.encoder\.layers\.\d', new):
            for a, b in BLOCK.items():
                new = new.replace(a, b)
        claim(out, new, value)
    return out


def read_sizes(checkpoint: Path) -> dict[str, dict[str, Any]]:
    """Sizes from ``image_reward_config.json`` beside a checkpoint; the published ones where there is none."""
    description = checkpoint.parent / 'image_reward_config.json'
    return json.loads(description.read_text()) if description.exists() else IMAGE_REWARD
