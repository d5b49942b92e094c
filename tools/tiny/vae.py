"""Stage ``vae``: a 4x autoencoder of class ``AutoencoderKL`` on drawn scenes."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL

from tools.tiny.common import Averaged, Progress, cosine_lr, save_grid, save_half, scene_batches, take_step


def build() -> AutoencoderKL:
    return AutoencoderKL(
        in_channels=3,
        out_channels=3,
        down_block_types=('DownEncoderBlock2D',) * 3,
        up_block_types=('UpDecoderBlock2D',) * 3,
        block_out_channels=(16, 32, 64),
        layers_per_block=1,
        latent_channels=8,
        norm_num_groups=8,
        sample_size=64,
        use_quant_conv=False,
        use_post_quant_conv=False,
        mid_block_add_attention=False,
    )


def train(out: Path, report: Path, steps: int, batch: int, seed: int) -> None:
    """Reconstruction (L1, L2, image gradients; objects weighted) with a light KL; then standardises the latents."""
    torch.manual_seed(seed)
    vae = build()
    averaged = Averaged(vae, 0.998)
    optimizer = torch.optim.AdamW(vae.parameters(), lr=1.5e-3, weight_decay=1e-4, betas=(0.9, 0.99))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda s: cosine_lr(s, steps))
    progress = Progress('vae', steps)
    stream = scene_batches(batch, seed)
    for step in range(steps):
        _, drawing = next(stream)
        target = drawing.pixels * 2 - 1
        posterior = vae.encode(target).latent_dist
        output = vae.decode(posterior.sample()).sample
        error = output - target
        edges = (error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean()) / 2
        kl = posterior.kl().mean() / posterior.mean[0].numel()
        # Objects cover a tenth of the picture, and small ones are what a light autoencoder loses first.
        weight = 1 + 4 * drawing.masks.sum(1, keepdim=True)
        loss = (weight * error.abs()).mean() + (weight * error.square()).mean() + edges + 2e-4 * kl
        take_step(loss, vae, optimizer, schedule, averaged)
        progress(step, l1=error.detach().abs().mean(), kl=kl.detach())
    vae = averaged.module.eval()
    with torch.no_grad():
        _, drawing = next(stream)
        latents = torch.cat([vae.encode(next(stream)[1].pixels * 2 - 1).latent_dist.sample() for _ in range(8)])
        shift, scale = latents.mean().item(), 1 / latents.std().item()
        vae.register_to_config(scaling_factor=scale, shift_factor=shift)
        output = vae.decode(vae.encode(drawing.pixels * 2 - 1).latent_dist.sample()).sample
    rmse = F.mse_loss(output / 2 + 0.5, drawing.pixels).sqrt().item()
    print(f'[vae] rmse {rmse:.4f}  scaling_factor {scale:.4f}  shift_factor {shift:.4f}')
    save_grid(torch.cat([drawing.pixels[:16], output[:16] / 2 + 0.5]), report / 'vae.png')
    save_half(vae, out / 'tiny-sd3' / 'vae')
