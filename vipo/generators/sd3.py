"""Stable Diffusion 3 and 3.5, over diffusers' own classes."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from vipo.generators.image import ImagePipelineGenerator
from vipo.generators.pipeline import filled
from vipo.generators.training import JOINT_ATTENTION
from vipo.registry import GENERATORS


@GENERATORS.register_module()
class SD3Generator(ImagePipelineGenerator):
    """Stable Diffusion 3 / 3.5, and the embedded ``vipo://tiny-sd3``.

    Args:
        guidance_scale: of classifier-free guidance; 1 runs the conditional branch alone. Both branches go through the
            network in one batch, as in diffusers' pipeline.
        max_sequence_length: T5 tokens.
        options: see :class:`vipo.generators.pipeline.PipelineGenerator`.
    """

    pipeline_class = 'StableDiffusion3Pipeline'
    text_encoders = ('text_encoder', 'text_encoder_2', 'text_encoder_3')
    lora_targets = JOINT_ATTENTION
    batched_guidance = True

    def __init__(
        self,
        pretrained: str = 'stabilityai/stable-diffusion-3.5-medium',
        resolution: int | tuple[int, int] = 512,
        guidance_scale: float = 1.0,
        max_sequence_length: int = 256,
        **options: Any,
    ) -> None:
        super().__init__(pretrained, resolution, guidance_scale, max_sequence_length, **options)

    @classmethod
    def twin_of(cls, pretrained: str) -> str:
        return 'sd3'

    @property
    def multiple(self) -> int:
        return self.factor * self.config.patch_size

    def check(self) -> None:
        limit = self.config.pos_embed_max_size * self.multiple
        if max(self.height, self.width) > limit:
            raise ValueError(
                f'generator.resolution {self.height}x{self.width} is larger than the {limit} px this model can place'
            )

    @property
    def shift(self) -> float:
        return self._shift if self._shift is not None else self.scheduler_config['shift']

    def encode_texts(self, texts: list[str]) -> dict[str, Tensor]:
        embeds, _, pooled, _ = self.pipe.encode_prompt(
            texts,
            None,
            None,
            device=self.pipe.text_encoder.device,
            do_classifier_free_guidance=False,
            max_sequence_length=self.max_sequence_length,
        )
        return {'embeds': embeds, 'pooled': pooled}

    def text_shapes(self) -> dict[str, tuple[int, ...]]:
        # CLIP's 77 tokens stand before those of T5.
        tokens = 77 + self.max_sequence_length
        return {'embeds': (tokens, self.config.joint_attention_dim), 'pooled': (self.config.pooled_projection_dim,)}

    def latent_shape(self) -> tuple[int, int, int, int]:
        return self.config.in_channels, 1, self.height // self.factor, self.width // self.factor

    def predict(self, x: Tensor, sigma: float, texts: dict[str, Tensor]) -> Tensor:
        return self._networks['transformer'](
            hidden_states=x.squeeze(2),
            encoder_hidden_states=texts['embeds'],
            pooled_projections=texts['pooled'],
            timestep=filled(x, sigma * 1000),
            return_dict=False,
        )[0].unsqueeze(2)
