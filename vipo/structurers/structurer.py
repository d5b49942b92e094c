"""Pixels -> allocation map: the backbone and the allocator, joined."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from vipo.registry import ALLOCATORS, BACKBONES, STRUCTURERS
from vipo.structurers.allocators import Allocator
from vipo.structurers.backbones.base import Backbone
from vipo.structurers.functional import align_in_time, resize_to_grid

NORMALIZATIONS = ('mean', 'minmax')


@STRUCTURERS.register_module()
class PerceptualStructurer:
    """Builds the allocation map of each sample.

    Works without a runner: ``PerceptualStructurer(backbone, allocator)(pixels, grid)``.

    Args:
        backbone, allocator: the objects, or the configs to build them from.
        normalize: ``'mean'`` rescales each map to mean one over its clip, so that the size of a training step does
            not depend on the content; ``'minmax'`` keeps the allocator's [0, 1], as the reference does.
        frames_per_batch: most pictures in one forward pass of the backbone.
    """

    def __init__(
        self,
        backbone: Backbone | dict[str, Any],
        allocator: Allocator | dict[str, Any],
        normalize: str = 'mean',
        frames_per_batch: int = 64,
    ) -> None:
        if normalize not in NORMALIZATIONS:
            raise ValueError(f'structurer.normalize must be one of {NORMALIZATIONS}, got {normalize!r}')
        self.backbone = BACKBONES.build(backbone, at='backbone')
        self.allocator = ALLOCATORS.build(allocator, at='allocator')
        self.normalize = normalize
        self.frames_per_batch = frames_per_batch
        #: Maps so far that carried no information and became ones.
        self.constant_maps = 0

    def to(self, device: torch.device | str) -> PerceptualStructurer:
        """Move the backbone."""
        self.backbone.to(device)
        return self

    @torch.no_grad()
    def __call__(self, pixels: Tensor, grid: tuple[int, int, int]) -> Tensor:
        """The map of each sample on the latent grid.

        Args:
            pixels: ``(B, 3, F, Y, X)`` in [0, 1].
            grid: ``(T, H, W)`` of the latents.

        Returns:
            ``(B, 1, T, H, W)`` float32 on the pixels' device, non-negative, finite, never all zero.

        Raises:
            ValueError: the backbone returned features that are not finite.
        """
        batch, _, frames, _, _ = pixels.shape
        pictures = pixels.transpose(1, 2).flatten(0, 1)
        parts = [self.backbone(chunk) for chunk in pictures.split(self.frames_per_batch)]
        features = torch.cat([p.map for p in parts]).unflatten(0, (batch, frames))
        if not features.isfinite().all():
            raise ValueError(f'{type(self.backbone).__name__} returned features that are not finite')
        attention = None
        if parts[0].cls_attention is not None:
            attention = torch.cat([p.cls_attention for p in parts]).unflatten(0, (batch, frames))
        maps = self.allocator(features, attention)
        maps = align_in_time(resize_to_grid(maps, *grid[1:]), grid[0])
        return self._finish(maps).to(pixels.device)[:, None]

    def _finish(self, maps: Tensor) -> Tensor:
        """Replace maps without information by ones and normalise, ``(B, T, H, W)`` -> the same."""
        broken = ~maps.isfinite().flatten(1).all(1)
        maps = maps.float().clamp(min=0)
        flat = maps.flatten(1)
        useless = broken | (flat.amax(1) - flat.amin(1) <= 1e-6 * flat.amax(1))
        uniform = useless & (flat == 1).all(1)
        self.constant_maps += int((useless & ~uniform).sum())
        maps = torch.where(useless[:, None, None, None], torch.ones_like(maps), maps)
        if self.normalize == 'mean':
            maps = maps / maps.mean((1, 2, 3), keepdim=True)
        return maps
