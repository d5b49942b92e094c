"""Stage ``generator``: text encoders and an ``SD3Transformer2DModel``, trained together by flow matching."""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path

import torch
from diffusers import (
    AutoencoderKL,
    FlowMatchEulerDiscreteScheduler,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
)
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModelWithProjection, T5Config, T5EncoderModel

from tools.tiny.common import Averaged, Progress, cosine_lr, save_grid, save_half, scene_batches, take_step
from tools.tiny.tokenizers import clip_tokenizer, t5_tokenizer

CLIP_TOKENS, T5_TOKENS = 18, 16


def _clip_encoder(tokenizer) -> CLIPTextModelWithProjection:
    return CLIPTextModelWithProjection(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=64,
            intermediate_size=192,
            num_attention_heads=4,
            num_hidden_layers=2,
            max_position_embeddings=CLIP_TOKENS,
            hidden_act='gelu',
            projection_dim=64,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def build(vae: AutoencoderKL) -> StableDiffusion3Pipeline:
    """The whole pipeline, untrained apart from the autoencoder."""
    clip, t5 = clip_tokenizer(CLIP_TOKENS), t5_tokenizer(T5_TOKENS)
    text_encoder_3 = T5EncoderModel(
        T5Config(
            vocab_size=len(t5),
            d_model=128,
            d_kv=32,
            d_ff=256,
            num_layers=2,
            num_heads=4,
            relative_attention_num_buckets=16,
            relative_attention_max_distance=32,
            dropout_rate=0.0,
            feed_forward_proj='gated-gelu',
            pad_token_id=t5.pad_token_id,
            eos_token_id=t5.eos_token_id,
            decoder_start_token_id=0,
        )
    )
    transformer = SD3Transformer2DModel(
        sample_size=16,
        patch_size=2,
        in_channels=8,
        out_channels=8,
        num_layers=4,
        attention_head_dim=32,
        num_attention_heads=4,
        caption_projection_dim=128,
        joint_attention_dim=128,
        pooled_projection_dim=128,
        pos_embed_max_size=16,
        qk_norm='rms_norm',
    )
    return StableDiffusion3Pipeline(
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=1.0),
        vae=vae,
        text_encoder=_clip_encoder(clip),
        tokenizer=clip,
        text_encoder_2=_clip_encoder(clip),
        tokenizer_2=clip_tokenizer(CLIP_TOKENS),
        text_encoder_3=text_encoder_3,
        tokenizer_3=t5,
    )


