"""Tiny random checkpoints of rewards in their published layouts, for rehearsals and tests."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import torch
from torch import nn

from vipo.rewards.blip_layout import BLOCK, POSITIONS, PREFIXES, UNUSED
from vipo.rewards.linear_head import LinearHead

Model = TypeVar('Model', bound=nn.Module)


def write_clip(folder: Path, seed: int = 0) -> str:
    """A CLIP in transformers' layout, with its tokenizer (PickScore, CLIPScore, the CLIP of the aesthetic score).

    Returns:
        The folder.
    """
    from transformers import CLIPConfig, CLIPModel

    from vipo.generators.twin_tokenizers import clip_tokenizer

    tokenizer = clip_tokenizer()
    sizes = {'hidden_size': 32, 'intermediate_size': 64, 'num_hidden_layers': 2, 'num_attention_heads': 2}
    config = CLIPConfig(
        projection_dim=24,
        # As trained models have it.
        logit_scale_init_value=4.6052,
        vision_config={**sizes, 'image_size': 28, 'patch_size': 7, 'hidden_act': 'gelu'},
        text_config={
            **sizes,
            'vocab_size': len(tokenizer),
            'max_position_embeddings': 77,
            'bos_token_id': tokenizer.bos_token_id,
            'eos_token_id': tokenizer.eos_token_id,
            'pad_token_id': tokenizer.pad_token_id,
            'hidden_act': 'gelu',
        },
    )
    _seeded(lambda: CLIPModel(config), seed).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def write_open_clip(folder: Path, name: str, seed: int = 0) -> str:
    """A CLIP in open_clip's layout, as HPSv2 publishes its own: under ``state_dict``, with no tokenizer beside it.

    Args:
        name: of the file.

    Returns:
        The folder.
    """
    import open_clip

    sizes = {
        'embed_dim': 24,
        'vision_cfg': {'image_size': 28, 'layers': 2, 'width': 32, 'head_width': 16, 'patch_size': 7},
        # open_clip's own tokenizer has that many tokens
        'text_cfg': {'context_length': 77, 'vocab_size': 49408, 'width': 32, 'heads': 2, 'layers': 2},
    }
    folder.mkdir(parents=True, exist_ok=True)
    torch.save({'state_dict': _seeded(lambda: open_clip.CLIP(**sizes), seed).state_dict()}, folder / name)
    (folder / 'open_clip_config.json').write_text(json.dumps({'model_cfg': sizes}, indent=2) + '\n')
    return str(folder)


def write_aesthetic_head(folder: Path, width: int = 24, seed: int = 0) -> str:
    """A head as LAION publishes it, for a CLIP of that width.

    Returns:
        The file. Its name is not the published one, whose digest is known.
    """
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(_seeded(lambda: LinearHead(width), seed).state_dict(), folder / 'head.pth')
    return str(folder / 'head.pth')


def write_image_reward(folder: Path, seed: int = 0) -> str:
    """``ImageReward.pt`` with the published names, a description of its sizes, and BERT's tokenizer.

    Returns:
        The folder.
    """
    from vipo.generators.twin_tokenizers import bert_tokenizer
    from vipo.rewards.image_reward import Network

    tokenizer = bert_tokenizer()
    width, hidden, image, patch, layers = 32, 24, 32, 8, 2
    sizes = {
        'vision': {
            'hidden_size': width,
            'intermediate_size': 4 * width,
            'num_hidden_layers': layers,
            'num_attention_heads': 2,
            'image_size': image,
            'patch_size': patch,
        },
        'text': {
            # BLIP adds two tokens.
            'vocab_size': len(tokenizer) + 2,
            'hidden_size': hidden,
            'intermediate_size': 4 * hidden,
            'num_hidden_layers': layers,
            'num_attention_heads': 2,
            'max_position_embeddings': 64,
        },
    }
    network = _seeded(lambda: Network(sizes), seed)
    state = {_published(key): value for key, value in network.state_dict().items()}
    state |= {key: torch.zeros(4, 4) if key.endswith('weight') else torch.zeros(4) for key in UNUSED}
    state[POSITIONS] = torch.arange(sizes['text']['max_position_embeddings'])[None]
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(state, folder / 'ImageReward.pt')
    (folder / 'image_reward_config.json').write_text(json.dumps(sizes, indent=2) + '\n')
    tokenizer.save_pretrained(folder)
    return str(folder)


def _published(key: str) -> str:
    """A name of :func:`vipo.rewards.blip_layout.to_transformers` as ``ImageReward.pt`` has it."""
    theirs, ours = next((theirs, ours) for theirs, ours in PREFIXES.items() if key.startswith(ours))
    key = theirs + key.removeprefix(ours)
    if '.blocks.' in key:
        for theirs, ours in BLOCK.items():
            key = key.replace(ours, theirs)
    return key


def _seeded(build: Callable[[], Model], seed: int) -> Model:
    """A model whose every weight counts: fresh ones of transformers are so small that all scores are alike."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = build().requires_grad_(False)
        for weight in model.parameters():
            if weight.ndim == 1:
                weight += 0.1 * torch.randn_like(weight)
            elif weight.ndim > 1:
                fan_in = weight.shape[-1] if weight.ndim == 3 else weight[0].numel()
                weight.normal_(std=fan_in**-0.5)
    return model.eval()
