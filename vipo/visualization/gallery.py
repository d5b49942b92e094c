"""Before and after, with the same prompts and seeds."""

from __future__ import annotations

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
    gap, head, words = 10, 44, 60
    cell_height = words + 2 * (side + 18) + gap
    rows = -(-len(prompts) // columns)
    sheet = Canvas(gap + columns * (side + gap), head + rows * cell_height)
    sheet.text(title, gap, 8, size=17)
    sheet.text('upper picture: before, lower picture: after; same prompt, same seed', gap, 29, 11, color=FAINT)
    for i, prompt in enumerate(prompts):
        x = gap + (i % columns) * (side + gap)
        y = head + (i // columns) * cell_height
        sheet.text(prompt, x, y + 4, size=10, width=side)
        for j, (pictures, caption) in enumerate(zip((before, after), captions[i], strict=True)):
            top = y + words + j * (side + 18)
            sheet.paste(to_image(middle_frame(pictures[i]), side), x, top)
            sheet.text(caption, x, top + side + 2, size=11, color=FAINT)
    sheet.image.save(path)
