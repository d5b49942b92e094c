"""The families as the tests see them: a twin, an adapter over it, and diffusers' own pipeline run the same way."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline

from vipo.diffusion.rollout import integrate
from vipo.generators import FluxGenerator, HunyuanVideoGenerator, PipelineGenerator, SD3Generator, WanGenerator

PROMPTS = ['a red cat', 'two dogs']
STEPS = 4
#: A short template, for a tokenizer that is not Llama's.
TEMPLATE = {'template': 'x {}', 'crop_start': 0}


def _grid() -> list[float]:
    return torch.linspace(1, 1 / STEPS, STEPS).tolist()


def _run_sd3(generator: Any, noise: Any, output: str) -> Any:
    return generator.pipe(
        PROMPTS,
        height=generator.height,
        width=generator.width,
        guidance_scale=generator.guidance_scale,
        num_inference_steps=STEPS,
        sigmas=_grid(),
        latents=noise.squeeze(2).clone(),
        max_sequence_length=16,
        output_type=output,
    ).images.unsqueeze(2)


def _run_flux(generator: Any, noise: Any, output: str) -> Any:
    n, c, _, height, width = noise.shape
    result = generator.pipe(
        PROMPTS,
        negative_prompt=[''] * len(PROMPTS),
        true_cfg_scale=generator.true_cfg_scale,
        height=generator.height,
        width=generator.width,
        guidance_scale=generator.guidance_scale,
        num_inference_steps=STEPS,
        sigmas=_grid(),
        latents=FluxPipeline._pack_latents(noise.squeeze(2).clone(), n, c, height, width),
        max_sequence_length=16,
        output_type=output,
    ).images
    if output == 'latent':
        result = FluxPipeline._unpack_latents(
            result, generator.height, generator.width, generator.pipe.vae_scale_factor
        )
    return result.unsqueeze(2)


def _run_wan(generator: Any, noise: Any, output: str) -> Any:
    # UniPC is a multistep method; the flow ODE by Euler's steps is what a rollout samples.
    generator.pipe.scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    result = generator.pipe(
        PROMPTS,
        height=generator.height,
        width=generator.width,
        num_frames=generator.num_frames,
        guidance_scale=generator.guidance_scale,
        guidance_scale_2=generator.low_noise_guidance_scale if generator.index.get('boundary_ratio') else None,
        num_inference_steps=STEPS,
        latents=noise.clone(),
        max_sequence_length=16,
        output_type=output,
    ).frames
    return result if output == 'latent' else result.transpose(1, 2)


def _run_hunyuan(generator: Any, noise: Any, output: str) -> Any:
    result = generator.pipe(
        PROMPTS,
        negative_prompt=[''] * len(PROMPTS),
        true_cfg_scale=generator.true_cfg_scale,
        prompt_template=TEMPLATE,
        height=generator.height,
        width=generator.width,
        num_frames=generator.num_frames,
        guidance_scale=generator.guidance_scale,
        num_inference_steps=STEPS,
        latents=noise.clone(),
        max_sequence_length=16,
        output_type=output,
    ).frames
    return result if output == 'latent' else result.transpose(1, 2)


@dataclass
class Family:
    """One row of the table below."""

    twin: str
    adapter: type[PipelineGenerator]
    #: Options of the adapter on its twin.
    options: dict[str, Any]
    #: Runs diffusers' pipeline from the same noise.
    run: Callable[[Any, Any, str], Any]
    #: Options that switch classifier-free guidance on.
    guided: dict[str, Any] = field(default_factory=lambda: {'guidance_scale': 4.0})
    #: Options that switch it off.
    unguided: dict[str, Any] = field(default_factory=lambda: {'guidance_scale': 1.0})

    def build(self, folder: str, **options: Any) -> PipelineGenerator:
        return self.adapter(folder, max_sequence_length=16, **{**self.options, **options})


CLIP = {'resolution': (32, 48), 'num_frames': 5}
TRUE_CFG = {'guided': {'true_cfg_scale': 3.0}, 'unguided': {}}
FAMILIES = {
    'sd3': Family('sd3', SD3Generator, {'resolution': (32, 64)}, _run_sd3),
    'flux': Family('flux', FluxGenerator, {'resolution': (32, 64)}, _run_flux, **TRUE_CFG),
    'wan21': Family('wan21', WanGenerator, CLIP, _run_wan),
    'wan22': Family(
        'wan22', WanGenerator, CLIP, _run_wan, guided={'guidance_scale': 4.0, 'low_noise_guidance_scale': 3.0}
    ),
    'wan22_5b': Family('wan22_5b', WanGenerator, {'resolution': (64, 96), 'num_frames': 5}, _run_wan),
    'hunyuan_video': Family(
        'hunyuan_video', HunyuanVideoGenerator, {**CLIP, 'prompt_template': TEMPLATE}, _run_hunyuan, **TRUE_CFG
    ),
}


def start(generator: Any, seed: int = 0, count: int = len(PROMPTS)) -> torch.Tensor:
    """Initial noise."""
    return torch.randn(count, *generator.latent_shape(), generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def sample(generator: Any, noise: torch.Tensor, sigmas: torch.Tensor) -> torch.Tensor:
    """Our deterministic sampling."""
    conditioning = generator.encode(PROMPTS)
    return integrate(lambda x, sigma: generator.velocity(x, sigma, conditioning), noise, sigmas)
