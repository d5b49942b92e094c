"""Is the background of the named colour? Beside the judge, which sees nothing but objects."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from vipo.scenes.draw import object_places, shade
from vipo.scenes.grammar import BACKGROUNDS, Scene


def ground_distance(pixels: Tensor, scenes: Sequence[Scene]) -> Tensor:
    """How far the pixels outside of the objects' places are from the colours that the named ground may have.

    These are the ground's palette colour and, where there is a pattern, all mixtures of it and its shade. A drawing's
    own jitter in tint is about 0.05.

    Args:
        pixels: ``(B, 3, side, side)`` in [0, 1].
        scenes: B scenes.

    Returns:
        ``(B,)``, mean distance in RGB, where black and white are the square root of 3 apart.
    """
    found = []
    for picture, scene in zip(pixels, scenes, strict=True):
        outside = picture[:, ~object_places(scene, picture.shape[-1])]
        base = torch.tensor(BACKGROUNDS[scene.background])[:, None]
        way = shade(base.T).T - base if scene.texture != 'plain' else torch.zeros(3, 1)
        along = ((outside - base) * way).sum(0) / way.square().sum().clamp(min=1e-12)
        found.append((outside - base - along.clamp(0, 1) * way).norm(dim=0).mean())
    return torch.stack(found) if found else torch.zeros(0)
