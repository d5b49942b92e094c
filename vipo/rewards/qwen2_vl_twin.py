"""Tiny random rewards over Qwen2-VL, in the layout and precision of the published checkpoints."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import Qwen2Tokenizer, Qwen2VLConfig, Qwen2VLModel
from transformers.convert_slow_tokenizer import bytes_to_unicode

from vipo.rewards.hpsv3 import make_head

_VIDEO_TOKENS = ('<|VQ_reward|>', '<|MQ_reward|>', '<|TA_reward|>')
_CHAT = ('<|endoftext|>', '<|im_start|>', '<|im_end|>', '<|vision_start|>', '<|vision_end|>', '<|image_pad|>')
_RANK, _ALPHA = 2, 4
#: Area of a picture or frame, four tokens. With that of the published models almost all of the time goes into pixels.
TWIN_PIXELS = 4 * 28 * 28
_ADAPTED = ('q_proj', 'k_proj', 'v_proj', 'o_proj', 'gate_proj', 'up_proj', 'down_proj')


def qwen2_tokenizer(special: Sequence[str]) -> Qwen2Tokenizer:
    """Byte-level tokenizer without merges, with the special tokens of a chat and of a reward."""
    tokens = [*_CHAT, '<|video_pad|>', *special]
    alphabet = list(bytes_to_unicode().values())
    tokenizer = Qwen2Tokenizer(vocab={t: i for i, t in enumerate([*alphabet, *tokens])}, merges=[])
    tokenizer.add_special_tokens({'additional_special_tokens': tokens[1:]})
    return tokenizer


def tiny_config(tokenizer: Qwen2Tokenizer) -> Qwen2VLConfig:
    """Two layers of 16 channels, one block of vision."""
    ids = tokenizer.get_vocab()
    return Qwen2VLConfig(
        text_config={
            'vocab_size': len(tokenizer),
            'hidden_size': 16,
            'intermediate_size': 32,
            'num_hidden_layers': 2,
            'num_attention_heads': 2,
            'num_key_value_heads': 1,
            'rope_parameters': {'rope_type': 'default', 'rope_theta': 1e6, 'mrope_section': [2, 1, 1]},
            'bos_token_id': None,
            'eos_token_id': None,
        },
        vision_config={'depth': 1, 'embed_dim': 16, 'hidden_size': 16, 'num_heads': 2, 'mlp_ratio': 2},
        image_token_id=ids['<|image_pad|>'],
        video_token_id=ids['<|video_pad|>'],
        vision_start_token_id=ids['<|vision_start|>'],
        vision_end_token_id=ids['<|vision_end|>'],
        bos_token_id=None,
        eos_token_id=None,
    )


def published_names(model: Qwen2VLModel) -> dict[str, Tensor]:
    """The state of a model under the keys that published checkpoints have."""
    return {
        ('model.' + k.removeprefix('language_model.') if k.startswith('language_model.') else k): v.clone()
        for k, v in model.state_dict().items()
    }


def _random_state(config: Qwen2VLConfig, generator: torch.Generator) -> dict[str, Tensor]:
    """All weights under their published names, wider than the library's start so that scores differ."""
    with torch.device('meta'):
        shapes = published_names(Qwen2VLModel(config))
    state = {
        k: (1.0 if v.ndim == 1 and k.endswith('weight') else 0.0) + 0.2 * torch.randn(v.shape, generator=generator)
        for k, v in shapes.items()
    }
    return state | {'lm_head.weight': state['model.embed_tokens.weight'].clone()}


def save_hpsv3_twin(folder: Path, seed: int = 0) -> Path:
    """Write a tiny HPSv3 and an instruction text of our own.

    Returns:
        The folder: the checkpoint, its config, ``tokenizer/`` and ``template.txt``.
    """
    generator = torch.Generator().manual_seed(seed)
    tokenizer = qwen2_tokenizer([])
    tokenizer.save_pretrained(folder / 'tokenizer')
    tokenizer.add_special_tokens({'additional_special_tokens': ['<|Reward|>']})
    config = tiny_config(tokenizer)
    config.save_pretrained(folder)
    head = make_head(config.text_config.hidden_size).state_dict()
    head = {f'rm_head.{k}': torch.randn(v.shape, generator=generator) / v.shape[-1] ** 0.5 for k, v in head.items()}
    state = {k: v.bfloat16() for k, v in _random_state(config, generator).items()}
    save_file(state | head, folder / 'HPSv3.safetensors')
    (folder / 'template.txt').write_text('Rate the picture. It was asked for with: {text_prompt}\nScore: <|Reward|>\n')
    return folder


def save_videoalign_twin(folder: Path, seed: int = 0, pixels: int = TWIN_PIXELS) -> Path:
    """Write a tiny VideoAlign with adapters that are not zero, and an instruction text of our own.

    Args:
        pixels: most pixels of a frame, which its description says.

    Returns:
        The folder.
    """
    generator = torch.Generator().manual_seed(seed)
    tokenizer = qwen2_tokenizer(_VIDEO_TOKENS)
    config = tiny_config(tokenizer)
    state = _random_state(config, generator)
    for key in [k for k in state if k.startswith('model.layers.') and k.split('.')[-2] in _ADAPTED]:
        layer, name = key.rsplit('.', 1)
        weight = state.pop(key)
        state[f'{layer}.base_layer.{name}'] = weight
        if name == 'weight':
            state[f'{layer}.lora_A.default.weight'] = torch.randn(_RANK, weight.shape[1], generator=generator) / 4
            state[f'{layer}.lora_B.default.weight'] = torch.randn(weight.shape[0], _RANK, generator=generator) / 4
    state['rm_head.weight'] = torch.randn(1, 16, generator=generator)
    step = folder / 'checkpoint-1'
    tokenizer.save_pretrained(step / 'tokenizer')
    config.save_pretrained(folder)
    torch.save({f'base_model.model.{k}': v.bfloat16() for k, v in state.items()}, step / 'model.pth')
    described = {
        'data_config': {'fps': 2.0, 'max_frame_pixels': pixels, 'eval_dim': ['VQ', 'MQ', 'TA']},
        'model_config': {'output_dim': 1, 'reward_token': 'special', 'use_special_tokens': True},
        'peft_lora_config': {'lora_enable': True, 'lora_r': _RANK, 'lora_alpha': _ALPHA, 'use_rslora': False},
        'inference_config': {
            f'{name}_{moment}': value
            for name, values in {'VQ': (0.5, 2.0), 'MQ': (-1.0, 0.5), 'TA': (2.0, 3.0)}.items()
            for moment, value in zip(('mean', 'std'), values, strict=True)
        },
    }
    (folder / 'model_config.json').write_text(json.dumps(described, indent=1))
    asked = ''.join(
        f'\n{word}: {token}' for word, token in zip(('Quality', 'Motion', 'Text'), _VIDEO_TOKENS, strict=True)
    )
    (folder / 'template.txt').write_text(f'Rate the clip. It was asked for with: {{text_prompt}}{asked}\n')
    return folder


def twin_options(folder: Path) -> dict[str, Any]:
    """Options of a reward that loads what was written to that folder."""
    return {
        'checkpoint': str(folder),
        'template': str(folder / 'template.txt'),
        'template_sha256': None,
        'device': None,
        'dtype': 'float32',
    }
