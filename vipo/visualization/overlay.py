"""Allocation maps laid over the pictures that they were made from."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from vipo.visualization.canvas import FAINT, Canvas, middle_frame, to_image
from vipo.visualization.panels import LEGEND, SIGNED_LEGEND, coloured, lit


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
    signed = bool(maps.min() < 0)
    sheet = Canvas(gap + columns * (width + gap), head + rows * cell)
    sheet.text(title, gap, 8, size=17)
    legend = SIGNED_LEGEND if signed else LEGEND
    sheet.text(f'picture | allocation map ({legend}) | picture lit by its map', gap, 29, 11, color=FAINT)
    for i, prompt in enumerate(prompts):
        x, y = gap + (i % columns) * (width + gap), head + (i // columns) * cell
        picture = to_image(middle_frame(pixels[i]), side)
        plane = maps[i, 0, maps.shape[2] // 2].float().cpu()
        top = plane.abs().max().item()
        sheet.text(prompt, x, y + 4, size=11, width=width, height=words - 4)
        small = np.asarray(picture).transpose(2, 0, 1)
        panels = (coloured(plane, top, small.shape[1:], signed), lit(small, plane, top, signed))
        for j, panel in enumerate((picture, *(Image.fromarray(p.transpose(1, 2, 0).copy()) for p in panels))):
            sheet.paste(panel, x + j * (side + gap), y + words)
    sheet.image.save(path)


def to_pixels(pictures: np.ndarray) -> Tensor:
    """uint8 ``(N, 3, F, Y, X)`` -> float in [0, 1]."""
    return torch.from_numpy(pictures).float() / 255
