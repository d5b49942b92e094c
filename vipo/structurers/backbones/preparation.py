"""From pictures to the input of a vision model: resized to whole patches, never cropped, and normalised."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def whole_patches(
    height: int, width: int, patch: int, input_size: int | None = None, max_patches: int | None = None
) -> tuple[int, int]:
    """Rows and columns of patches that a picture is resized to.

    Args:
        height, width: of the picture, in pixels.
        patch: side of a patch, in pixels.
        input_size: what the shorter side becomes before rounding; None keeps the picture's own size.
        max_patches: most patches there may be. The picture is scaled down, keeping its aspect ratio, to the largest
            size that rounds to no more; a smaller picture is left as it is.
    """
    scale = 1.0 if input_size is None else input_size / min(height, width)
    rows, columns = (max(1, round(side * scale / patch)) for side in (height, width))
    while max_patches is not None and rows * columns > max_patches:
        # As the scale falls, a side of n patches rounds to n - 1 at scale (n - 1/2) patch / side: which comes first?
        row = (rows - 0.5) / height if rows > 1 else 0.0
        column = (columns - 0.5) / width if columns > 1 else 0.0
        rows, columns = rows - (row >= column), columns - (column >= row)
    return rows, columns


@dataclass(frozen=True)
class Preparation:
    """What a backbone does to pictures before its model sees them.

    Args:
        patch: the sides become multiples of this many pixels.
        mean, std: per channel, of pictures in [0, 1].
        input_size: length of the shorter side before rounding to patches; None keeps the picture's own size.
        max_tokens: most feature positions of a picture, see :func:`whole_patches`.
        positions: feature positions along the side of one patch; more than 1 where the model gives features finer than
            what its sides have to be multiples of.

    Raises:
        ValueError: both sizes are given, or one is out of range.
    """

    patch: int
    mean: tuple[float, ...] = IMAGENET[0]
    std: tuple[float, ...] = IMAGENET[1]
    input_size: int | None = None
    max_tokens: int | None = None
    positions: int = 1

    def __post_init__(self) -> None:
        if self.input_size is not None and self.max_tokens is not None:
            raise ValueError(
                f'backbone.input_size={self.input_size} and backbone.max_tokens={self.max_tokens} both say how large '
                'the input is: keep one of them'
            )
        if self.input_size is not None and self.input_size < 1:
            raise ValueError(f'backbone.input_size must be at least 1, got {self.input_size}')
        if self.max_tokens is not None and self.max_tokens < self.positions**2:
            raise ValueError(
                f'backbone.max_tokens={self.max_tokens} is less than the {self.positions**2} feature positions of the '
                f'smallest input, {self.patch} by {self.patch} pixels'
            )

    def size(self, height: int, width: int) -> tuple[int, int]:
        """Height and width in pixels that a picture is resized to."""
        most = None if self.max_tokens is None else self.max_tokens // self.positions**2
        rows, columns = whole_patches(height, width, self.patch, self.input_size, most)
        return rows * self.patch, columns * self.patch

    def __call__(self, pixels: Tensor, like: Tensor) -> Tensor:
        """Resize (bicubic with antialias, cut to [0, 1]) and normalise.

        Args:
            pixels: ``(N, 3, Y, X)`` in [0, 1].
            like: a weight of the model, whose device and dtype the result gets.
        """
        x = pixels.to(like.device, torch.float32)
        size = self.size(*x.shape[-2:])
        if size != tuple(x.shape[-2:]):
            x = F.interpolate(x, size=size, mode='bicubic', antialias=True, align_corners=False).clamp(0, 1)
        mean, std = (x.new_tensor(values).reshape(3, 1, 1) for values in (self.mean, self.std))
        return ((x - mean) / std).to(like.dtype)


def published_colours(
    place: str, default: tuple[tuple[float, ...], tuple[float, ...]]
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation that a checkpoint's own pre-processing file gives.

    Args:
        place: folder or hub id in transformers' layout.
        default: those of the family, for a checkpoint without such a file.
    """
    from transformers.utils import cached_file

    for name in ('preprocessor_config.json', 'video_preprocessor_config.json'):
        file = cached_file(
            place, name, _raise_exceptions_for_missing_entries=False, _raise_exceptions_for_connection_errors=False
        )
        if file is not None:
            content = json.loads(Path(file).read_text())
            if 'image_mean' in content and 'image_std' in content:
                return tuple(content['image_mean']), tuple(content['image_std'])
    return default
