"""Pictures and clips on disk: finding them, and reading them into pixels."""

from __future__ import annotations

import glob
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from vipo.registry import ConfigError

#: What is taken of a folder; a file that is named itself may have any name.
PICTURES = ('.png', '.jpg', '.jpeg', '.webp', '.bmp')
CLIPS = ('.mp4', '.webm', '.mov', '.mkv', '.avi')


def find_files(places: Iterable[str], suffixes: Sequence[str]) -> list[Path]:
    """Files of folders, patterns and single names, each of them in the order of their names.

    Raises:
        ConfigError: a place holds no such file, or a file comes twice.
    """
    found: list[Path] = []
    for place in places:
        path = Path(place).expanduser()
        if path.is_dir():
            here = sorted(p for p in path.iterdir() if p.suffix.lower() in suffixes)
        else:
            here = [path] if path.is_file() else sorted(Path(p) for p in glob.glob(str(path), recursive=True))
            here = [p for p in here if p.is_file()]
        if not here:
            kind = f'holds no {", ".join(suffixes)}' if path.is_dir() else 'does not exist'
            raise ConfigError(f'{place!r} {kind}')
        found += here
    if twice := [p for p in found if found.count(p) > 1]:
        raise ConfigError(f'{str(twice[0])!r} is given twice')
    return found


def read_picture(path: Path) -> np.ndarray:
    """``(1, Y, X, 3)`` uint8. Transparency is dropped, and a rotation in the file's metadata is not applied.

    Raises:
        ConfigError: unreadable, cut off, animated, or of more than 8 bits.
    """
    try:
        with Image.open(path) as image:
            if image.mode[0] in 'IF':
                raise ValueError(f'its mode is {image.mode}; save it with 8 bits')
            if getattr(image, 'is_animated', False) and image.format != 'MPO':
                raise ValueError('it is animated')
            return np.asarray(image.convert('RGB'))[None]
    except Exception as error:  # a damaged picture raises many things
        raise ConfigError(f'{path} cannot be read as a picture: {error}') from error


def describe_clip(path: Path) -> tuple[int, float, tuple[int, int]]:
    """Number of frames, frames per second, and height and width.

    Raises:
        ConfigError: decord cannot read it.
    """
    import decord

    try:
        reader = decord.VideoReader(str(path))
        height, width, channels = reader[0].shape
        if channels != 3:  # seen with decord 0.6 at widths of 16 and 48
            raise ValueError(f'decord gives {channels} channels for a width of {width}; write it in another width')
        return len(reader), float(reader.get_avg_fps()), (height, width)
    except Exception as error:
        raise ConfigError(f'{path} cannot be read as a clip: {_first_line(error)}') from error


def read_clip(path: Path, indices: Sequence[int]) -> np.ndarray:
    """``(F, Y, X, 3)`` uint8 of these frames, read in one go.

    Raises:
        ConfigError: decord cannot read it.
    """
    import decord

    try:
        return decord.VideoReader(str(path)).get_batch(list(indices)).asnumpy()
    except Exception as error:
        raise ConfigError(f'{path} cannot be read as a clip: {_first_line(error)}') from error


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
