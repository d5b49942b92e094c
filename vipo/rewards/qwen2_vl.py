"""Qwen2-VL read out by a head at special tokens, as preference models of videos and pictures do."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from vipo.rewards.checkpoints import claim
from vipo.rewards.preprocess import OPENAI_MEAN, OPENAI_STD, normalize
from vipo.rewards.qwen2_vl_frames import MERGE, PATCH, TUBE, frame_size, patchify, resize_frames

if TYPE_CHECKING:
    from transformers import Qwen2VLConfig, Qwen2VLModel, Qwen2VLTextModel

Kind = Literal['image', 'video']
POSITIONS = ('1d', '3d')
#: Most values of frames that are prepared at a time.
_PIECE = 2**18

_VISION = {'depth': 32, 'embed_dim': 1280, 'mlp_ratio': 4, 'num_heads': 16, 'patch_size': 14}
_TEXT = {
    'num_hidden_layers': 28,
    'rms_norm_eps': 1e-6,
    'max_position_embeddings': 32768,
    'hidden_act': 'silu',
    'bos_token_id': 151643,
    'eos_token_id': 151645,
    'rope_parameters': {'rope_type': 'default', 'rope_theta': 1e6, 'mrope_section': [16, 24, 24]},
}
#: Published sizes of the Instruct models.
SIZES: dict[str, dict[str, Any]] = {
    '2b': {
        'text_config': {
            **_TEXT,
            'hidden_size': 1536,
            'intermediate_size': 8960,
            'num_attention_heads': 12,
            'num_key_value_heads': 2,
        },
        'vision_config': {**_VISION, 'hidden_size': 1536},
    },
    '7b': {
        'text_config': {
            **_TEXT,
            'hidden_size': 3584,
            'intermediate_size': 18944,
            'num_attention_heads': 28,
            'num_key_value_heads': 4,
        },
        'vision_config': {**_VISION, 'hidden_size': 3584},
    },
}


def read_config(folder: Path, size: str, tokens: int) -> Qwen2VLConfig:
    """``config.json`` of a folder, or else the published config of a size, for a vocabulary of ``tokens``."""
    from transformers import Qwen2VLConfig

    if (folder / 'config.json').exists():
        return Qwen2VLConfig.from_dict(json.loads((folder / 'config.json').read_text()))
    config = Qwen2VLConfig(**SIZES[size])
    config.text_config.vocab_size = tokens
    return config


def modern_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Keys of the published checkpoints (``visual.*``, ``model.*``) in the words of ``Qwen2VLModel``.

    Names that are neither stay as they are, and are refused later.

    Raises:
        ValueError: two names would become one.
    """
    out: dict[str, Tensor] = {}
    for key, value in state.items():
        claim(out, 'language_model.' + key.removeprefix('model.') if key.startswith('model.') else key, value)
    return out


def fold_lora(state: dict[str, Tensor], scale: float) -> dict[str, Tensor]:
    """Add peft's adapters to the weights that they adapt: ``W + scale * B A``, computed and kept in float32.

    Args:
        state: keys ``X.base_layer.weight`` with ``X.lora_A.default.weight`` and ``X.lora_B.default.weight``; others are
            kept as they are.
        scale: alpha over rank.

    Raises:
        ValueError: an adapter lacks its other half or its weight, shapes do not fit, or two names become one.
    """
    out: dict[str, Tensor] = {}
    unused = {k for k in state if '.lora_A.' in k or '.lora_B.' in k}
    for key, value in state.items():
        if '.lora_A.' in key or '.lora_B.' in key:
            continue
        if '.base_layer.' not in key:
            claim(out, key, value)
            continue
        layer, _, name = key.rpartition('.base_layer.')
        if name != 'weight':
            claim(out, f'{layer}.{name}', value)
            continue
        pair = [f'{layer}.lora_{half}.default.weight' for half in 'AB']
        missing = [k for k in pair if k not in state]
        if missing:
            raise ValueError(f'the checkpoint has {key!r} but not {missing[0]!r}')
        down, up = (state[k].float() for k in pair)
        if up.shape[-1] != down.shape[0] or (up.shape[0], down.shape[1]) != value.shape:
            raise ValueError(f'the adapter of {layer!r} has shapes {tuple(up.shape)} and {tuple(down.shape)}')
        claim(out, f'{layer}.weight', value.float() + scale * up @ down)
        unused -= set(pair)
    if unused:
        raise ValueError(f'the checkpoint has the adapter {min(unused)!r} but no weight that it adapts')
    return out


