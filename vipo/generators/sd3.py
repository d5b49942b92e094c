"""Stable Diffusion 3 and 3.5, over diffusers' own classes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vipo.assets import resolve
from vipo.diffusion.schedule import sigma_schedule
from vipo.generators.base import Conditioning, Generator
from vipo.generators.training import Trainable
from vipo.registry import GENERATORS
from vipo.registry.build import torch_dtype

_LORA_TARGETS = (
    'attn.to_q',
    'attn.to_k',
    'attn.to_v',
    'attn.to_out.0',
    'attn.add_q_proj',
    'attn.add_k_proj',
    'attn.add_v_proj',
    'attn.to_add_out',
)


@GENERATORS.register_module()
class SD3Generator(Generator):
    """Stable Diffusion 3 / 3.5, and the embedded ``vipo://tiny-sd3``.

    Args:
        pretrained: a diffusers folder, hub id or ``vipo://`` asset.
        resolution: height and width in pixels, or one number for both.
        guidance_scale: classifier-free guidance; 1 runs the conditional branch alone. Both branches go through the
            network in one batch, as in diffusers' pipeline.
        negative_prompt: of the unconditional branch.
        max_sequence_length: T5 tokens.
        lora: adapter options, see :func:`vipo.generators.training.add_lora`; None trains all weights.
        keep_reference: for full training with a KL term, see :class:`vipo.generators.training.Trainable`.
        gradient_checkpointing: trade compute for memory in replay.
        shift: of the sigma schedule; None takes the checkpoint's scheduler config.
        decode_batch: most samples decoded at once.
        device, dtype: of the weights and of the computation; trained weights are float32 always, and where all are
            trained, ``dtype`` is that of autocast.

    Raises:
        ValueError: the resolution does not fit the model, or the dtype is unknown.
        ConfigError: ``lora`` has an option that :func:`vipo.generators.training.add_lora` does not know.
        OSError: ``pretrained`` leads to no pipeline.
    """

    def __init__(
        self,
        pretrained: str = 'stabilityai/stable-diffusion-3.5-medium',
        resolution: int | tuple[int, int] = 512,
        guidance_scale: float = 1.0,
        negative_prompt: str = '',
        max_sequence_length: int = 256,
        lora: dict[str, Any] | None = None,
        keep_reference: bool = False,
        gradient_checkpointing: bool = False,
        shift: float | None = None,
        decode_batch: int = 16,
        device: str = 'cpu',
        dtype: str = 'float32',
    ) -> None:
        from diffusers import StableDiffusion3Pipeline

        self.pipe = StableDiffusion3Pipeline.from_pretrained(resolve(pretrained), dtype=torch_dtype(dtype))
        self.pipe.set_progress_bar_config(disable=True)
        self.pipe.to(device)
        for name in ('vae', 'text_encoder', 'text_encoder_2', 'text_encoder_3'):
            module = getattr(self.pipe, name)
            if module is not None:
                module.eval().requires_grad_(False)
        self.denoiser = self.pipe.transformer.eval()
        self.height, self.width = _size(resolution, self.pipe.vae_scale_factor * self.denoiser.config.patch_size)
        limit = self.denoiser.config.pos_embed_max_size * self.denoiser.config.patch_size * self.pipe.vae_scale_factor
        if max(self.height, self.width) > limit:
            raise ValueError(f'generator.resolution {resolution} is larger than the {limit} px this model can place')
        self.guidance_scale = guidance_scale
        self.negative_prompt = negative_prompt
        self.max_sequence_length = max_sequence_length
        self.shift = shift if shift is not None else self.pipe.scheduler.config.shift
        self.decode_batch = decode_batch
        self.compute_dtype = torch_dtype(dtype)
        self.training = Trainable(self.denoiser, lora, _LORA_TARGETS, keep_reference)
        self._network = self.denoiser
        if gradient_checkpointing:
            self.denoiser.enable_gradient_checkpointing()

    @property
    def device(self) -> torch.device:
        return self.denoiser.device

    def to(self, device: torch.device | str) -> SD3Generator:
        self.pipe.to(device)
        self.training.to(device)
        return self

    @property
    def has_reference(self) -> bool:
        return self.training.has_reference

    @torch.no_grad()
    def encode(self, prompts: Sequence[str]) -> Conditioning:
        guided = self.guidance_scale > 1
        embeds, negative, pooled, negative_pooled = self.pipe.encode_prompt(
            list(prompts),
            None,
            None,
            device=self.pipe.text_encoder.device,
            do_classifier_free_guidance=guided,
            negative_prompt=self.negative_prompt,
            max_sequence_length=self.max_sequence_length,
        )
        tensors = {'embeds': embeds, 'pooled': pooled}
        if guided:
            tensors |= {'negative_embeds': negative, 'negative_pooled': negative_pooled}
        return Conditioning(tensors)

    def latent_shape(self) -> tuple[int, int, int, int]:
        factor = self.pipe.vae_scale_factor
        return self.denoiser.config.in_channels, 1, self.height // factor, self.width // factor

    def sigmas(self, num_steps: int) -> Tensor:
        return sigma_schedule(num_steps, self.shift)

    def velocity(self, latents: Tensor, sigma: float, conditioning: Conditioning) -> Tensor:
        x = latents.squeeze(2).to(self.denoiser.dtype)
        c = conditioning.tensors
        embeds, pooled = c['embeds'], c['pooled']
        guided = self.guidance_scale > 1
        if guided:
            x = torch.cat([x, x])
            embeds = torch.cat([c['negative_embeds'], embeds])
            pooled = torch.cat([c['negative_pooled'], pooled])
        mixed = self.compute_dtype != self.denoiser.dtype
        with torch.autocast(x.device.type, self.compute_dtype, enabled=mixed):
            v = self._network(
                hidden_states=x,
                encoder_hidden_states=embeds,
                pooled_projections=pooled,
                timestep=x.new_full((len(x),), sigma * 1000, dtype=torch.float32),
                return_dict=False,
            )[0].float()
        if guided:
            unconditional, conditional = v.chunk(2)
            v = unconditional + self.guidance_scale * (conditional - unconditional)
        return v.unsqueeze(2)

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        vae = self.pipe.vae
        z = latents.squeeze(2).to(vae.device, vae.dtype) / vae.config.scaling_factor + (vae.config.shift_factor or 0.0)
        pixels = torch.cat([vae.decode(part, return_dict=False)[0] for part in z.split(self.decode_batch)])
        return (pixels.float() / 2 + 0.5).clamp(0, 1).unsqueeze(2)

    @contextmanager
    def reference(self) -> Iterator[None]:
        with self.training.reference() as network:
            self._network = network
            try:
                yield
            finally:
                self._network = self.denoiser

    def save_pretrained(self, folder: str | Path) -> None:
        if self.training.lora:
            from peft.utils import get_peft_model_state_dict

            self.pipe.save_lora_weights(
                folder,
                transformer_lora_layers=get_peft_model_state_dict(self.denoiser),
                # Without it diffusers would take alpha to be the rank.
                transformer_lora_adapter_metadata=self.denoiser.peft_config['default'].to_dict(),
            )
        else:
            self.denoiser.save_pretrained(Path(folder) / 'transformer')


def _size(resolution: int | tuple[int, int], multiple: int) -> tuple[int, int]:
    height, width = (resolution, resolution) if isinstance(resolution, int) else resolution
    if height % multiple or width % multiple or min(height, width) < multiple:
        fits = [max(multiple, round(side / multiple) * multiple) for side in (height, width)]
        raise ValueError(
            f'generator.resolution {height}x{width} does not fit the model: both sides must be '
            f'multiples of {multiple}. '
            f'The nearest that fits is {fits[0]}x{fits[1]}.'
        )
    return height, width
