"""DINOv3 vision transformers and ConvNeXts, from transformers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

from torch import Tensor

from vipo.registry import BACKBONES
from vipo.structurers.backbones.transformer import TransformerBackbone


@BACKBONES.register_module()
class DINOv3Backbone(TransformerBackbone):
    """Patch features of a DINOv3 vision transformer or ConvNeXt (arXiv 2508.10104).

    A ConvNeXt has features at stride 32, no CLS token and no choice of a layer; :class:`TimmBackbone` gives the finer
    stages of the same networks (``convnext_small.dinov3_lvd1689m``).

    Args:
        pretrained: hub id or local folder. The published ones are gated.
        options: of :class:`~vipo.structurers.backbones.transformer.TransformerBackbone`.
    """

    family: ClassVar = 'DINOv3'
    kinds: ClassVar = {'dinov3_vit': 'DINOv3ViTModel', 'dinov3_convnext': 'DINOv3ConvNextModel'}
    millions: ClassVar = {
        'facebook/dinov3-vits16-': 21.6,
        'facebook/dinov3-vits16plus-': 28.7,
        'facebook/dinov3-vitb16-': 85.7,
        'facebook/dinov3-vitl16-': 303,
        'facebook/dinov3-vith16plus-': 841,
        'facebook/dinov3-vit7b16-': 6716,
        'facebook/dinov3-convnext-tiny-': 27.8,
        'facebook/dinov3-convnext-small-': 49.5,
        'facebook/dinov3-convnext-base-': 87.6,
        'facebook/dinov3-convnext-large-': 196,
    }
    unused: ClassVar = ('embeddings.mask_token',)

    def __init__(self, pretrained: str = 'facebook/dinov3-vitl16-pretrain-lvd1689m', **options: Any) -> None:
        super().__init__(pretrained, **options)

    @classmethod
    def twin_of(cls, pretrained: str) -> str:
        return 'dinov3_convnext' if 'convnext' in pretrained else 'dinov3_vit'

    @property
    def convolutional(self) -> bool:
        """Whether the checkpoint is a ConvNeXt."""
        return self.kind == 'dinov3_convnext'

    def count_prefix(self) -> int:
        # The ConvNeXt's output begins with the mean of its positions.
        return 1 if self.convolutional else super().count_prefix()

    def patch_size(self) -> int:
        # A stem of 4 pixels, and half the size at the beginning of each later stage.
        return 4 * 2 ** (self.model.config.num_stages - 1) if self.convolutional else super().patch_size()

    def cut(self, layer: int) -> None:
        if not self.convolutional:
            super().cut(layer)
        elif layer != -1:
            raise ValueError(
                f'backbone.layer={layer}: of a DINOv3 ConvNeXt the last stage alone is taken here; TimmBackbone has '
                "all of them: dict(type='TimmBackbone', model='convnext_small.dinov3_lvd1689m', stages=...)"
            )
        elif self.has_cls_attention:
            raise ValueError('backbone.cls_attention: a DINOv3 ConvNeXt has no CLS token')

    def rotation(self, x: Tensor) -> Callable[[Tensor], Tensor]:
        from transformers.models.dinov3_vit.modeling_dinov3_vit import apply_rotary_pos_emb

        cos, sin = (angle.float() for angle in self.model.rope_embeddings(x))
        return lambda keys: apply_rotary_pos_emb(keys, keys, cos, sin)[1]