@torch.no_grad()
def _latent_pool(vae: AutoencoderKL, size: int, seed: int) -> tuple[list[str], Tensor]:
    prompts: list[str] = []
    latents = torch.empty(size, 8, 16, 16)
    progress = Progress('generator: encode scenes', size // 64)
    stream = scene_batches(64, seed)
    for i in range(size // 64):
        scenes, drawing = next(stream)
        z = vae.encode(drawing.pixels * 2 - 1).latent_dist.sample()
        latents[64 * i : 64 * (i + 1)] = (z - vae.config.shift_factor) * vae.config.scaling_factor
        prompts += [s.prompt for s in scenes]
        progress(i)
    return prompts, latents


def _encode(pipe: StableDiffusion3Pipeline, prompts: list[str]) -> tuple[Tensor, Tensor]:
    embeds, _, pooled, _ = pipe.encode_prompt(
        prompts,
        prompts,
        prompts,
        device=torch.device('cpu'),
        do_classifier_free_guidance=False,
        max_sequence_length=T5_TOKENS,
    )
    return embeds, pooled


def train(out: Path, report: Path, steps: int, batch: int, seed: int) -> None:
    """From random weights, over the autoencoder in ``out``."""
    torch.manual_seed(seed)
    vae = AutoencoderKL.from_pretrained(out / 'tiny-sd3' / 'vae', dtype=torch.float32)
    _fit(build(vae), out, report / 'generator', steps, batch, seed, lr=1e-3)


def refine(out: Path, report: Path, steps: int, batch: int, seed: int) -> None:
    """A second cycle of the learning rate, from the weights in ``out`` and on other scenes."""
    pipe = StableDiffusion3Pipeline.from_pretrained(out / 'tiny-sd3', dtype=torch.float32)
    _fit(pipe, out, report / 'refine', steps, batch, seed + 1, lr=8e-4)


def polish(out: Path, report: Path, steps: int, batch: int, seed: int) -> None:
    """A third cycle, again on other scenes: shapes are what a small transformer learns last."""
    pipe = StableDiffusion3Pipeline.from_pretrained(out / 'tiny-sd3', dtype=torch.float32)
    _fit(pipe, out, report / 'polish', steps, batch, seed + 2, lr=8e-4)


def _fit(
    pipe: StableDiffusion3Pipeline,
    out: Path,
    report: Path,
    steps: int,
    batch: int,
    seed: int,
    lr: float,
    pool: int = 24576,
) -> None:
    """Velocity regression at logit-normal sigmas with 10 % caption dropout; keeps the averaged weights."""
    folder = out / 'tiny-sd3'
    pipe.vae.eval().requires_grad_(False)
    names = ('transformer', 'text_encoder', 'text_encoder_2', 'text_encoder_3')
    model = nn.ModuleDict({name: getattr(pipe, name) for name in names}).train()
    averaged = Averaged(model, 0.9995)
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=1e-3, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda s: cosine_lr(s, steps, 200))
    prompts, latents = _latent_pool(pipe.vae, pool, seed)
    draws = torch.Generator().manual_seed(seed)
    progress = Progress('generator', steps, 30)

    def swap_in(modules: nn.ModuleDict) -> None:
        for name in names:
            setattr(pipe, name, modules[name])

    running = 0.0
    for step in range(steps):
        index = torch.randint(len(prompts), (batch,), generator=draws)
        dropped = torch.rand(batch, generator=draws) < 0.1
        text = ['' if d else prompts[i] for i, d in zip(index.tolist(), dropped.tolist(), strict=True)]
        clean = latents[index]
        noise = torch.randn(clean.shape, generator=draws)
        sigma = torch.sigmoid(torch.randn(batch, generator=draws))
        noisy = torch.lerp(clean, noise, sigma[:, None, None, None])
        embeds, pooled = _encode(pipe, text)
        velocity = pipe.transformer(
            hidden_states=noisy,
            encoder_hidden_states=embeds,
            pooled_projections=pooled,
            timestep=sigma * 1000,
            return_dict=False,
        )[0]
        loss = (velocity - (noise - clean)).square().mean()
        take_step(loss, model, optimizer, schedule, averaged)
        running += (loss.item() - running) / min(step + 1, 200)
        progress(step, loss=running)
        if (step + 1) % 500 == 0 or step + 1 == steps:
            swap_in(averaged.module)
            _gallery(pipe, report / f'{step + 1:05d}.png', 0)
            _save(pipe, folder)
            swap_in(model)


def _save(pipe: StableDiffusion3Pipeline, folder: Path) -> None:
    pipe.save_pretrained(folder, safe_serialization=True)
    for name in ('transformer', 'vae', 'text_encoder', 'text_encoder_2', 'text_encoder_3'):
        save_half(getattr(pipe, name), folder / name)
    for file in folder.rglob('*.json'):  # diffusers notes where it loaded from
        text = file.read_text()
        file.write_text(re.sub(r'\n *"_name_or_path": "[^"]*",', '', text))


@torch.no_grad()
def _gallery(pipe: StableDiffusion3Pipeline, path: Path, seed: int) -> None:
    from vipo.scenes.judge import SceneJudge

    scenes, _ = next(scene_batches(128, seed + 10_000))
    text = [s.prompt for s in scenes]
    embeds, pooled = _encode(pipe, text)
    x = torch.randn(len(text), 8, 16, 16, generator=torch.Generator().manual_seed(seed))
    sigmas = torch.linspace(1, 0, 13)
    for now, then in pairwise(sigmas):
        v = pipe.transformer(
            hidden_states=x,
            encoder_hidden_states=embeds,
            pooled_projections=pooled,
            timestep=(now * 1000).expand(len(x)),
            return_dict=False,
        )[0]
        x = x + (then - now) * v
    pixels = pipe.vae.decode(x / pipe.vae.config.scaling_factor + pipe.vae.config.shift_factor).sample / 2 + 0.5
    save_grid(pixels[:48], path)
    result = SceneJudge()(pixels[:, :, None].clamp(0, 1), text)
    parts = '  '.join(f'{k} {v.mean().item():.3f}' for k, v in result.parts.items())
    print(f'[generator] judge {result.scores.mean().item():.3f}  {parts}', flush=True)
