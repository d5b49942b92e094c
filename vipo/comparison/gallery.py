"""The same prompts and seeds from every group: pictures, what changed in them, and the maps that were learned with."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from vipo.comparison.groups import Group
from vipo.visualization.canvas import FAINT, Canvas, middle_frame, to_image
from vipo.visualization.panels import heat

#: Longest side of a picture in the page, in pixels; smaller ones stay as they are and are enlarged by the browser.
SIDE = 256


@dataclass(frozen=True)
class Panel:
    """One picture of one group.

    Attributes:
        picture: after training.
        change: how much each pixel differs from the start, bright where it differs most.
        map: allocation map of the picture, bright where the learning pressure went; None where there was none.
        reward: of the picture; NaN where it has none.
    """

    picture: Image.Image
    change: Image.Image
    map: Image.Image | None
    reward: float


@dataclass
class GalleryRow:
    """One prompt.

    Attributes:
        start: the picture before training, which all groups share; None where their starts differ.
        panels: of each group, in their order.
    """

    prompt: str
    start: Image.Image | None
    start_reward: float
    panels: list[Panel]


@dataclass
class Gallery:
    """Rows of the first held-out prompts, which nobody chose.

    Attributes:
        groups: those that have pictures.
        seeds: of the run that stands for each of them.
    """

    rows: list[GalleryRow]
    groups: list[Group]
    seeds: list[int]
    notes: list[str] = field(default_factory=list)


def build_gallery(groups: Sequence[Group], count: int) -> Gallery:
    """Pictures of the first run of each group on the first ``count`` prompts that all of them have."""
    found = [(group, next((run for run in group.runs if run.held_out is not None), None)) for group in groups]
    shown = [(group, run, run.pictures()) for group, run in found if run is not None]
    gallery = Gallery([], [group for group, _, _ in shown], [run.seed for _, run, _ in shown])
    if missing := [group.label for group, run in found if run is None]:
        gallery.notes.append(f'{", ".join(missing)}: no held-out pictures after training yet')
    if not shown:
        return gallery
    places = [{prompt: i for i, prompt in reversed(list(enumerate(prompts)))} for _, _, (prompts, _, _) in shown]
    common = [prompt for prompt in places[0] if all(prompt in place for place in places)]
    common = sorted(common, key=places[0].__getitem__)[:count]
    maps = [run.maps() for _, run, _ in shown]
    # Equal starts show as equal pictures but for the rounding of another number of threads or another machine.
    starts = [[before[place[p]] for p in common] for place, (_, _, (_, before, _)) in zip(places, shown, strict=True)]
    same = all(_alike(start, starts[0]) for start in starts)
    if not same:
        gallery.notes.append('the groups do not start from the same pictures: another generator, or other noise')
    changes = [
        [_difference(before[place[p]], after[place[p]]) for p in common]
        for place, (_, _, (_, before, after)) in zip(places, shown, strict=True)
    ]
    # One scale for all, so that a quiet group looks quiet.
    top = max((np.quantile(c, 0.995) for group in changes for c in group), default=0.0)
    for n, prompt in enumerate(common):
        panels = []
        for k, (place, (_, run, (_, _, after))) in enumerate(zip(places, shown, strict=True)):
            i = place[prompt]
            allocation = maps[k][i] if maps[k] is not None and i < len(maps[k]) else None
            panels.append(
                Panel(
                    picture=_small(middle_frame(after[i])),
                    change=_heat(changes[k][n], top, after.shape[-2:]),
                    map=None if allocation is None else _map_image(allocation, after.shape[-2:]),
                    reward=float(run.held_out.columns['after/reward'][i]),
                )
            )
        first = places[0][prompt]
        gallery.rows.append(
            GalleryRow(
                prompt=prompt,
                start=_small(middle_frame(shown[0][2][1][first])) if same else None,
                start_reward=float(shown[0][1].held_out.columns['before/reward'][first]),
                panels=panels,
            )
        )
    return gallery


def write_sheet(gallery: Gallery, path: Path, side: int = 112) -> None:
    """The gallery as one PNG: a row for each prompt, for each group the picture, its change and its map."""
    gap, head, words = 8, 46, 18
    height = max(
        (round(side * p.picture.height / max(p.picture.size)) for r in gallery.rows for p in r.panels), default=0
    )
    widths = [(2 + any(row.panels[k].map is not None for row in gallery.rows)) for k in range(len(gallery.groups))]
    sheet = Canvas(gap + (1 + sum(widths)) * (side + gap), head + len(gallery.rows) * (words + height + gap))
    lefts = [gap + (1 + sum(widths[:k])) * (side + gap) for k in range(len(widths))]
    sheet.text('before', gap, 6, 14)
    for left, width, group, seed in zip(lefts, widths, gallery.groups, gallery.seeds, strict=True):
        sheet.text(f'{group.label}, seed {seed}', left, 6, 14)
        for j, legend in enumerate(('after', 'change', 'map')[:width]):
            sheet.text(legend, left + j * (side + gap), 26, 11, color=FAINT)
    for i, row in enumerate(gallery.rows):
        y = head + i * (words + height + gap)
        sheet.text(row.prompt, gap, y, 11)
        if row.start is not None:
            sheet.paste(_fit(row.start, side), gap, y + words)
        for left, panel in zip(lefts, row.panels, strict=True):
            for j, image in enumerate(x for x in (panel.picture, panel.change, panel.map) if x is not None):
                sheet.paste(_fit(image, side), left + j * (side + gap), y + words)
    sheet.image.save(path)


def data_uri(image: Image.Image) -> str:
    """A picture as text that a page can hold."""
    buffer = io.BytesIO()
    image.save(buffer, format='PNG', optimize=True)
    return f'data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}'


def _alike(a: list[np.ndarray], b: list[np.ndarray]) -> bool:
    return all(x.shape == y.shape and _difference(x, y).mean() < 0.01 for x, y in zip(a, b, strict=True))


def _difference(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """``(Y, X)``: mean absolute difference of colour values in [0, 1], of a clip of its middle frame."""
    return np.abs(middle_frame(before).astype(np.float32) - middle_frame(after).astype(np.float32)).mean(0) / 255


def _small(pixels: np.ndarray) -> Image.Image:
    return to_image(pixels, min(SIDE, max(pixels.shape[-2:])))


def _heat(values: np.ndarray, top: float, size: tuple[int, int]) -> Image.Image:
    colours = heat(np.clip(values / max(top, 1e-8), 0, 1))
    return _small(colours.transpose(2, 0, 1)) if values.shape == size else Image.fromarray(colours)


def _map_image(allocation: np.ndarray, size: tuple[int, int]) -> Image.Image:
    """``(T, H, W)``, the middle frame scaled to its own maximum and to the size of the picture; see ``heat``."""
    plane = allocation[len(allocation) // 2]
    image = Image.fromarray(heat(plane / max(np.abs(plane).max(), 1e-8), signed=bool(allocation.min() < 0)))
    scale = min(1.0, SIDE / max(size))
    return image.resize((round(size[1] * scale), round(size[0] * scale)), Image.Resampling.BICUBIC)


def _fit(image: Image.Image, side: int) -> Image.Image:
    return to_image(np.asarray(image.convert('RGB')).transpose(2, 0, 1), side)
