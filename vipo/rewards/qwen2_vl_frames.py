"""Frames as Qwen2-VL takes them: which ones, how large, and cut into patches. Pure functions."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from vipo.rewards.pillow_resize import quantize, resize_as_pillow

#: Pixels of a patch, patches of a merged token along each axis, frames of a patch.
PATCH, MERGE, TUBE = 14, 2, 2
#: Sides of a frame are multiples of this.
FACTOR = PATCH * MERGE


def frame_indices(frames: int, fps: float, sample_fps: float = 2.0, fewest: int = 4, most: int = 768) -> Tensor:
    """Which frames of a clip are looked at: ``sample_fps`` a second, an even number, from first to last.

    The rule of Qwen2-VL's video reader (qwen_vl_utils), with Python's rounding of halves to even.

    Args:
        frames: of the clip, at least 2.
        fps: frames a second that the clip is said to have.

    Returns:
        ``(n,)`` int64, increasing.

    Raises:
        ValueError: fewer than 2 frames, or a rate that is not positive.
    """
    if frames < TUBE:
        raise ValueError(f'a clip needs at least {TUBE} frames, got {frames}')
    if not (fps > 0 and sample_fps > 0):
        raise ValueError(f'fps and sample_fps must be positive, got {fps} and {sample_fps}')
    wanted = min(max(frames / fps * sample_fps, fewest), min(most, frames) // TUBE * TUBE)
    count = round(wanted / TUBE) * TUBE
    return torch.linspace(0, frames - 1, count).round().long()


def frame_size(height: int, width: int, fewest: int, most: int) -> tuple[int, int]:
    """Height and width to which a frame is resized: multiples of 28 with ``fewest`` to ``most`` pixels.

    Qwen2-VL's rule: round each side; where the area is out of bounds, scale both by the same number and round towards
    the bounds.

    Raises:
        ValueError: one side is more than 200 times the other.
    """
    if max(height, width) > 200 * min(height, width):
        raise ValueError(f'a frame of {height} x {width} pixels is too narrow: one side is over 200 times the other')
    sides = [max(FACTOR, round(side / FACTOR) * FACTOR) for side in (height, width)]
    if math.prod(sides) > most:
        scale = math.sqrt(height * width / most)
        sides = [max(FACTOR, math.floor(side / scale / FACTOR) * FACTOR) for side in (height, width)]
    elif math.prod(sides) < fewest:
        scale = math.sqrt(fewest / (height * width))
        sides = [math.ceil(side * scale / FACTOR) * FACTOR for side in (height, width)]
    return sides[0], sides[1]


def resize_frames(frames: Tensor, size: tuple[int, int], pillow: bool = False) -> Tensor:
    """Bicubic with antialias, between 8-bit levels as the published pipelines work: ``(N, 3, Y, X)`` in [0, 1].

    Args:
        pillow: round after each axis, as the reader of pictures does; the reader of clips rounds once.
    """
    if pillow:
        return resize_as_pillow(frames, size)
    frames = quantize(frames)
    if frames.shape[-2:] == size:
        return frames
    return quantize(F.interpolate(frames, size=size, mode='bicubic', antialias=True, align_corners=False))


def patchify(frames: Tensor) -> tuple[Tensor, Tensor]:
    """Cut clips into the rows that the vision tower takes.

    Args:
        frames: ``(B, F, 3, Y, X)``, normalised, Y and X multiples of 28; an odd last frame is repeated.

    Returns:
        Patches ``(B * t * h * w, 3 * 2 * 14 * 14)`` and the grid ``(B, 3)`` int64 of t, h, w, where t counts pairs of
        frames. Rows go by clip, time, and then by squares of 2 x 2 patches, which become one token.
    """
    if frames.shape[1] % TUBE:
        frames = torch.cat([frames, frames[:, -1:]], dim=1)
    batch, count, channels, height, width = frames.shape
    t, h, w = count // TUBE, height // PATCH, width // PATCH
    split = frames.reshape(batch, t, TUBE, channels, h // MERGE, MERGE, PATCH, w // MERGE, MERGE, PATCH)
    # clip, time, square row, square column, row and column in the square; then channel, tube, row, column
    rows = split.permute(0, 1, 4, 7, 5, 8, 3, 2, 6, 9).reshape(batch * t * h * w, -1)
    return rows, torch.tensor([[t, h, w]] * batch, device=frames.device)
