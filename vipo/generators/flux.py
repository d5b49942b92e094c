"""FLUX.1, over diffusers' own classes."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from vipo.generators.image import ImagePipelineGenerator
from vipo.generators.pipeline import filled
from vipo.generators.training import JOINT_ATTENTION
from vipo.registry import GENERATORS


@GENERATORS.register_module()
class FluxGenerator(ImagePipelineGenerator):
    """FLUX.1-dev and FLUX.1-schnell.

    The transformer sees 2 x 2 latent positions as one token; everybody else sees ``(B, 16, 1, H, W)``.

    Args:
        guidance_scale: the number that a guidance-distilled model (dev) takes as input; schnell takes none.
        max_sequence_length: T5 tokens.
        true_cfg_scale: of classifier-free guidance on top of it, in two passes; 1 runs the conditional branch alone.
        options: see :class:`vipo.generators.pipeline.PipelineGenerator`. Where ``shift`` is None, it grows with the
            number of tokens as in diffusers' pipeline, or is the scheduler's own where that has no such rule.
    """

    pipeline_class = 'FluxPipeline'
    text_encoders = ('text_encoder', 'text_encoder_2')
    lora_targets = (
        *JOINT_ATTENTION,
        'ff.net.0.proj',
        'ff.net.2',
        'ff_context.net.0.proj',
        'ff_context.net.2',
    )

    def __init__(
        self,
        pretrained: str = 'black-forest-labs/FLUX.1-dev',
        resolution: int | tuple[int, int] = 512,
        guidance_scale: float = 3.5,
        max_sequence_length: int = 512,
        true_cfg_scale: float = 1.0,
        **options: Any,
    ) -> None:
        self.true_cfg_scale = true_cfg_scale
        super().__init__(pretrained, resolution, guidance_scale, max_sequence_length, **options)

    @classmethod
    def twin_of(cls, pretrained: str) -> str:
        return 'flux'

    @property
    def multiple(self) -> int:
        return 2 * self.factor

    @property
    def shift(self) -> float:
        if self._shift is not None:
            return self._shift
        c = self.scheduler_config
        if not c.get('use_dynamic_shifting'):
            return c['shift']
        # mu is linear in the number of tokens; a static shift of e^mu is the same grid.
        _, _, height, width = self.latent_shape()
        low, high = c['base_image_seq_len'], c['max_image_seq_len']
        slope = (c['max_shift'] - c['base_shift']) / (high - low)
        return math.exp(c['base_shift'] + slope * (height * width // 4 - low))

    def guidance_at(self, sigma: float) -> float:
        return self.true_cfg_scale

    def encode_texts(self, texts: list[str]) -> dict[str, Tensor]:
        embeds, pooled, _ = self.pipe.encode_prompt(
            texts, None, device=self.pipe.text_encoder.device, max_sequence_length=self.max_sequence_length
        )
        return {'embeds': embeds, 'pooled': pooled}

    def text_shapes(self) -> dict[str, tuple[int, ...]]:
        width, pooled = self.config.joint_attention_dim, self.config.pooled_projection_dim
        return {'embeds': (self.max_sequence_length, width), 'pooled': (pooled,)}

    def latent_shape(self) -> tuple[int, int, int, int]:
        return self.config.in_channels // 4, 1, self.height // self.factor, self.width // self.factor

    def pipeline_arguments(self) -> dict[str, Any]:
        return {**super().pipeline_arguments(), 'true_cfg_scale': self.true_cfg_scale}

    def predict(self, x: Tensor, sigma: float, texts: dict[str, Tensor]) -> Tensor:
        *_, height, width = x.shape
        v = self._networks['transformer'](
            hidden_states=pack(x),
            encoder_hidden_states=texts['embeds'],
            pooled_projections=texts['pooled'],
            # The model multiplies both by 1000 itself.
            timestep=filled(x, sigma),
            guidance=filled(x, self.guidance_scale) if self.config.guidance_embeds else None,
            img_ids=position_ids(height // 2, width // 2, x.device),
            txt_ids=torch.zeros(texts['embeds'].shape[1], 3, device=x.device),
            return_dict=False,
        )[0]
        return unpack(v, height, width)


def pack(x: Tensor) -> Tensor:
    """``(N, C, 1, H, W)`` -> tokens ``(N, H W / 4, 4 C)``: channel-major, then the 2 x 2 block by rows."""
    n, c, _, height, width = x.shape
    blocks = x.reshape(n, c, height // 2, 2, width // 2, 2)
    return blocks.permute(0, 2, 4, 1, 3, 5).reshape(n, height * width // 4, 4 * c)


def unpack(tokens: Tensor, height: int, width: int) -> Tensor:
    """The inverse of :func:`pack` for latents of ``height`` x ``width``."""
    n, _, channels = tokens.shape
    blocks = tokens.reshape(n, height // 2, width // 2, channels // 4, 2, 2)
    return blocks.permute(0, 3, 1, 4, 2, 5).reshape(n, channels // 4, 1, height, width)


def position_ids(height: int, width: int, device: torch.device) -> Tensor:
    """``(height * width, 3)``: 0, the row and the column of each token."""
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing='ij')
    ids = torch.stack([torch.zeros_like(rows), rows, columns], dim=-1)
    return ids.reshape(-1, 3).float().to(device)
