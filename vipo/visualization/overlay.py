"""Allocation maps laid over the pictures that they were made from."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from vipo.visualization.canvas import FAINT, Canvas, middle_frame, to_image


def heat(values: np.ndarray) -> np.ndarray:
    """Colours ``(Y, X, 3)`` uint8 of values in [0, 1]."""
    from matplotlib import colormaps

    return (colormaps['inferno'](values)[..., :3] * 255).astype(np.uint8)


def map_overlays(
    prompts: list[str], pixels: np.ndarray, maps: Tensor, path: Path, title: str, columns: int = 4, side: int = 128
) -> None:
    """Write triples: the picture, its map, and the picture dimmed where the map is low.

    Args:
        pixels: ``(N, 3, F, Y, X)`` uint8.
        maps: ``(N, 1, T, H, W)``; each is scaled to its own maximum.
        path: of the PNG.
        title: first line of the sheet.
    """
    gap, head, words = 10, 44, 34
    width = 3 * side + 2 * gap
    cell = words + side + 2 * gap
    rows = -(-len(prompts) // columns)
    sheet = Canvas(gap + columns * (width + gap), head + rows * cell)
    sheet.text(title, gap, 8, size=17)
    sheet.text(
        'picture | allocation map (bright: more learning pressure) | picture lit by its map', gap, 29, 11, color=FAINT
    )
    for i, prompt in enumerate(prompts):
        x, y = gap + (i % columns) * (width + gap), head + (i // columns) * cell
        picture = to_image(middle_frame(pixels[i]), side)
        plane = maps[i, :, maps.shape[2] // 2][None].float().cpu()
        scaled = F.interpolate(plane / plane.amax().clamp(min=1e-8), size=picture.size[::-1], mode='bilinear')
        values = scaled[0, 0].clamp(0, 1).numpy()
        lit = np.asarray(picture, dtype=np.float32) * (0.15 + 0.85 * values[..., None])
        sheet.text(prompt, x, y + 4, size=11, width=width, height=words - 4)
        panels = (picture, Image.fromarray(heat(values)), Image.fromarray(lit.astype(np.uint8)))
        for j, panel in enumerate(panels):
            sheet.paste(panel, x + j * (side + gap), y + words)
    sheet.image.save(path)


def to_pixels(pictures: np.ndarray) -> Tensor:
    """uint8 ``(N, 3, F, Y, X)`` -> float in [0, 1]."""
    return torch.from_numpy(pictures).float() / 255
