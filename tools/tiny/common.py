"""What the training stages share: seeded scene batches, a progress line, an averaged copy of the weights."""

from __future__ import annotations

import copy
import math
import random
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

from vipo.scenes.draw import Drawing, draw
from vipo.scenes.grammar import Scene, random_scene


def scene_batches(batch: int, seed: int, two_objects: float = 0.4) -> Iterator[tuple[list[Scene], Drawing]]:
    """Endless seeded stream of fresh scenes and their drawings."""
    rng = random.Random(seed)
    while True:
        scenes = [random_scene(rng, two_objects) for _ in range(batch)]
        yield scenes, draw(scenes, rng.randrange(2**31))


def cosine_lr(step: int, steps: int, warmup: int = 100) -> float:
    """Linear warm-up, then cosine to 2 % of the peak."""
    if step < warmup:
        return (step + 1) / warmup
    progress = (step - warmup) / max(1, steps - warmup)
    return 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * progress))


class Averaged:
    """Exponential moving average of a module's parameters, with a warm-up of the decay."""

    def __init__(self, module: nn.Module, decay: float = 0.999) -> None:
        self.module = copy.deepcopy(module).requires_grad_(False)
        self.decay = decay
        self.count = 0

    @torch.no_grad()
    def update(self, module: nn.Module) -> None:
        self.count += 1
        decay = min(self.decay, (1 + self.count) / (10 + self.count))
        for mine, theirs in zip(self.module.state_dict().values(), module.state_dict().values(), strict=True):
            if mine.is_floating_point():
                mine.lerp_(theirs, 1 - decay)
            else:
                mine.copy_(theirs)


def take_step(
    loss: Tensor,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler,
    averaged: Averaged,
) -> None:
    """One optimiser step with the gradient's norm clipped at 1, and what follows it."""
    optimizer.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    schedule.step()
    averaged.update(model)


class Progress:
    """Prints ``stage  step/steps  ETA  key=value`` every ``interval`` seconds."""

    def __init__(self, stage: str, steps: int, interval: float = 15.0) -> None:
        self.stage, self.steps, self.interval = stage, steps, interval
        self.start = self.last = time.perf_counter()

    def __call__(self, step: int, **values: float | Tensor) -> None:
        now = time.perf_counter()
        if now - self.last < self.interval and step + 1 < self.steps:
            return
        self.last = now
        eta = (now - self.start) / (step + 1) * (self.steps - step - 1)
        text = '  '.join(f'{k} {float(v):.4f}' for k, v in values.items())
        print(f'[{self.stage}] step {step + 1}/{self.steps}  ETA {eta / 60:.1f} min  {text}', flush=True)


def save_grid(pixels: Tensor, path: Path, columns: int = 8) -> None:
    """Write ``(N, 3, S, S)`` in [0, 1] as a PNG contact sheet."""
    from PIL import Image

    rows = math.ceil(len(pixels) / columns)
    side = pixels.shape[-1]
    sheet = torch.ones(rows * columns, 3, side, side)
    sheet[: len(pixels)] = pixels.clamp(0, 1)
    sheet = sheet.reshape(rows, columns, 3, side, side).permute(0, 3, 1, 4, 2).reshape(rows * side, columns * side, 3)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray((sheet * 255).round().byte().numpy()).save(path)


def save_half(module: nn.Module, folder: Path) -> None:
    """``save_pretrained`` in float16, which halves what the package ships."""
    copy.deepcopy(module).half().save_pretrained(folder, safe_serialization=True)
