"""Stage ``taste``: the reward learns what a generator's pictures lack, as preference models of real ones do."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from tools.tiny.common import Averaged, Progress, cosine_lr, save_grid, take_step
from tools.tiny.reward import FLAWS, batches, embed, load, save, spoil
from vipo.scenes.draw import draw
from vipo.scenes.grammar import random_scene

#: What generators do to objects counts for half.
TASTE_FLAWS = {**FLAWS, 'melt': 12, 'cut': 4, 'litter': 4, 'stain': 7}


@torch.no_grad()
def pairs(out: Path, count: int, seed: int, batch: int = 48) -> tuple[list[str], Tensor, Tensor]:
    """``count`` prompts with two pictures each: the drawing as the autoencoder shows it, and the generator's attempt.

    Both went through the same autoencoder, so that its traces tell nothing. Pictures are ``(count, 3, S, S)`` uint8.
    """
    from vipo.diffusion import integrate
    from vipo.generators import SD3Generator
    from vipo.randomness import SampleNoise

    generator = SD3Generator(str(out / 'tiny-sd3'), resolution=64, max_sequence_length=16)
    vae, rng = generator.pipe.vae, random.Random(seed)
    prompts: list[str] = []
    drawn, made = (torch.empty(count, 3, 64, 64, dtype=torch.uint8) for _ in range(2))
    progress = Progress('taste: sample the generator', count // batch)
    for i in range(count // batch):
        scenes = [random_scene(rng, 0.45) for _ in range(batch)]
        piece = slice(i * batch, (i + 1) * batch)
        prompts += [s.prompt for s in scenes]
        conditioning = generator.encode(prompts[piece])
        noise = SampleNoise(range(i * batch, (i + 1) * batch), generator.latent_shape())('initial')
        steps = rng.choice((6, 8, 10))
        latents = integrate(
            lambda x, sigma, c=conditioning: generator.velocity(x, sigma, c), noise, generator.sigmas(steps)
        )
        z = vae.encode(draw(scenes, rng.randrange(2**31)).pixels * 2 - 1).latent_dist.sample()
        z = (z - vae.config.shift_factor) * vae.config.scaling_factor
        made[piece] = (generator.decode(latents)[:, :, 0] * 255).round().byte()
        drawn[piece] = (generator.decode(z[:, :, None])[:, :, 0] * 255).round().byte()
        progress(i)
    return prompts, drawn, made


def draws(pool: tuple[list[str], Tensor, Tensor], batch: int, seed: int) -> Iterator[tuple[list[str], Tensor, Tensor]]:
    """Endless ``(prompts, drawings, attempts)`` from what :func:`pairs` made, each ``(batch, 3, S, S)`` in [0, 1]."""
    prompts, drawn, made = pool
    generator = torch.Generator().manual_seed(seed)
    while True:
        index = torch.randint(len(prompts), (batch,), generator=generator)
        worn = [spoil(p[index].float() / 255, 0.12, generator) for p in (drawn, made)]
        yield [prompts[i] for i in index.tolist()], *worn


def train(out: Path, report: Path, steps: int, batch: int, seed: int, pool: int = 6144) -> None:
    """Goes on from the reward in ``out``: the task of stage ``reward``, and drawings against attempts beside it."""
    torch.manual_seed(seed)
    model, tokenizer = load(out / 'tiny-hps')
    averaged = Averaged(model, 0.995)
    optimizer = torch.optim.AdamW(model.parameters(), lr=4e-4, weight_decay=0.02, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda s: cosine_lr(s, steps, 100))
    sampled = pairs(out, pool, seed + 20_000)
    save_grid(torch.cat([sampled[1][:24], sampled[2][:24]]).float() / 255, report / 'taste.png')
    drawings, attempts = batches(batch, seed + 1, wear=0.15, flaws=TASTE_FLAWS), draws(sampled, batch // 3, seed)
    progress = Progress('taste', steps, 30)
    won = 0.5
    for step in range(steps):
        prompts, good, bad = next(drawings)
        names, drawn, made = next(attempts)
        images, texts = embed(model, tokenizer, torch.cat([good, bad, drawn, made]), prompts + names)
        scale = model.logit_scale.exp().clamp(max=40)
        logits = scale * texts @ images.T
        own, half, extra = torch.arange(batch), torch.arange(len(bad)), torch.arange(len(names))
        among = logits[:batch, : batch + len(bad)]
        flaw = among[half, half] - among[half, half + batch]
        first = batch + len(bad)
        attempt = logits[batch + extra, first + extra] - logits[batch + extra, first + len(names) + extra]
        loss = F.cross_entropy(among, own) + F.cross_entropy(among[:, :batch].T, own)
        loss = loss + F.softplus(-flaw).mean() + F.softplus(-attempt).mean()
        take_step(loss, model, optimizer, schedule, averaged)
        won += ((attempt > 0).float().mean().item() - won) / min(step + 1, 50)
        progress(step, loss=loss.detach(), drawing_wins=won)
        if (step + 1) % 300 == 0 or step + 1 == steps:
            save(averaged.module, tokenizer, out / 'tiny-hps')
