"""Stage ``backbone``: a ``Dinov2Model`` whose patches know what they show, as the perceptual backbone of the maps."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import Dinov2Config, Dinov2Model

from tools.tiny.common import Averaged, Progress, cosine_lr, save_half, scene_batches
from tools.tiny.reward import spoil
from vipo.scenes.grammar import BACKGROUNDS, COLORS, SHAPES, TEXTURES, Scene

PATCH = 4
_CLASSES = {
    'color': len(COLORS) + 1,
    'shape': len(SHAPES) + 1,
    'texture': len(TEXTURES),
    'background': len(BACKGROUNDS),
}


def build() -> Dinov2Model:
    return Dinov2Model(
        Dinov2Config(
            hidden_size=64, num_hidden_layers=3, num_attention_heads=2, mlp_ratio=3, image_size=64, patch_size=PATCH
        )
    )


def labels(scenes: list[Scene], masks: Tensor) -> dict[str, Tensor]:
    """Per-patch classes ``(B, patches)``; the last class of colour and shape is "no object"."""
    cover = F.avg_pool2d(masks, PATCH).flatten(2)
    owner = torch.where(cover.amax(1) > 0.4, cover.argmax(1), -1)
    colors = torch.tensor([[list(COLORS).index(o.color) for o in (*s.objects, s.objects[0])[:2]] for s in scenes])
    shapes = torch.tensor([[SHAPES.index(o.shape) for o in (*s.objects, s.objects[0])[:2]] for s in scenes])
    count = owner.shape[1]
    pick = owner.clamp(min=0)
    texture = torch.tensor([TEXTURES.index(s.texture) for s in scenes])[:, None].expand(-1, count)
    background = torch.tensor([list(BACKGROUNDS).index(s.background) for s in scenes])[:, None].expand(-1, count)
    return {
        'color': torch.where(owner < 0, len(COLORS), colors.gather(1, pick)),
        'shape': torch.where(owner < 0, len(SHAPES), shapes.gather(1, pick)),
        'texture': texture,
        'background': background,
    }


def train(out: Path, report: Path, steps: int, batch: int, seed: int) -> None:
    """Dense classification of every patch on drawn scenes, some of them with a generator's pixel flaws."""
    torch.manual_seed(seed)
    model = build()
    heads = nn.ModuleDict({name: nn.Linear(64, n) for name, n in _CLASSES.items()})
    averaged = Averaged(model, 0.998)
    parameters = [*model.parameters(), *heads.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=1.5e-3, weight_decay=0.02, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda s: cosine_lr(s, steps))
    progress = Progress('backbone', steps)
    generator = torch.Generator().manual_seed(seed)
    mean = torch.tensor([0.485, 0.456, 0.406]).reshape(3, 1, 1)
    std = torch.tensor([0.229, 0.224, 0.225]).reshape(3, 1, 1)
    stream = scene_batches(batch, seed)
    for step in range(steps):
        scenes, drawing = next(stream)
        pixels = spoil(drawing.pixels, 0.3, generator)
        tokens = model(pixel_values=(pixels - mean) / std).last_hidden_state
        targets = labels(scenes, drawing.masks)
        losses = {}
        for name, target in targets.items():
            # The CLS token names the background too, so that it sees the whole picture.
            features = tokens[:, 1:] if name in ('color', 'shape') else tokens
            target = target if name in ('color', 'shape') else torch.cat([target[:, :1], target], 1)
            losses[name] = F.cross_entropy(heads[name](features).flatten(0, 1), target.flatten())
        loss = sum(losses.values())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        averaged.update(model)
        progress(step, **{k: v.detach() for k, v in losses.items()})
    save_half(averaged.module, out / 'tiny-dinov2')
