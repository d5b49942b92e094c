"""Allocation maps of several structurers beside each other, for pictures and for clips."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from vipo.visualization.canvas import FAINT, Canvas, to_image
from vipo.visualization.overlay import heat
from vipo.visualization.samples import write_mp4

_GAP, _HEAD, _LINE = 10, 40, 14


def lit(picture: np.ndarray, plane: Tensor, top: float) -> np.ndarray:
    """The picture ``(3, Y, X)`` uint8, dimmed where the map ``(H, W)`` is low; full light at ``top``."""
    share = _enlarged(plane / max(top, 1e-8), picture.shape[-2:]).clamp(0, 1).numpy()
    return (picture * (0.15 + 0.85 * share)).astype(np.uint8)


def coloured(plane: Tensor, top: float, size: tuple[int, int]) -> np.ndarray:
    """The map as colours ``(3, Y, X)`` uint8, dark to bright."""
    share = _enlarged(plane / max(top, 1e-8), size).clamp(0, 1).numpy()
    return heat(share).transpose(2, 0, 1)


def component_colours(features: Tensor, size: tuple[int, int]) -> np.ndarray:
    """The first three principal components of a clip's features as red, green and blue.

    Args:
        features: ``(F, D, h, w)``; the axes are common to all frames.
        size: in pixels.

    Returns:
        ``(3, F, Y, X)`` uint8.
    """
    from vipo.structurers.functional import minmax
    from vipo.structurers.principal import principal_components

    frames, depth, height, width = features.shape
    tokens = features.permute(0, 2, 3, 1).reshape(-1, depth)
    count = min(3, depth, len(tokens))
    projected = minmax(principal_components(tokens, count)[0], (0,)).reshape(frames, height, width, count)
    planes = F.pad(projected, (0, 3 - count)).permute(0, 3, 1, 2)
    large = F.interpolate(planes, size=size, mode='nearest')
    return (large * 255).byte().permute(1, 0, 2, 3).numpy()


def histogram(values: Tensor, size: tuple[int, int]) -> Image.Image:
    """How often which weight occurs, on a logarithmic scale of counts; the line is the mean."""
    width, height = size
    top = max(values.max().item(), 1e-8)
    low = min(values.min().item(), 0.0)
    counts = torch.histc(values.float(), bins=24, min=low, max=top)
    bars = (counts + 1).log() / (counts.max() + 1).log()
    sheet = Canvas(width, height)
    base, room = height - 16, height - 22
    for i, bar in enumerate(bars.tolist()):
        left, right = int(i * width / 24), max(int((i + 1) * width / 24) - 1, int(i * width / 24) + 1)
        tall = max(1, int(bar * room))
        sheet.paste(Image.new('RGB', (right - left, tall), (90, 120, 190)), left, base - tall)
    mean = int((values.mean().item() - low) / (top - low) * (width - 1))
    sheet.paste(Image.new('RGB', (1, room), (190, 60, 40)), mean, base - room)
    sheet.text(f'{low:.2g}', 0, base + 1, 10, color=FAINT)
    sheet.text(f'mean {values.mean().item():.2f}', width // 2 - 24, base + 1, 10, color=FAINT)
    sheet.text(f'{top:.2f}', width - 26, base + 1, 10, color=FAINT)
    return sheet.image


def map_sheet(
    pixels: list[np.ndarray],
    captions: list[str],
    maps: Mapping[str, list[Tensor]],
    components: Mapping[str, list[np.ndarray]],
    path: Path,
    side: int = 176,
) -> None:
    """A row per sample: its middle frame; then of each structurer the map, the lit picture, components and weights.

    Args:
        pixels: of each sample ``(3, F, Y, X)`` uint8.
        maps: structurer -> of each sample ``(T, H, W)``.
        components: structurer -> of each sample ``(3, F, Y, X)`` uint8, for those that have features.
        path: of the PNG.
    """
    blocks = {name: 4 if name in components else 3 for name in maps}
    tallest = max(round(side * min(1.0, p.shape[2] / p.shape[3])) for p in pixels)
    cell, line = side + _GAP, tallest + 34
    sheet = Canvas(_GAP + cell * (1 + sum(blocks.values())), _HEAD + line * len(pixels) + _GAP)
    x = _GAP + cell
    for name, count in blocks.items():
        sheet.text(name, x, 4, size=14, width=count * cell - _GAP, height=20)
        legend = ('map', 'lit by it', *(['components'] if count == 4 else []), 'weights')
        for i, words in enumerate(legend):
            sheet.text(words, x + i * cell, 24, 10, color=FAINT)
        x += count * cell
    for row, (sample, caption) in enumerate(zip(pixels, captions, strict=True)):
        y = _HEAD + row * line
        middle = sample.shape[1] // 2
        picture = to_image(sample[:, middle], side)
        sheet.text(caption, _GAP, y, size=10, width=cell * (1 + sum(blocks.values())) - _GAP, height=18)
        sheet.paste(picture, _GAP, y + 18)
        x = _GAP + cell
        for name in blocks:
            clip = maps[name][row].float().cpu()
            plane, top = clip[clip.shape[0] // 2], clip.max().item()
            panels = [
                to_image(coloured(plane, top, sample.shape[2:]), side),
                to_image(lit(sample[:, middle], plane, top), side),
                *([to_image(components[name][row][:, middle], side)] if name in components else []),
                histogram(clip, picture.size),
            ]
            for panel in panels:
                sheet.paste(panel, x, y + 18)
                x += cell
    sheet.image.save(path)


def map_clip(sample: np.ndarray, maps: Mapping[str, Tensor], stem: Path, fps: float, strip: int = 8) -> list[Path]:
    """A clip beside what each map leaves of it, as MP4, and some of its frames as a strip with the maps' names.

    Args:
        sample: ``(3, F, Y, X)`` uint8.
        maps: structurer -> ``(T, H, W)``; latent frame 0 belongs to frame 0, the others to equal runs after it.
        stem: path without suffix.
        strip: frames in the strip, evenly spaced.

    Returns:
        The files.
    """
    frames = sample.shape[1]
    rows = [sample]
    for clip in maps.values():
        clip = clip.float().cpu()
        stride = (frames - 1) // max(len(clip) - 1, 1) or 1
        of = [min(-(-f // stride), len(clip) - 1) for f in range(frames)]
        rows.append(np.stack([lit(sample[:, f], clip[of[f]], clip.max().item()) for f in range(frames)], axis=1))
    beside = np.concatenate(rows, axis=3)
    even = beside[..., : beside.shape[2] // 2 * 2, : beside.shape[3] // 2 * 2]  # the codec takes no odd sides
    write_mp4(even, stem.with_suffix('.mp4'), round(fps))
    chosen = np.linspace(0, frames - 1, min(strip, frames)).round().astype(int)
    _, _, height, width = sample.shape
    sheet = Canvas(len(chosen) * width, len(rows) * (height + _LINE))
    for i, (name, row) in enumerate(zip(('clip', *maps), rows, strict=True)):
        sheet.text(name, 2, i * (height + _LINE), size=10)
        line = np.concatenate([row[:, f] for f in chosen], axis=2)
        sheet.paste(Image.fromarray(np.ascontiguousarray(line.transpose(1, 2, 0))), 0, i * (height + _LINE) + _LINE)
    place = stem.with_name(f'{stem.name}_strip.png')
    sheet.image.save(place)
    return [stem.with_suffix('.mp4'), place]


def _enlarged(plane: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(plane[None, None], size=size, mode='bilinear', align_corners=False)[0, 0]
