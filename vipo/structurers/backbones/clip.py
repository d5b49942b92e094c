"""The vision tower of a CLIP, from transformers."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor

from vipo.registry import BACKBONES
from vipo.rewards.preprocess import OPENAI_MEAN, OPENAI_STD
from vipo.structurers.backbones.transformer import TransformerBackbone


@BACKBONES.register_module()
class CLIPBackbone(TransformerBackbone):
    """Patch features of a CLIP's vision tower (arXiv 2103.00020), its position embeddings interpolated.

    Args:
        pretrained: hub id or local folder of a whole CLIP or of its vision tower, in transformers' layout.
        options: of :class:`~vipo.structurers.backbones.transformer.TransformerBackbone`. The final normalisation of a
            CLIP is for its CLS token, so patches are as the block leaves them.
    """

    family: ClassVar = 'CLIP'
    kinds: ClassVar = {'clip': 'CLIPVisionModel', 'clip_vision_model': 'CLIPVisionModel'}
    millions: ClassVar = {
        'openai/clip-vit-base-patch32': 87.5,
        'openai/clip-vit-base-patch16': 85.8,
        'openai/clip-vit-large-patch14': 303,
        'laion/CLIP-ViT-H-14': 631,
        'laion/CLIP-ViT-bigG-14': 1843,
    }
    colours: ClassVar = (OPENAI_MEAN, OPENAI_STD)
    unused: ClassVar = ('post_layernorm.',)

    def __init__(self, pretrained: str = 'openai/clip-vit-large-patch14', **options: Any) -> None:
        super().__init__(pretrained, **options)

    def run(self, x: Tensor) -> Tensor:
        return self.model(pixel_values=x, interpolate_pos_encoding=True).last_hidden_state
