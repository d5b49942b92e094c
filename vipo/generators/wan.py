"""Wan 2.1 and 2.2 text to video, over diffusers' own classes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vipo.assets import resolve
from vipo.generators.architectures import ARCHITECTURES
from vipo.generators.pipeline import filled
from vipo.generators.video import VideoPipelineGenerator
from vipo.registry import GENERATORS


@GENERATORS.register_module()
class WanGenerator(VideoPipelineGenerator):
    """Wan2.1 T2V (1.3B, 14B), Wan2.2 T2V A14B (two transformers) and Wan2.2 TI2V 5B (a timestep per token).

    Args:
        guidance_scale: of classifier-free guidance, in two passes; 1 runs the conditional branch alone.
        max_sequence_length: UMT5 tokens. Padding is attended to, so another length is another condition; the model was
            trained with 512.
        low_noise_guidance_scale: that of the second transformer; None is ``guidance_scale``.
        options: see :class:`vipo.generators.video.VideoPipelineGenerator`. Where ``shift`` is None, it is the
            scheduler's.
    """

    pipeline_class = 'WanPipeline'
    transformers = ('transformer', 'transformer_2')
    text_encoders = ('text_encoder',)
    # The published adapters train the attention to the video and to the text.
    lora_targets = (
        *(f'{attention}.{layer}' for attention in ('attn1', 'attn2') for layer in ('to_q', 'to_k', 'to_v', 'to_out.0')),
        'ffn.net.0.proj',
        'ffn.net.2',
    )
    # In bfloat16 the decoder flickers and drifts.
    vae_dtype = torch.float32

    def __init__(
        self,
        pretrained: str = 'Wan-AI/Wan2.1-T2V-1.3B-Diffusers',
        resolution: int | tuple[int, int] = (240, 416),
        guidance_scale: float = 5.0,
        max_sequence_length: int = 512,
        low_noise_guidance_scale: float | None = None,
        **options: Any,
    ) -> None:
        self.low_noise_guidance_scale = guidance_scale if low_noise_guidance_scale is None else low_noise_guidance_scale
        super().__init__(pretrained, resolution, guidance_scale, max_sequence_length, **options)

    @classmethod
    def twin_of(cls, pretrained: str) -> str:
        if Path(resolve(pretrained)).is_dir():
            index = json.loads((Path(resolve(pretrained)) / 'model_index.json').read_text())
        elif pretrained in ARCHITECTURES:
            index = ARCHITECTURES[pretrained].index
        else:  # somebody's repository: its name is all there is
            name = pretrained.split('/')[-1].lower()
            index = {'expand_timesteps': '5b' in name, 'boundary_ratio': 0.875 if '2.2' in name else None}
        if index.get('expand_timesteps'):
            return 'wan22_5b'
        return 'wan22' if index.get('boundary_ratio') else 'wan21'

    @property
    def factors(self) -> tuple[int, int]:
        return self.vae_config.scale_factor_temporal, self.vae_config.scale_factor_spatial

    @property
    def multiple(self) -> int:
        return self.factors[1] * self.config.patch_size[-1]

    @property
    def shift(self) -> float:
        if self._shift is not None:
            return self._shift
        return self.scheduler_config.get('flow_shift') or self.scheduler_config['shift']

    def network_at(self, sigma: float) -> str:
        boundary = self.index.get('boundary_ratio')
        return 'transformer' if boundary is None or sigma >= boundary else 'transformer_2'

    def guidance_at(self, sigma: float) -> float:
        return self.guidance_scale if self.network_at(sigma) == 'transformer' else self.low_noise_guidance_scale

    def encode_texts(self, texts: list[str]) -> dict[str, Tensor]:
        embeds, _ = self.pipe.encode_prompt(
            texts,
            do_classifier_free_guidance=False,
            max_sequence_length=self.max_sequence_length,
            device=self.pipe.text_encoder.device,
        )
        return {'embeds': embeds}

    def text_shapes(self) -> dict[str, tuple[int, ...]]:
        return {'embeds': (self.max_sequence_length, self.config.text_dim)}

    def pipeline_arguments(self) -> dict[str, Any]:
        second = self.low_noise_guidance_scale if self.index.get('boundary_ratio') else None
        return {**super().pipeline_arguments(), 'guidance_scale_2': second}

    def predict(self, x: Tensor, sigma: float, texts: dict[str, Tensor]) -> Tensor:
        timestep = filled(x, sigma * 1000)
        if self.index.get('expand_timesteps'):
            time, height, width = (
                size // patch for size, patch in zip(x.shape[2:], self.config.patch_size, strict=True)
            )
            timestep = timestep[:, None].expand(-1, time * height * width)
        return self._networks[self.network_at(sigma)](
            hidden_states=x, timestep=timestep, encoder_hidden_states=texts['embeds'], return_dict=False
        )[0]

    def unscale(self, latents: Tensor) -> Tensor:
        mean, std = (
            torch.tensor(values, device=latents.device, dtype=latents.dtype).view(1, -1, 1, 1, 1)
            for values in (self.vae_config.latents_mean, self.vae_config.latents_std)
        )
        return latents * std + mean
