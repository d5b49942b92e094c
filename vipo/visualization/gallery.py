"""Before and after, with the same prompts and seeds; several samples of one prompt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from vipo.visualization.canvas import FAINT, Canvas, middle_frame, to_image


def before_after(
    prompts: list[str],
    before: np.ndarray,
    after: np.ndarray,
    captions: list[tuple[str, str]],
    path: Path,
    title: str,
    columns: int = 6,
    side: int = 128,
) -> None:
    """Write pairs of pictures, the earlier above the later one.

    Args:
        before, after: ``(N, 3, F, Y, X)`` uint8; of a clip the middle frame is shown.
        captions: N pairs of short texts for under the two pictures.
        path: of the PNG.
        title: first line of the sheet.
    """
    gap, head, words = 10, 44, 66
    cell_height = words + 2 * (side + 18) + gap
    rows = -(-len(prompts) // columns)
    sheet = Canvas(gap + columns * (side + gap), head + rows * cell_height)
    sheet.text(title, gap, 8, size=17)
    sheet.text('upper picture: before, lower picture: after; same prompt, same seed', gap, 29, 11, color=FAINT)
    for i, prompt in enumerate(prompts):
        x = gap + (i % columns) * (side + gap)
        y = head + (i // columns) * cell_height
        sheet.text(prompt, x, y + 4, size=10, width=side, height=words - 4)
        for j, (pictures, caption) in enumerate(zip((before, after), captions[i], strict=True)):
            top = y + words + j * (side + 18)
            sheet.paste(to_image(middle_frame(pictures[i]), side), x, top)
            sheet.text(caption, x, top + side + 2, size=11, color=FAINT)
    sheet.image.save(path)


def variety(
    prompts: list[str], samples: Mapping[str, Sequence[np.ndarray]], path: Path, title: str, side: int = 96
) -> None:
    """Write a row for each prompt: its samples under several seeds, from each policy.

    Args:
        samples: policy -> of each prompt ``(K, 3, Y, X)`` uint8; the k-th samples have the same seed.
        path: of the PNG.
        title: first line of the sheet.
    """
    gap, head, words = 8, 48, 18
    count = max(len(rows[0]) for rows in samples.values())
    block = count * (side + gap)
    shape = next(iter(samples.values()))[0].shape
    cell = words + round(side * min(1.0, shape[2] / shape[3])) + gap
    sheet = Canvas(max(560, gap + len(samples) * (block + gap)), head + len(prompts) * cell)
    sheet.text(title, gap, 6, size=15)
    for j, (name, rows) in enumerate(samples.items()):
        left = gap + j * (block + gap)
        sheet.text(f'{name}, {count} seeds', left, 29, 11, color=FAINT)
        for i, prompt in enumerate(prompts):
            top = head + i * cell
            if j == 0:
                sheet.text(prompt, left, top, size=11, width=sheet.image.width - left - gap, height=words)
            for k, picture in enumerate(rows[i]):
                sheet.paste(to_image(picture, side), left + k * (side + gap), top + words)
    sheet.image.save(path)


def policies(prompts: list[str], rows: Mapping[str, np.ndarray], path: Path, title: str, side: int = 128) -> None:
    """Write a row for each policy: its pictures of the same prompts and seeds, in columns.

    Args:
        rows: policy -> ``(N, 3, Y, X)`` uint8, of N prompts.
        path: of the PNG.
        title: first line of the sheet.
    """
    gap, head, words, names = 8, 30, 82, 150
    sheet = Canvas(names + len(prompts) * (side + gap), head + words + len(rows) * (side + gap))
    sheet.text(title, gap, 6, size=15)
    for j, prompt in enumerate(prompts):
        sheet.text(prompt, names + j * (side + gap), head, size=11, width=side, height=words)
    for i, (name, pictures) in enumerate(rows.items()):
        top = head + words + i * (side + gap)
        sheet.text(name, gap, top + side // 2 - 8, size=12, width=names - 2 * gap)
        for j, picture in enumerate(pictures):
            sheet.paste(to_image(picture, side), names + j * (side + gap), top)
    sheet.image.save(path)
