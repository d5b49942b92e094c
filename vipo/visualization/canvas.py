"""Pictures with words: the small drawing layer under the galleries."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw, ImageFont

INK, FAINT, PAPER = (25, 25, 30), (110, 110, 120), (255, 255, 255)
#: Between lines of text, in pixels.
_SPACING = 2


def to_image(pixels: np.ndarray, side: int) -> Image.Image:
    """``(3, Y, X)`` uint8 -> an image whose longer side is ``side``; small pictures keep their pixels visible."""
    image = Image.fromarray(np.ascontiguousarray(pixels.transpose(1, 2, 0)))
    scale = side / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    return image.resize(size, Image.Resampling.NEAREST if scale >= 2 else Image.Resampling.LANCZOS)


def middle_frame(pixels: np.ndarray) -> np.ndarray:
    """``(3, F, Y, X)`` -> ``(3, Y, X)``."""
    return pixels[:, pixels.shape[1] // 2]


def wrapped(words: str, width: int, font: ImageFont.FreeTypeFont, most: int | None = None) -> list[str]:
    """Lines no wider than ``width`` pixels. A word that is wider, or a sentence without spaces, is broken as it must.

    Args:
        most: lines; what is left out is an ellipsis in the last one.
    """
    lines: list[str] = []
    for word in words.split():
        longer = f'{lines[-1]} {word}' if lines else word
        if lines and font.getlength(longer) <= width:
            lines[-1] = longer
            continue
        lines.append('')
        for letter in word:
            if lines[-1] and font.getlength(lines[-1] + letter) > width:
                lines.append('')
            lines[-1] += letter
    if most is None or len(lines) <= most:
        return lines
    last = lines[most - 1]
    while last and font.getlength(f'{last} …') > width:
        last = last.rpartition(' ')[0] if ' ' in last else last[:-1]
    return [*lines[: most - 1], f'{last} …'.lstrip()]


def text_width(words: str, size: int) -> int:
    """Pixels that :meth:`Canvas.text` takes for one line."""
    return round(_font(words, size).getlength(words))


def _font(words: str, size: int) -> ImageFont.FreeTypeFont:
    """Pillow's own font; for letters that it lacks the font of this machine that has most of them."""
    return _face(None if words.isascii() else _font_file(frozenset(words)), size)


@lru_cache(maxsize=256)
def _face(path: str | None, size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.load_default(size) if path is None else ImageFont.truetype(path, size)


@lru_cache(maxsize=256)
def _font_file(letters: frozenset[str]) -> str | None:
    """A font with all of these letters; of several Pillow's (None), then the one that comes with matplotlib."""
    from matplotlib import font_manager

    wanted = {ord(c) for c in letters if not c.isspace()}
    best, most = None, len(wanted & _glyphs(None))
    installed = sorted({f.fname for f in font_manager.fontManager.ttflist if not f.name.startswith('Last Resort')})
    for path in (font_manager.findfont('DejaVu Sans'), *installed):
        if most == len(wanted):
            break
        if (found := len(wanted & _glyphs(path))) > most:
            best, most = path, found
    return best


@lru_cache(maxsize=256)
def _glyphs(path: str | None) -> frozenset[int]:
    from matplotlib.ft2font import FT2Font

    font = FT2Font(path or ImageFont.load_default().path)
    return frozenset(font.get_charmap()) if font.scalable else frozenset()


class Canvas:
    """A white sheet to paste pictures and text on, positions in pixels from the top left."""

    def __init__(self, width: int, height: int) -> None:
        self.image = Image.new('RGB', (width, height), PAPER)
        self._draw = ImageDraw.Draw(self.image)

    def paste(self, image: Image.Image, x: int, y: int) -> None:
        """Put a picture."""
        self.image.paste(image, (x, y))

    def text(
        self,
        words: str,
        x: int,
        y: int,
        size: int = 13,
        width: int | None = None,
        height: int | None = None,
        color: tuple[int, ...] = INK,
    ) -> None:
        """Write, wrapped to ``width`` pixels and cut to ``height`` where they are given."""
        font = _font(words, size)
        if width is not None:
            line = sum(font.getmetrics()) + _SPACING
            words = '\n'.join(
                wrapped(words, width, font, None if height is None else max(1, (height + _SPACING) // line))
            )
        self._draw.multiline_text((x, y), words, fill=color, font=font, spacing=_SPACING)