def round_frequencies(model: Qwen2VLModel) -> Qwen2VLModel:
    """Round the frequencies of the rotary positions to bfloat16, whatever precision the weights will have.

    The published code casts the whole model, buffers included, before it trains and scores: the heads know no other
    frequencies.
    """
    for buffer in model.buffers():
        if buffer.is_floating_point():
            buffer.copy_(buffer.bfloat16())
    return model


class EqualFrameAttention(nn.Module):
    """The vision tower's attention for frames of equal size: one call in place of the library's loop over frames.

    Args:
        attention: the library's module, whose weights are used.
    """

    def __init__(self, attention: nn.Module) -> None:
        super().__init__()
        self.qkv, self.proj = attention.qkv, attention.proj
        self.num_heads = attention.num_heads

    def forward(
        self,
        hidden_states: Tensor,
        cu_seqlens: Tensor,
        position_embeddings: tuple[Tensor, Tensor],
        **_: Any,
    ) -> Tensor:
        """``(L, D)`` of ``len(cu_seqlens) - 1`` equal pieces, each of which attends to itself alone."""
        from transformers.models.qwen2_vl.modeling_qwen2_vl import apply_rotary_pos_emb_vision

        length, pieces = len(hidden_states), len(cu_seqlens) - 1
        query, key, value = self.qkv(hidden_states).reshape(length, 3, self.num_heads, -1).unbind(1)
        query, key = apply_rotary_pos_emb_vision(query, key, *position_embeddings)
        query, key, value = (
            x.reshape(pieces, length // pieces, self.num_heads, -1).transpose(1, 2) for x in (query, key, value)
        )
        mixed = nn.functional.scaled_dot_product_attention(query, key, value)
        return self.proj(mixed.transpose(1, 2).reshape(length, -1))


class Qwen2VLScorer(nn.Module):
    """Clips or pictures and an instruction to the head's outputs at special tokens.

    The heads of the published checkpoints were trained with plain one-dimensional positions for all tokens, because
    the code of their time passed embeddings without ids; ``'3d'`` gives Qwen2-VL's own positions.

    Args:
        model: frozen.
        head: hidden states ``(..., D)`` to outputs ``(..., K)``; works in float32.
        tokenizer: with the special tokens in it.
        tokens: the special tokens, each once in every text, in this order.
        fewest, most: pixels of a frame after resizing.
        positions: one of :data:`POSITIONS`.

    Raises:
        ValueError: unknown positions, or a special token that the tokenizer lacks.
    """

    def __init__(
        self,
        model: Qwen2VLModel,
        head: nn.Module,
        tokenizer: Any,
        tokens: Sequence[str],
        fewest: int,
        most: int,
        positions: str = '1d',
    ) -> None:
        super().__init__()
        if positions not in POSITIONS:
            raise ValueError(f'reward.positions must be one of {POSITIONS}, got {positions!r}')
        known = tokenizer.get_vocab()
        lacking = [t for t in tokens if t not in known]
        if lacking:
            raise ValueError(f'the tokenizer of the checkpoint lacks the special tokens {lacking}')
        self.model, self.head = model, head.float()
        for block in model.visual.blocks:
            block.attn = EqualFrameAttention(block.attn)
        self.tokenizer = tokenizer
        self.tokens = tuple(tokens)
        self.token_ids = [known[t] for t in tokens]
        self.fewest, self.most = fewest, most
        self.positions = positions

    @property
    def text_model(self) -> Qwen2VLTextModel:
        """The language model."""
        return self.model.language_model

    def forward(self, pixels: Tensor, texts: Sequence[str], kind: Kind) -> Tensor:
        """Outputs ``(B, len(tokens), K)`` float32, differentiable with respect to the pixels.

        Args:
            pixels: ``(B, F, 3, Y, X)`` in [0, 1]: the frames to look at.
            texts: B instructions.
            kind: what the model is told that it sees.

        Raises:
            ValueError: a text does not hold each special token exactly once, in order.
        """
        weight = self.text_model.norm.weight
        patches, grid = self.patches(pixels, kind)
        ids = self.tokenize(texts, kind, int(grid[0].prod()) // MERGE**2).to(weight.device)
        named = 'pixel_values_videos' if kind == 'video' else 'pixel_values'
        inputs = {named: patches, f'{kind}_grid_thw': grid}
        if self.positions == '1d':
            inputs['position_ids'] = torch.arange(ids.shape[1], device=ids.device).expand(3, *ids.shape)
        else:
            config = self.model.config
            inputs['mm_token_type_ids'] = (ids == config.image_token_id) + 2 * (ids == config.video_token_id)
        # No mask of the padding: it is on the right, attention is causal, and without one it needs no table of its own.
        hidden = self.model(input_ids=ids, use_cache=False, **inputs).last_hidden_state
        special = torch.isin(ids, torch.tensor(self.token_ids, device=ids.device))
        return self.head(hidden[special].float()).unflatten(0, (len(texts), len(self.tokens)))

    def patches(self, pixels: Tensor, kind: Kind) -> tuple[Tensor, Tensor]:
        """Frames ``(B, F, 3, Y, X)`` resized, normalised and cut, see :func:`patchify`.

        A batch whose frames are large is done in pieces: what lies between pixels and patches then stays in the
        processor's cache, and a batch takes no longer than its samples one by one.
        """
        weight = self.text_model.norm.weight
        size = frame_size(*pixels.shape[-2:], self.fewest, self.most)
        step = max(1, _PIECE // (pixels.shape[1] * 3 * max(math.prod(size), math.prod(pixels.shape[-2:]))))
        places = math.ceil(pixels.shape[1] / TUBE) * math.prod(size) // PATCH**2
        rows = torch.empty(len(pixels), places, 3 * TUBE * PATCH**2, dtype=weight.dtype, device=weight.device)
        for start in range(0, len(pixels), step):
            piece = pixels[start : start + step]
            frames = piece.flatten(0, 1).to(weight.device, torch.float32)
            frames = resize_frames(frames, size, pillow=kind == 'image')
            frames = normalize(frames, OPENAI_MEAN, OPENAI_STD).unflatten(0, piece.shape[:2])
            cut, grid = patchify(frames.to(weight.dtype))
            rows[start : start + step] = cut.unflatten(0, (len(piece), places))
        return rows.flatten(0, 1), grid[:1].repeat(len(pixels), 1)

    def tokenize(self, texts: Sequence[str], kind: Kind, places: int) -> Tensor:
        """Ids ``(B, L)`` of one turn of a chat, padded on the right.

        Args:
            places: merged tokens of a picture or clip.
        """
        seen = f'<|vision_start|>{f"<|{kind}_pad|>" * places}<|vision_end|>'
        turns = [
            '<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n'
            f'<|im_start|>user\n{seen}{text}<|im_end|>\n<|im_start|>assistant\n'
            for text in texts
        ]
        rows = self.tokenizer(turns, add_special_tokens=False).input_ids
        for row, text in zip(rows, texts, strict=True):
            found = [i for i in row if i in self.token_ids]
            if found != self.token_ids:
                raise ValueError(
                    f'the instruction must hold each of {", ".join(self.tokens)} exactly once and in this order, found '
                    f'{self.tokenizer.convert_ids_to_tokens(found)}; does the prompt contain one? It ends with '
                    f'{text[-80:]!r}'
                )
            if row.count(self.tokenizer.convert_tokens_to_ids(f'<|{kind}_pad|>')) != places:
                raise ValueError(f'the prompt contains <|{kind}_pad|>, which stands for pixels: {text[-200:]!r}')
        longest = max(map(len, rows))
        pad = self.tokenizer.pad_token_id or 0
        return torch.tensor([row + [pad] * (longest - len(row)) for row in rows])
