"""DINOv2 vision transformers, with and without registers, from transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

from vipo.registry import BACKBONES
from vipo.structurers.backbones.transformer import TransformerBackbone


@BACKBONES.register_module()
class DINOv2Backbone(TransformerBackbone):
    """Patch features of a DINOv2 model, with or without registers (arXiv 2304.07193, 2309.16588).

    Args:
        pretrained: hub id, local folder, or ``vipo://tiny-dinov2``, the embedded one.
        options: of :class:`~vipo.structurers.backbones.transformer.TransformerBackbone`.
    """

    family: ClassVar = 'DINOv2'
    kinds: ClassVar = {'dinov2': 'Dinov2Model', 'dinov2_with_registers': 'Dinov2WithRegistersModel'}
    millions: ClassVar = {
        'facebook/dinov2-small': 22,
        'facebook/dinov2-base': 87,
        'facebook/dinov2-large': 304,
        'facebook/dinov2-giant': 1137,
        'facebook/dinov2-with-registers-small': 22,
        'facebook/dinov2-with-registers-base': 87,
        'facebook/dinov2-with-registers-large': 304,
        'facebook/dinov2-with-registers-giant': 1137,
    }
    unused: ClassVar = ('embeddings.mask_token',)

    def __init__(self, pretrained: str = 'facebook/dinov2-large', **options: Any) -> None:
        super().__init__(pretrained, **options)

    @classmethod
    def rehearsal(cls, options: dict[str, Any], folder: Path) -> dict[str, Any]:
        """What changes in these options for a rehearsal, see :mod:`vipo.engine.rehearsal`."""
        from vipo.structurers.backbones.twins import small

        return {'pretrained': 'vipo://tiny-dinov2', **small(options)}
