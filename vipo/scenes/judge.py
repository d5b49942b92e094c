"""The rule-based judge: does the picture contain what its scene prompt names? No network, no training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vipo.registry import REWARDS
from vipo.rewards.base import Reward, RewardOutput, check_batch
from vipo.scenes.draw import RADII, shape_distance
from vipo.scenes.grammar import BACKGROUNDS, COLORS, SHAPES, Scene, SceneObject, parse_prompt
from vipo.scenes.ground import ground_distance

_PARTS = ('color', 'shape', 'size', 'position', 'count')


@dataclass
class _Blob:
    """A connected region of one object colour, in pixels."""

    color: str
    mask: np.ndarray
    area: int
    center: tuple[float, float]
    radius: float
    shape: str


@REWARDS.register_module()
class SceneJudge(Reward):
    """Checks colour, shape, size, position and count of the objects that a scene prompt names.

    Every pixel goes to the nearest palette colour; connected regions of an object colour are the objects; a region's
    shape is the template with the largest overlap (intersection over union) after both are fitted to one box.
    The score is the mean of the five checks; ``parts['all']`` is 1 where all of them hold. ``parts['ground']`` is no
    check and not in the score: how far the background's colours are from the named ground, see
    :func:`vipo.scenes.ground.ground_distance`.

    Args:
        min_area: regions below this share of the picture are not objects.
        min_overlap: a shape is recognised from this overlap with its template on.
    """

    def __init__(self, min_area: float = 0.005, min_overlap: float = 0.70) -> None:
        self.min_area = min_area
        self.min_overlap = min_overlap
        grounds = [np.array(rgb) * tone for rgb in BACKGROUNDS.values() for tone in (0.65, 0.8, 1.0, 1.2, 1.45)]
        self._palette = np.clip(np.array([*COLORS.values(), *grounds]), 0, 1).astype(np.float32)
        self._templates = _templates()

    def __call__(
        self, pixels: Tensor, prompts: Sequence[str], metadata: Sequence[dict[str, Any]] | None = None
    ) -> RewardOutput:
        check_batch(pixels, prompts)
        images = pixels[:, :, 0].permute(0, 2, 3, 1).float().clamp(0, 1).cpu().numpy()
        scenes = [parse_prompt(prompt) for prompt in prompts]
        rows = [
            self._check(self.find_objects(image), scene, image.shape[0])
            for image, scene in zip(images, scenes, strict=True)
        ]
        table = torch.tensor([[row[p] for p in _PARTS] for row in rows], dtype=torch.float32).reshape(-1, len(_PARTS))
        parts = {name: table[:, i] for i, name in enumerate(_PARTS)}
        parts['all'] = (table == 1).all(dim=1).float()
        parts['ground'] = ground_distance(pixels[:, :, 0].float().cpu(), scenes)
        return RewardOutput(scores=table.mean(dim=1), parts=parts)

    def find_objects(self, image: np.ndarray) -> list[_Blob]:
        """Objects of an ``(Y, X, 3)`` image in [0, 1], largest first."""
        import cv2

        height, width = image.shape[:2]
        distance = ((image[:, :, None] - self._palette) ** 2).sum(-1)
        label = distance.argmin(-1)
        blobs = []
        for index, color in enumerate(COLORS):
            count, regions, stats, _ = cv2.connectedComponentsWithStats(
                (label == index).astype(np.uint8), connectivity=8
            )
            for r in range(1, count):
                area = int(stats[r, cv2.CC_STAT_AREA])
                if area < self.min_area * height * width:
                    continue
                x, y, w, h = (int(v) for v in stats[r, :4])
                mask = regions == r
                shape = self._shape(mask[y : y + h, x : x + w])
                center = ((x + w / 2) / width, (y + h / 2) / height)
                blobs.append(_Blob(color, mask, area, center, max(w, h) / 2 / width, shape))
        return sorted(blobs, key=lambda b: -b.area)

    def _shape(self, mask: np.ndarray) -> str:
        import cv2

        fitted = cv2.resize(mask.astype(np.float32), (24, 24), interpolation=cv2.INTER_AREA) > 0.5
        overlap = (self._templates & fitted).sum((1, 2)) / (self._templates | fitted).sum((1, 2))
        best = int(overlap.argmax())
        return SHAPES[best] if overlap[best] >= self.min_overlap else 'unknown'

    def _check(self, blobs: list[_Blob], scene: Scene, side: int) -> dict[str, float]:
        found = [self._match(thing, blobs) for thing in scene.objects]
        total = len(scene.objects)
        result = {
            'color': sum(b is not None for b in found) / total,
            'shape': sum(b is not None and b.shape == t.shape for b, t in zip(found, scene.objects, strict=True))
            / total,
            'size': sum(b is not None and _size(b) == t.size for b, t in zip(found, scene.objects, strict=True))
            / total,
            'position': float(None not in found and _placed(found, scene)),
            'count': float(len(blobs) == total),
        }
        return result

    @staticmethod
    def _match(thing: SceneObject, blobs: list[_Blob]) -> _Blob | None:
        """The region that is this object: right colour, right shape if there is one, else the largest."""
        same = [b for b in blobs if b.color == thing.color]
        return next((b for b in same if b.shape == thing.shape), same[0] if same else None)


def _size(blob: _Blob) -> str:
    # Halfway between the extents of the largest small and the smallest large object, over all shapes.
    return 'small' if blob.radius < (RADII['small'][1] + RADII['large'][0]) / 2 * 0.94 else 'large'


def _placed(found: list[_Blob], scene: Scene) -> bool:
    if len(found) == 1:
        x, y = found[0].center
        dx, dy = x - 0.5, y - 0.5
        if scene.placement == 'center':
            return max(abs(dx), abs(dy)) < 0.115
        offset = {'left': -dx, 'right': dx, 'top': -dy, 'bottom': dy}[scene.placement]
        across = abs(dy) if scene.placement in ('left', 'right') else abs(dx)
        return offset >= 0.115 and across < offset
    (x0, y0), (x1, y1) = found[0].center, found[1].center
    ahead = {'left of': x1 - x0, 'right of': x0 - x1, 'above': y1 - y0, 'below': y0 - y1}[scene.placement]
    across = abs(y1 - y0) if scene.placement in ('left of', 'right of') else abs(x1 - x0)
    return ahead > 0.15 and across < ahead


def _templates() -> np.ndarray:
    """Each shape fitted to a 24 x 24 box: (len(SHAPES), 24, 24) bool."""
    import cv2

    grid = torch.arange(256, dtype=torch.float32) - 127.5
    radius = torch.full((len(SHAPES), 1, 1), 100.0)
    x, y = grid[None, None, :], grid[None, :, None]
    field = shape_distance(
        x.expand(len(SHAPES), 1, -1), y.expand(len(SHAPES), -1, 1), radius, torch.arange(len(SHAPES))
    )
    out = []
    for mask in (field < 0).numpy():
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        box = mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].astype(np.float32)
        out.append(cv2.resize(box, (24, 24), interpolation=cv2.INTER_AREA) > 0.5)
    return np.stack(out)
