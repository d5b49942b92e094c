"""Allocation maps of several structurers beside each other, for pictures and for clips."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor

from vipo.visualization.canvas import FAINT, Canvas, to_image
from vipo.visualization.panels import LEGEND, SIGNED_LEGEND, coloured, histogram, lit
from vipo.visualization.samples import write_mp4

_GAP, _HEAD, _LINE = 10, 56, 14
#: Least height of a row: wide pictures are low, and the weights need room.
_LOWEST = 72
#: Widest MP4 that is written, in pixels; what would be wider is scaled down. Players and encoders end at about 8000.
_WIDEST = 3840


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
        components: structurer -> of each sample's middle frame ``(3, Y, X)`` uint8, for those that have features.
        path: of the PNG.
    """
    blocks = {name: 4 if name in components else 3 for name in maps}
    signed = {name: any(clip.min() < 0 for clip in clips) for name, clips in maps.items()}
    tallest = max(_LOWEST, *(round(side * min(1.0, p.shape[2] / p.shape[3])) for p in pixels))
    cell, line = side + _GAP, tallest + 34
    sheet = Canvas(_GAP + cell * (1 + sum(blocks.values())), _HEAD + line * len(pixels) + _GAP)
    x = _GAP + cell
    for name, count in blocks.items():
        sheet.text(name, x, 4, size=14, width=count * cell - _GAP, height=20)
        sheet.text(SIGNED_LEGEND if signed[name] else LEGEND, x, 24, 10, color=FAINT, width=count * cell - _GAP)
        words = ('map', 'picture lit by it', *(['components'] if count == 4 else []), 'weights (log counts)')
        for i, word in enumerate(words):
            sheet.text(word, x + i * cell, 40, 10, color=FAINT)
        x += count * cell
    for row, (sample, caption) in enumerate(zip(pixels, captions, strict=True)):
        y, frames = _HEAD + row * line, sample.shape[1]
        middle = frames // 2
        picture = to_image(sample[:, middle], side)
        words = caption if frames == 1 else f'{caption} (frame {middle + 1} of {frames}, weights of all)'
        sheet.text(words, _GAP, y, size=10, width=cell * (1 + sum(blocks.values())) - _GAP, height=18)
        sheet.paste(picture, _GAP, y + 18)
        x = _GAP + cell
        for name in blocks:
            clip = maps[name][row].float().cpu()
            plane, top = clip[_latent_of(middle, frames, len(clip))], clip.abs().max().item()
            panels = [
                to_image(coloured(plane, top, sample.shape[2:], signed[name]), side),
                to_image(lit(sample[:, middle], plane, top, signed[name]), side),
                *([to_image(components[name][row], side)] if name in components else []),
                histogram(clip, (side, max(_LOWEST, picture.height))),
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
        fps: of the MP4, at least 1.
        strip: frames in the strip, evenly spaced.

    Returns:
        The files.

    Raises:
        OSError: OpenCV cannot write the MP4; the strip is written before it.
    """
    frames = sample.shape[1]
    rows = [sample]
    for clip in maps.values():
        clip = clip.float().cpu()
        top, signed = clip.abs().max().item(), bool(clip.min() < 0)
        of = [_latent_of(f, frames, len(clip)) for f in range(frames)]
        rows.append(np.stack([lit(sample[:, f], clip[of[f]], top, signed) for f in range(frames)], axis=1))
    chosen = np.linspace(0, frames - 1, min(strip, frames)).round().astype(int)
    place = stem.with_name(f'{stem.name}_strip.png')
    _strip(rows, ('clip', *maps), chosen).save(place)
    write_mp4(_fitting(np.concatenate(rows, axis=3)), stem.with_suffix('.mp4'), max(1.0, fps))
    return [stem.with_suffix('.mp4'), place]


def _strip(rows: list[np.ndarray], names: tuple[str, ...], chosen: np.ndarray) -> Image.Image:
    """Frames of every row beside each other, with their numbers above and the row's name before them."""
    _, _, height, width = rows[0].shape
    step = width + 4
    sheet = Canvas(len(chosen) * step - 4, _LINE + len(rows) * (height + _LINE))
    for j, frame in enumerate(chosen):
        sheet.text(f'frame {frame + 1}', j * step + 2, 0, size=10, color=FAINT, width=width, height=_LINE)
    for i, (name, row) in enumerate(zip(names, rows, strict=True)):
        y = _LINE + i * (height + _LINE)
        sheet.text(name, 2, y, size=10)
        for j, frame in enumerate(chosen):
            picture = Image.fromarray(np.ascontiguousarray(row[:, frame].transpose(1, 2, 0)))
            sheet.paste(picture, j * step, y + _LINE)
    return sheet.image


def _fitting(clip: np.ndarray) -> np.ndarray:
    """``(3, F, Y, X)`` no wider than an encoder takes, and with even sides."""
    height, width = clip.shape[2:]
    if width > _WIDEST:
        size = (_WIDEST, max(2, round(height * _WIDEST / width)))
        frames = [Image.fromarray(np.ascontiguousarray(f)).resize(size) for f in clip.transpose(1, 2, 3, 0)]
        clip = np.stack([np.asarray(f) for f in frames]).transpose(3, 0, 1, 2)
    return clip[..., : clip.shape[2] // 2 * 2, : clip.shape[3] // 2 * 2]


def _latent_of(frame: int, frames: int, latent_frames: int) -> int:
    """The latent frame that a pixel frame is part of, see :func:`vipo.structurers.functional.align_in_time`."""
    stride = (frames - 1) // max(latent_frames - 1, 1) or 1
    return min(-(-frame // stride), latent_frames - 1)
