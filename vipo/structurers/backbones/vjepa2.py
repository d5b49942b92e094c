"""V-JEPA 2: features of space and time, from transformers."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from vipo.registry import BACKBONES
from vipo.structurers.backbones.attention import blocks_of
from vipo.structurers.backbones.base import Features
from vipo.structurers.backbones.transformer import TransformerBackbone, load_vision_model


@BACKBONES.register_module()
class VJEPA2Backbone(TransformerBackbone):
    """Space-time features of whole clips, by the encoder of a V-JEPA 2 (arXiv 2506.09985).

    A feature frame comes of a tubelet of (published models: two) pixel frames. Where the frames of a clip are no
    multiple of that, the first frame stands at the beginning as often as is missing; no frame is dropped. For F = 4 k +
    1, the frames of a causal video autoencoder, the tubelets then are frame 0, frames 1 and 2, frames 3 and 4, ..., so
    that none lies across two latent frames. A picture is a clip of one frame.

    Positions in time are part of the features: the encoder's own of a still clip are not the same in every frame, and
    its map flickers. So by default the clip's mean frame is shown too, standing still, and how its features differ from
    their mean over time is taken off those of the clip: what is left of a still clip is still.

    Args:
        pretrained: hub id or local folder.
        steady: take off what the position in time alone does, at the price of a second pass.
        options: of :class:`~vipo.structurers.backbones.transformer.TransformerBackbone`; ``max_tokens`` counts the
            patches of one feature frame. There is no CLS token.
    """

    clips = True
    family: ClassVar = 'V-JEPA 2'
    kinds: ClassVar = {'vjepa2': 'VJEPA2Model'}
    millions: ClassVar = {
        'facebook/vjepa2-vitl-': 304,
        'facebook/vjepa2-vith-': 632,
        'facebook/vjepa2-vitg-': 1012,
    }
    cls_token: ClassVar = False
    unused: ClassVar = ('predictor.',)

    def __init__(self, pretrained: str = 'facebook/vjepa2-vitl-fpc64-256', steady: bool = True, **options: Any) -> None:
        super().__init__(pretrained, **options)
        self.steady = steady
        self._grid = (1, 1)
        # The library tells rows and frames apart by the square of the config's crop_size: on any other input, what
        # stands in one column would be told that it is somewhere else.
        for block in blocks_of(self.model, len(self.model.layer)):
            block.attention.get_position_ids = self._positions

    def load(self, place: str, dtype: torch.dtype) -> nn.Module:
        return load_vision_model(self.kinds[self.kind], place, dtype, self.unused).encoder

    def _positions(self, tokens: Tensor, masks: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Frame, row and column of each token, as the attention's rotary embedding wants them."""
        rows, columns = self._grid
        numbers = torch.arange(tokens.shape[1], device=tokens.device)
        return numbers // (rows * columns), numbers // columns % rows, numbers % columns

    @torch.no_grad()
    def __call__(self, pixels: Tensor) -> Features:
        tubelet = self.model.config.tubelet_size
        batch, _, frames, _, _ = pixels.shape
        lead = -frames % tubelet
        x = self.preparation(pixels.transpose(1, 2).flatten(0, 1), next(self.model.parameters()))
        x = x.unflatten(0, (batch, frames))
        x = torch.cat([x[:, :1].expand(-1, lead, -1, -1, -1), x], dim=1)
        patch = self.preparation.patch
        self._grid = x.shape[-2] // patch, x.shape[-1] // patch
        count = x.shape[1] // tubelet
        features = self._features(x, count)
        if self.steady and count > 1:
            still = self._features(x.mean(1, keepdim=True).expand_as(x), count)
            features -= still - still.mean(1, keepdim=True)
        return Features(features, spans=(tubelet - lead, *[tubelet] * (count - 1)))

    def _features(self, x: Tensor, count: int) -> Tensor:
        """``(B, t, D, h, w)`` float32 of prepared clips ``(B, F, 3, Y, X)``."""
        tokens = self.model(pixel_values_videos=x).last_hidden_state.float()
        return tokens.unflatten(1, (count, *self._grid)).permute(0, 1, 4, 2, 3)
