"""HunyuanVideo text to video, over diffusers' own classes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor

from vipo.generators.pipeline import filled
from vipo.generators.training import JOINT_ATTENTION
from vipo.generators.video import VideoPipelineGenerator
from vipo.registry import GENERATORS


@GENERATORS.register_module()
class HunyuanVideoGenerator(VideoPipelineGenerator):
    """HunyuanVideo.

    Args:
        guidance_scale: the number that the guidance-distilled model takes as input.
        max_sequence_length: Llama tokens; the shorter text is masked.
        true_cfg_scale: of classifier-free guidance on top of it, in two passes; 1 runs the conditional branch alone.
        prompt_template: ``template`` with one ``{}`` and ``crop_start``, the number of its tokens that are dropped;
            None is the pipeline's own, which belongs to the published text encoder.
        options: see :class:`vipo.generators.video.VideoPipelineGenerator`. Where ``shift`` is None, it is the
            scheduler's.
    """

    pipeline_class = 'HunyuanVideoPipeline'
    text_encoders = ('text_encoder', 'text_encoder_2')
    lora_targets = JOINT_ATTENTION
    # The refiner of the text has layers of the same names; they stay frozen.
    lora_exclude = ('context_embedder',)

    def __init__(
        self,
        pretrained: str = 'hunyuanvideo-community/HunyuanVideo',
        resolution: int | tuple[int, int] = 480,
        guidance_scale: float = 6.0,
        max_sequence_length: int = 256,
        true_cfg_scale: float = 1.0,
        prompt_template: dict[str, Any] | None = None,
        **options: Any,
    ) -> None:
        self.true_cfg_scale = true_cfg_scale
        self.prompt_template = prompt_template
        super().__init__(pretrained, resolution, guidance_scale, max_sequence_length, **options)

    @classmethod
    def twin_of(cls, pretrained: str) -> str:
        return 'hunyuan_video'

    @classmethod
    def rehearsal(cls, options: dict[str, Any], folder: Path) -> dict[str, Any]:
        # The published template belongs to the published tokenizer. Without a word of its own, one would mask an empty
        # text whole.
        return {**super().rehearsal(options, folder), 'prompt_template': {'template': 'x {}', 'crop_start': 0}}

    @property
    def factors(self) -> tuple[int, int]:
        return self.vae_config.temporal_compression_ratio, self.vae_config.spatial_compression_ratio

    @property
    def multiple(self) -> int:
        return self.factors[1] * self.config.patch_size

    @property
    def shift(self) -> float:
        return self._shift if self._shift is not None else self.scheduler_config['shift']

    def guidance_at(self, sigma: float) -> float:
        return self.true_cfg_scale

    def encoding_options(self) -> dict[str, Any]:
        return {'prompt_template': self.prompt_template}

    def encode_texts(self, texts: list[str]) -> dict[str, Tensor]:
        template = {} if self.prompt_template is None else {'prompt_template': dict(self.prompt_template)}
        embeds, pooled, mask = self.pipe.encode_prompt(
            texts, device=self.pipe.text_encoder.device, max_sequence_length=self.max_sequence_length, **template
        )
        return {'embeds': embeds, 'pooled': pooled, 'mask': mask}

    def text_shapes(self) -> dict[str, tuple[int, ...]]:
        tokens, width = self.max_sequence_length, self.config.text_embed_dim
        return {'embeds': (tokens, width), 'pooled': (self.config.pooled_projection_dim,), 'mask': (tokens,)}

    def pipeline_arguments(self) -> dict[str, Any]:
        template = {} if self.prompt_template is None else {'prompt_template': self.prompt_template}
        return {**super().pipeline_arguments(), 'true_cfg_scale': self.true_cfg_scale, **template}

    def predict(self, x: Tensor, sigma: float, texts: dict[str, Tensor]) -> Tensor:
        return self._networks['transformer'](
            hidden_states=x,
            timestep=filled(x, sigma * 1000),
            encoder_hidden_states=texts['embeds'],
            encoder_attention_mask=texts['mask'],
            pooled_projections=texts['pooled'],
            # Unlike FLUX, the model does not multiply by 1000 itself.
            guidance=filled(x, self.guidance_scale * 1000),
            return_dict=False,
        )[0]

    def unscale(self, latents: Tensor) -> Tensor:
        return latents / self.vae_config.scaling_factor
