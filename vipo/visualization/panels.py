"""Panels about one allocation map: its colours, the picture lit by it, the features it was made of, its weights."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from vipo.visualization.canvas import FAINT, Canvas, text_width

#: What the colours of a map say, where it has no negative weights and where it has.
LEGEND = 'bright: more learning pressure'
SIGNED_LEGEND = 'red: learns with its advantage, blue: against it, white: not at all'

_BLUE = np.array([40, 90, 200], dtype=np.float32)


def heat(values: np.ndarray, signed: bool = False) -> np.ndarray:
    """Colours ``(Y, X, 3)`` uint8 of values in [0, 1], or in [-1, 1] with white at zero."""
    from matplotlib import colormaps

    colours = colormaps['RdBu_r']((values + 1) / 2) if signed else colormaps['inferno'](values)
    return (colours[..., :3] * 255).astype(np.uint8)


def coloured(plane: Tensor, top: float, size: tuple[int, int], signed: bool = False) -> np.ndarray:
    """The map as colours ``(3, Y, X)`` uint8, dark to bright, or blue to red.

    Args:
        plane: ``(H, W)``.
        top: the weight with the last colour; of a signed map, its negative has the first one.
        size: in pixels.
    """
    return heat(_shares(plane, top, size, signed), signed).transpose(2, 0, 1)


def lit(picture: np.ndarray, plane: Tensor, top: float, signed: bool = False) -> np.ndarray:
    """The picture ``(3, Y, X)`` uint8, dimmed where the map ``(H, W)`` is near zero, tinted blue where it is negative.

    Args:
        top: the weight with full light, and of a signed map its negative too.
    """
    share = _shares(plane, top, picture.shape[-2:], signed)
    light = picture * (0.15 + 0.85 * np.abs(share))
    tint = 0.6 * np.clip(-share, 0, 1)
    return (light * (1 - tint) + _BLUE[:, None, None] * tint).astype(np.uint8)


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
    """How often which weight occurs, on a logarithmic scale of counts; the red line is the mean.

    Args:
        size: width and height in pixels; the words below need 120 x 40 of them.
    """
    width, height = size
    low, top = min(values.min().item(), 0.0), max(values.max().item(), 1e-8)
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
    words = [_number(low), f'mean {_number(values.mean().item())}', _number(top)]
    for text, share in zip(words, (0.0, 0.5, 1.0), strict=True):
        sheet.text(text, int(share * (width - text_width(text, 10))), base + 1, 10, color=FAINT)
    return sheet.image


def _number(value: float) -> str:
    return f'{value:.2f}'.replace('-0.00', '0.00')


def _shares(plane: Tensor, top: float, size: tuple[int, int], signed: bool) -> np.ndarray:
    """The map at the size of a picture ``(Y, X)``, in shares of ``top``."""
    whole = (plane.float().cpu() / max(top, 1e-8))[None, None]
    large = F.interpolate(whole, size=size, mode='bilinear', align_corners=False)[0, 0]
    return large.clamp(-1 if signed else 0, 1).numpy()
