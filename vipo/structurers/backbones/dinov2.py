"""DINOv2 vision transformers, with and without registers, from transformers."""

from __future__ import annotations

from inspect import signature
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from vipo.assets import resolve
from vipo.registry import BACKBONES
from vipo.registry.build import torch_dtype
from vipo.structurers.backbones.base import Backbone, Features

#: Millions of parameters (Oquab et al. 2023, arXiv 2304.07193).
_MILLIONS = {'small': 22, 'base': 87, 'large': 304, 'giant': 1137}
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@BACKBONES.register_module()
class DINOv2Backbone(Backbone):
    """Patch features of a DINOv2 model.

    Pictures are resized, never cropped, to multiples of the patch size (the model itself would cut the rest off
    without a word).

    Args:
        pretrained: hub id, local folder, or ``vipo://tiny-dinov2``, the embedded one.
        input_size: length of the shorter side before rounding to patches; None keeps the picture's own size.
        cls_attention: also return the CLS token's attention of the last layer (slower: that layer's attention is
            then computed without a fused kernel).
        device, dtype: of the weights and the computation.

    Raises:
        ValueError: the checkpoint is no DINOv2, or the dtype is unknown.
    """

    def __init__(
        self,
        pretrained: str = 'facebook/dinov2-large',
        input_size: int | None = None,
        cls_attention: bool = False,
        device: str = 'cpu',
        dtype: str = 'float32',
    ) -> None:
        from transformers import AutoConfig, AutoModel

        place = resolve(pretrained)
        kind = AutoConfig.from_pretrained(place).model_type
        if kind not in ('dinov2', 'dinov2_with_registers'):
            raise ValueError(f'DINOv2Backbone needs a DINOv2 checkpoint, {pretrained!r} is of type {kind!r}')
        model = AutoModel.from_pretrained(
            place, dtype=torch_dtype(dtype), attn_implementation='eager' if cls_attention else 'sdpa'
        )
        self.model = model.eval().requires_grad_(False).to(device)
        self.patch = model.config.patch_size
        self.prefix = 1 + getattr(model.config, 'num_register_tokens', 0)
        self.input_size = input_size
        self.has_cls_attention = cls_attention

    @classmethod
    def hub_models(cls, options: dict[str, Any]) -> dict[str, str]:
        """What a config with these options loads, see :mod:`vipo.engine.hub`."""
        return {'pretrained': options.get('pretrained', signature(cls).parameters['pretrained'].default)}

    @classmethod
    def model_bytes(cls, options: dict[str, Any]) -> int | None:
        """Bytes of the weights for a plan, see :mod:`vipo.engine.plan`; None where the model is not known here."""
        name = cls.hub_models(options)['pretrained']
        millions = next((m for size, m in _MILLIONS.items() if name.startswith(f'facebook/dinov2-{size}')), None)
        width = torch_dtype(options.get('dtype', 'float32')).itemsize
        return None if millions is None else millions * 10**6 * width

    @classmethod
    def rehearsal(cls, options: dict[str, Any], folder: Path) -> dict[str, Any]:
        """What changes in these options for a rehearsal, see :mod:`vipo.engine.rehearsal`."""
        return {'pretrained': 'vipo://tiny-dinov2', 'device': 'cpu'}

    def to(self, device: torch.device | str) -> DINOv2Backbone:
        self.model.to(device)
        return self

    @torch.no_grad()
    def __call__(self, pixels: Tensor) -> Features:
        x = self._prepare(pixels)
        grid = x.shape[-2] // self.patch, x.shape[-1] // self.patch
        output = self.model(pixel_values=x, output_attentions=self.has_cls_attention)
        tokens = output.last_hidden_state[:, self.prefix :].float()
        attention = None
        if self.has_cls_attention:
            attention = output.attentions[-1][:, :, 0, self.prefix :].float().mean(1).unflatten(1, grid)
        return Features(tokens.transpose(1, 2).unflatten(2, grid), attention)

    def _prepare(self, pixels: Tensor) -> Tensor:
        weight = next(self.model.parameters())
        x = pixels.to(weight.device, torch.float32)
        height, width = x.shape[-2:]
        scale = 1.0 if self.input_size is None else self.input_size / min(height, width)
        size = tuple(max(1, round(side * scale / self.patch)) * self.patch for side in (height, width))
        if size != (height, width):
            x = F.interpolate(x, size=size, mode='bicubic', antialias=True, align_corners=False).clamp(0, 1)
        mean = x.new_tensor(_MEAN).reshape(3, 1, 1)
        std = x.new_tensor(_STD).reshape(3, 1, 1)
        return ((x - mean) / std).to(weight.dtype)
