"""The vision tower of a SigLIP, from transformers."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor

from vipo.registry import BACKBONES
from vipo.structurers.backbones.transformer import TransformerBackbone


@BACKBONES.register_module()
class SigLIPBackbone(TransformerBackbone):
    """Patch features of a SigLIP's vision tower (arXiv 2303.15343), its position embeddings interpolated.

    Also of a SigLIP 2 (arXiv 2502.14786) of fixed resolution, whose checkpoints are of the same class; not of a NaFlex
    one. There is no CLS token.

    Args:
        pretrained: hub id or local folder of a whole SigLIP or of its vision tower, in transformers' layout.
        options: of :class:`~vipo.structurers.backbones.transformer.TransformerBackbone`.
    """

    family: ClassVar = 'SigLIP'
    kinds: ClassVar = {'siglip': 'SiglipVisionModel', 'siglip_vision_model': 'SiglipVisionModel'}
    millions: ClassVar = {
        'google/siglip-base-patch16': 93,
        'google/siglip-large-patch16': 316,
        'google/siglip-so400m': 428,
        'google/siglip2-base-patch16': 93,
        'google/siglip2-large-patch16': 316,
        'google/siglip2-so400m': 428,
    }
    colours: ClassVar = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    cls_token: ClassVar = False
    unused: ClassVar = ('head.',)

    def __init__(self, pretrained: str = 'google/siglip-so400m-patch14-384', **options: Any) -> None:
        super().__init__(pretrained, **options)

    def run(self, x: Tensor) -> Tensor:
        return self.model(pixel_values=x, interpolate_pos_encoding=True).last_hidden_state
