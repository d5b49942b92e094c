"""Pictures with words: the small drawing layer under the galleries."""

from __future__ import annotations

import textwrap

import numpy as np
from PIL import Image, ImageDraw, ImageFont

INK, FAINT, PAPER = (25, 25, 30), (110, 110, 120), (255, 255, 255)


def to_image(pixels: np.ndarray, side: int) -> Image.Image:
    """``(3, Y, X)`` uint8 -> an image whose longer side is ``side``; small pictures keep their pixels visible."""
    image = Image.fromarray(np.ascontiguousarray(pixels.transpose(1, 2, 0)))
    scale = side / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    return image.resize(size, Image.Resampling.NEAREST if scale >= 2 else Image.Resampling.LANCZOS)


def middle_frame(pixels: np.ndarray) -> np.ndarray:
    """``(3, F, Y, X)`` -> ``(3, Y, X)``."""
    return pixels[:, pixels.shape[1] // 2]


class Canvas:
    """A white sheet to paste pictures and text on, positions in pixels from the top left."""

    def __init__(self, width: int, height: int) -> None:
        self.image = Image.new('RGB', (width, height), PAPER)
        self._draw = ImageDraw.Draw(self.image)

    def paste(self, image: Image.Image, x: int, y: int) -> None:
        """Put a picture."""
        self.image.paste(image, (x, y))

    def text(
        self, words: str, x: int, y: int, size: int = 13, width: int | None = None, color: tuple[int, ...] = INK
    ) -> None:
        """Write, wrapped to ``width`` pixels where it is given."""
        font = ImageFont.load_default(size)
        if width is not None:
            words = '\n'.join(textwrap.wrap(words, max(8, int(width / (size * 0.52)))))
        self._draw.multiline_text((x, y), words, fill=color, font=font, spacing=2)
