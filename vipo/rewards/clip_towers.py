"""A CLIP as rewards use it: pictures and prompts to unit vectors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from vipo.assets import resolve
from vipo.assets.intact import check_file
from vipo.rewards.checkpoints import check_vocabulary, load_strictly, pretrained_strictly, read_tensors
from vipo.rewards.open_clip_layout import clip_config, read_sizes, to_transformers
from vipo.rewards.preprocess import OPENAI_MEAN, OPENAI_STD, normalize, resize_center_crop

if TYPE_CHECKING:
    from transformers import CLIPModel, CLIPTextConfig


class ClipTowers:
    """Both towers of a CLIP, frozen, with CLIP's own pre-processing in torch.

    Args:
        model: transformers' class in float32, whichever layout it was loaded from.
        tokenize: prompts to ids ``(N, L)``, cut to the context of the model and padded to the longest of them.
        dtype: of the weights from here on.
        resize: pictures ``(N, 3, Y, X)`` and a side to squares.

    Attributes:
        logit_scale: the model's factor on cosines; not rounded to ``dtype``, which would move every score by
            about 1 %.
    """

    def __init__(
        self,
        model: CLIPModel,
        tokenize: Callable[[Sequence[str]], Tensor],
        dtype: torch.dtype = torch.float32,
        resize: Callable[[Tensor, int], Tensor] = resize_center_crop,
    ) -> None:
        self.logit_scale = model.logit_scale.exp().item()
        self.model = model.to(dtype)
        self.tokenize = tokenize
        self.resize = resize
        self.side = model.config.vision_config.image_size

    @classmethod
    def from_open_clip(cls, checkpoint: Path, dtype: torch.dtype, antialias: bool = True) -> ClipTowers:
        """From a checkpoint in open_clip's layout (HPSv2).

        Its sizes are read from ``open_clip_config.json`` beside it and are those of ViT-H-14 where there is none. The
        tokenizer is ``tokenizer.json`` beside it, or else open_clip's own, which comes with that package.

        Raises:
            ValueError: the file cannot be read as tensors alone, or its keys or shapes are not the model's.
        """
        from transformers import CLIPConfig, CLIPModel

        config = CLIPConfig(**clip_config(read_sizes(checkpoint)))
        state = to_transformers(read_tensors(checkpoint))
        model = load_strictly(lambda: CLIPModel(config), state, checkpoint, computed=('position_ids',))
        resize = partial(resize_center_crop, antialias=antialias)
        if (tokenizer := checkpoint.parent / 'tokenizer.json').exists():
            check_file(tokenizer)
            return cls(model, _saved_tokenizer(str(checkpoint.parent), config.text_config), dtype, resize)
        import open_clip

        tokenize = open_clip.get_tokenizer('ViT-H-14', context_length=config.text_config.max_position_embeddings)
        return cls(model, lambda prompts: _without_padding(tokenize(list(prompts))), dtype, resize)

    @classmethod
    def from_pretrained(cls, name: str, dtype: torch.dtype, offset: str = 'down') -> ClipTowers:
        """From a folder or hub repository in transformers' layout (PickScore, CLIP), tokenizer included.

        Pictures are resized as PIL does, see :func:`~vipo.rewards.preprocess.resize_center_crop`.

        Args:
            offset: of the central square: ``'down'`` as in transformers' ``CLIPProcessor``, ``'round'`` as in OpenAI's
                package.

        Raises:
            ValueError: the weights cannot be read as tensors alone, or are missing, left over or of another shape; or
                the tokenizer is missing or another model's.
        """
        from transformers import CLIPModel

        name = str(resolve(name))
        model = pretrained_strictly(CLIPModel, name)
        resize = partial(resize_center_crop, levels=True, offset=offset)
        return cls(model, _saved_tokenizer(name, model.config.text_config), dtype, resize)

    def to(self, device: torch.device | str) -> ClipTowers:
        """Move the weights."""
        self.model.to(device)
        return self

    def image(self, pixels: Tensor) -> Tensor:
        """Unit vectors ``(N, D)`` float32 of pictures ``(N, 3, Y, X)`` in [0, 1]; differentiable."""
        weight = self.model.logit_scale
        images = self.resize(pixels.to(weight.device, torch.float32), self.side)
        images = normalize(images, OPENAI_MEAN, OPENAI_STD).to(weight.dtype)
        pooled = self.model.vision_model(pixel_values=images).pooler_output
        return F.normalize(self.model.visual_projection(pooled).float(), dim=-1)

    def patch_similarity(self, pixels: Tensor, prompts: Sequence[str]) -> Tensor:
        """Cosine of every patch's vector with the prompt's, ``(N, h, w)``.

        Pictures are resized to whole patches and not cropped: the shorter side to that of the model, the longer one in
        proportion. A patch's vector is its last hidden state under the norm and projection of the pooled one.
        """
        weight, patch = self.model.logit_scale, self.model.config.vision_config.patch_size
        height, width = pixels.shape[-2:]
        grid = [max(1, round(side * self.side / min(height, width) / patch)) for side in (height, width)]
        images = pixels.to(weight.device, torch.float32)
        size = [patch * n for n in grid]
        images = F.interpolate(images, size=size, mode='bicubic', antialias=True, align_corners=False)
        images = normalize(images, OPENAI_MEAN, OPENAI_STD).to(weight.dtype)
        vision = self.model.vision_model
        hidden = vision(pixel_values=images, interpolate_pos_encoding=True).last_hidden_state[:, 1:]
        patches = F.normalize(self.model.visual_projection(vision.post_layernorm(hidden)).float(), dim=-1)
        return (patches @ self.text(prompts)[:, :, None]).squeeze(-1).unflatten(1, grid)

    def text(self, prompts: Sequence[str]) -> Tensor:
        """Unit vectors ``(N, D)`` float32 of prompts; one that comes several times, as in a group, is read once."""
        places = {prompt: i for i, prompt in enumerate(dict.fromkeys(prompts))}
        # No mask of the padding: attention is causal, and the vector is taken at the end token.
        ids = self.tokenize(list(places)).to(self.model.logit_scale.device)
        pooled = self.model.text_model(input_ids=ids).pooler_output
        vectors = F.normalize(self.model.text_projection(pooled).float(), dim=-1)
        return vectors[[places[prompt] for prompt in prompts]]

    def cosine(self, pixels: Tensor, prompts: Sequence[str]) -> Tensor:
        """``cos(image, text)`` ``(N,)`` of each picture and its prompt."""
        return (self.image(pixels) * self.text(prompts)).sum(-1)


def _without_padding(ids: Tensor) -> Tensor:
    """Ids of open_clip's tokenizer up to the last end token, which is the largest of all ids."""
    return ids[:, : int(ids.argmax(1).max()) + 1]


def _saved_tokenizer(name: str, config: CLIPTextConfig) -> Callable[[Sequence[str]], Tensor]:
    from transformers import CLIPTokenizer

    tokenizer = CLIPTokenizer.from_pretrained(name)
    check_vocabulary(tokenizer, config.vocab_size, name)
    context = config.max_position_embeddings

    def tokenize(prompts: Sequence[str]) -> Tensor:
        options = {'padding': True, 'truncation': True, 'max_length': context, 'return_tensors': 'pt'}
        return tokenizer(list(prompts), **options).input_ids

    return tokenize
