"""Draws scenes: a batched, antialiased, seeded renderer in torch."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from vipo.scenes.grammar import BACKGROUNDS, COLORS, SHAPES, TEXTURES, Scene

#: Radius range (low, high) of each size, as a fraction of the picture's side.
RADII = {'small': (0.105, 0.135), 'large': (0.185, 0.225)}
#: Half the largest extent of any shape, in radii (the diamond's points).
_EXTENT = 1.12
#: Largest offset from the named place in each direction, as a fraction of the side.
JITTER = 0.035
_CENTERS = {'left': (0.27, 0.5), 'right': (0.73, 0.5), 'top': (0.5, 0.27), 'bottom': (0.5, 0.73), 'center': (0.5, 0.5)}
_PAIRS = {
    'left of': ((0.27, 0.5), (0.73, 0.5)),
    'right of': ((0.73, 0.5), (0.27, 0.5)),
    'above': ((0.5, 0.27), (0.5, 0.73)),
    'below': ((0.5, 0.73), (0.5, 0.27)),
}


@dataclass
class Drawing:
    """A batch of drawn scenes.

    Attributes:
        pixels: ``(B, 3, side, side)`` in [0, 1].
        masks: ``(B, 2, side, side)`` in [0, 1], coverage of each object (zero where there is no second one).
        ground: ``(B, 3, side, side)`` in [0, 1], what lies behind the objects.
    """

    pixels: Tensor
    masks: Tensor
    ground: Tensor


def shape_distance(x: Tensor, y: Tensor, radius: Tensor, shape: Tensor) -> Tensor:
    """Signed distance-like field of each shape, negative inside.

    Args:
        x, y: offsets from the centre in pixels (y grows downwards), broadcastable to ``(N, S, S)``.
        radius: ``(N, 1, 1)`` in pixels.
        shape: ``(N,)`` indices into :data:`SHAPES`.
    """
    ax, ay = x.abs(), y.abs()
    rho = (x.square() + y.square()).sqrt()
    square = torch.maximum(ax, ay) - 0.84 * radius
    # Equilateral, pointing up: two slanted edges and a floor.
    triangle = torch.maximum(0.866 * ax - 0.5 * y - 0.5 * radius, y - 0.72 * radius)
    arm = 0.34 * radius
    cross = torch.minimum(torch.maximum(ax - arm, ay - radius), torch.maximum(ay - arm, ax - radius))
    ring = (rho - 0.74 * radius).abs() - 0.27 * radius
    diamond = (ax + ay - 1.12 * radius) * 0.7071
    fields = torch.stack([rho - radius, square, triangle, cross, ring, diamond], dim=1)
    return fields[torch.arange(len(shape)), shape]


def object_places(scene: Scene, side: int) -> Tensor:
    """Where the named objects of a scene may lie: ``(side, side)`` bool, a square for each.

    A square holds every drawing of its object: its named place with all jitter and its largest radius. What lies
    outside of all squares is background, whatever a picture of the scene shows there.
    """
    grid = (torch.arange(side, dtype=torch.float32) + 0.5) / side
    inside = torch.zeros(side, side, dtype=torch.bool)
    for thing, (x, y) in zip(scene.objects, _places_of(scene), strict=True):
        reach = RADII[thing.size][1] * _EXTENT + JITTER
        inside |= ((grid - y).abs() <= reach)[:, None] & ((grid - x).abs() <= reach)[None]
    return inside


def named_masks(scene: Scene, side: int) -> Tensor:
    """Coverage ``(objects, side, side)`` in [0, 1] of each named object, at its named place and in its middle size."""
    grid = (torch.arange(side, dtype=torch.float32) + 0.5) / side
    places = _places_of(scene)
    x = torch.stack([(grid - px)[None, :] for px, _ in places]) * side
    y = torch.stack([(grid - py)[:, None] for _, py in places]) * side
    radii = torch.tensor([sum(RADII[thing.size]) / 2 * side for thing in scene.objects])
    shapes = torch.tensor([SHAPES.index(thing.shape) for thing in scene.objects])
    x, y = torch.broadcast_tensors(x, y)
    return (0.5 - shape_distance(x, y, radii[:, None, None], shapes)).clamp(0, 1)


def _places_of(scene: Scene) -> tuple[tuple[float, float], ...]:
    """Named centre ``(x, y)`` of each object, as fractions of the side."""
    return _PAIRS[scene.placement] if len(scene.objects) == 2 else (_CENTERS[scene.placement],)


def _texture(kind: Tensor, side: int, generator: torch.Generator) -> Tensor:
    """Pattern in [0, 1] of shape (B, S, S) with random phase and period."""
    batch = len(kind)
    grid = torch.arange(side, dtype=torch.float32) / side
    phase = torch.rand(batch, 2, 1, 1, generator=generator)
    period = 0.17 + 0.05 * torch.rand(batch, 1, 1, generator=generator)
    x = (grid[None, None, :] + phase[:, 0]) / period
    y = (grid[None, :, None] + phase[:, 1]) / period
    tau = 2 * torch.pi
    stripes = torch.sin(tau * (x + y) * 0.7071)
    checks = torch.sin(tau * x * 0.7) * torch.sin(tau * y * 0.7) * 4
    dots = torch.cos(tau * x) + torch.cos(tau * y) - 0.7
    patterns = torch.stack(
        [torch.zeros(batch, side, side)]
        + [(p * 2.5 + 0.5).clamp(0, 1).expand(batch, side, side) for p in (stripes, checks, dots)],
        dim=1,
    )
    return patterns[torch.arange(batch), kind]


def shade(ground: Tensor) -> Tensor:
    """The other colour of a pattern on grounds ``(B, 3)``: darker on a light one, lighter on a dark one."""
    return ground * torch.where(ground.mean(1, keepdim=True) > 0.35, 0.65, 1.45)


def draw(scenes: Sequence[Scene], seed: int, side: int = 64) -> Drawing:
    """Draw a batch of scenes with jitter in place, size, tint, texture phase and noise.

    Args:
        scenes: what to draw.
        seed: the same scenes and seed give the same pixels.
        side: height and width in pixels.
    """
    rng = random.Random(seed)
    generator = torch.Generator().manual_seed(seed)
    batch = len(scenes)
    centers = torch.zeros(batch, 2, 2)
    radii = torch.ones(batch, 2)
    shapes = torch.zeros(batch, 2, dtype=torch.long)
    colors = torch.zeros(batch, 2, 3)
    present = torch.zeros(batch, 2)
    for b, scene in enumerate(scenes):
        for k, (thing, place) in enumerate(zip(scene.objects, _places_of(scene), strict=True)):
            low, high = RADII[thing.size]
            centers[b, k] = torch.tensor([p + rng.uniform(-JITTER, JITTER) for p in place])
            radii[b, k] = rng.uniform(low, high)
            shapes[b, k] = SHAPES.index(thing.shape)
            colors[b, k] = torch.tensor(COLORS[thing.color])
            present[b, k] = 1

    grid = torch.arange(side, dtype=torch.float32) + 0.5
    x = grid[None, None, :] - centers[..., 0].reshape(-1, 1, 1) * side
    y = grid[None, :, None] - centers[..., 1].reshape(-1, 1, 1) * side
    field = shape_distance(x, y, radii.reshape(-1, 1, 1) * side, shapes.reshape(-1))
    masks = (0.5 - field).clamp(0, 1).reshape(batch, 2, side, side) * present[:, :, None, None]

    ground = torch.tensor([BACKGROUNDS[s.background] for s in scenes])
    ground = ground + 0.03 * torch.randn(batch, 3, generator=generator)
    pattern = _texture(torch.tensor([TEXTURES.index(s.texture) for s in scenes]), side, generator)[:, None]
    pixels = ground[..., None, None] * (1 - pattern) + shade(ground)[..., None, None] * pattern
    ground = pixels
    colors = colors + 0.035 * torch.randn(batch, 2, 3, generator=generator)
    for k in (0, 1):
        cover = masks[:, k : k + 1]
        pixels = pixels * (1 - cover) + colors[:, k, :, None, None] * cover
    grain = 0.012 * torch.randn(pixels.shape, generator=generator)
    return Drawing((pixels + grain).clamp(0, 1), masks, (ground + grain).clamp(0, 1))
