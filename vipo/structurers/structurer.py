"""Pixels -> allocation map: the backbone and the allocator, joined."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from vipo.registry import ALLOCATORS, BACKBONES, STRUCTURERS, ConfigError
from vipo.rewards.base import check_pixels
from vipo.structurers.allocators import Allocator
from vipo.structurers.backbones.base import Backbone, Features
from vipo.structurers.base import Structurer, check_normalization, normalized
from vipo.structurers.checks import check_allocation, check_features, not_finite
from vipo.structurers.functional import align_in_time, blur_in_time, latent_frames, of_one_colour, resize_to_grid

#: Which frames of a clip the backbone sees.
FRAMES = ('all', 'latent')


@STRUCTURERS.register_module()
class PerceptualStructurer(Structurer):
    """Builds the allocation map of each sample.

    Works without a runner: ``PerceptualStructurer(backbone, allocator)(pixels, grid)``.

    Args:
        backbone, allocator: the objects, or the configs to build them from.
        normalize: ``'mean'`` rescales each map to mean one over its clip, so that the size of a training step does
            not depend on the content; ``'minmax'`` keeps the allocator's [0, 1], as the reference does; ``'signed'``
            takes one off the mean-one map: a position below the average learns against its sample's advantage.
        frames: of a clip, ``'all'`` or one per latent frame (``'latent'``: the last pixel frame that goes into it),
            which costs a fourth of the backbone's work for a causal autoencoder of stride 4.
        temporal_sigma: of a Gaussian over latent frames; 0 for none.
        frames_per_batch: most pictures, or frames of clips, that are worked on at a time, which bounds the memory. A
            clip with more frames is worked on alone: its features are there together, but the backbone sees no more
            than these at once, unless it is one of whole clips.

    Attributes:
        counts: since it was last cleared, the ``frames`` seen, and among them those whose map was ``constant`` (no
            preference, as it is of one colour or its map is) or ``broken`` (not finite), which :meth:`__call__` fills.

    Raises:
        ValueError: an option is unknown or out of range.
    """

    def __init__(
        self,
        backbone: Backbone | dict[str, Any],
        allocator: Allocator | dict[str, Any],
        normalize: str = 'mean',
        frames: str = 'all',
        temporal_sigma: float = 0.0,
        frames_per_batch: int = 64,
    ) -> None:
        if frames not in FRAMES:
            raise ValueError(f'structurer.frames must be one of {FRAMES}, got {frames!r}')
        if temporal_sigma < 0 or frames_per_batch < 1:
            raise ValueError(
                f'need temporal_sigma >= 0 and frames_per_batch >= 1, got {temporal_sigma} and {frames_per_batch}'
            )
        self.normalize = check_normalization(normalize)
        self.frames = frames
        self.temporal_sigma = temporal_sigma
        self.backbone = BACKBONES.build(backbone, at='backbone')
        self.allocator = ALLOCATORS.build(allocator, at='allocator')
        self.frames_per_batch = frames_per_batch
        if getattr(self.allocator, 'needs_cls_attention', False) and not getattr(
            self.backbone, 'has_cls_attention', False
        ):
            raise ConfigError(
                f'{type(self.allocator).__name__} needs the CLS attention of the backbone: set '
                'structurer.backbone.cls_attention=True, or take a backbone that has a CLS token'
            )
        self.counts: Counter[str] = Counter()

    def parts(self) -> Iterator[object]:
        yield self.backbone
        yield self.allocator

    @torch.no_grad()
    def __call__(
        self,
        pixels: Tensor,
        grid: tuple[int, int, int],
        prompts: Sequence[str] | None = None,
        metadata: Sequence[dict[str, Any]] | None = None,
    ) -> Tensor:
        """The map of each sample on the latent grid.

        Args:
            pixels: ``(B, 3, F, Y, X)`` in [0, 1].
            grid: ``(T, H, W)`` of the latents.

        Returns:
            ``(B, 1, T, H, W)`` float32 on the pixels' device, finite, never all zero; non-negative unless it is signed.

        Raises:
            ValueError: the pixels are no float batch ``(B, 3, F, Y, X)``.
            ConfigError: the backbone returned no finite dense features, the allocator no map of them that is not
                negative, or it needs clips and these are pictures.
        """
        check_pixels(pixels)
        count = pixels.shape[2]
        if count == 1 and getattr(self.allocator, 'needs_clips', False):
            raise ConfigError(f'{type(self.allocator).__name__} compares the frames of clips, and these are pictures')
        frames = latent_frames(count, grid[0]) if self.frames == 'latent' else range(count)
        together = max(1, self.frames_per_batch // len(frames))
        maps = torch.cat([self._raw(clips, frames, grid) for clips in pixels.split(together)])
        maps = blur_in_time(align_in_time(maps, grid[0]), self.temporal_sigma)
        return normalized(maps.to(pixels.device)[:, None], self.normalize)

    def _raw(self, pixels: Tensor, frames: range, grid: tuple[int, int, int]) -> Tensor:
        """Maps ``(B, F, H, W)`` of F chosen frames."""
        pixels = pixels[:, :, frames.start : frames.stop : frames.step]
        features, maps = self._allocated(pixels)
        if features.spans is not None:  # every pixel frame gets the map of the feature frame that it is part of
            maps = maps.repeat_interleave(torch.tensor(features.spans, device=maps.device), dim=1)
        return resize_to_grid(self._fill(maps, of_one_colour(pixels).to(maps.device)), *grid[1:], features.offset)

    def _allocated(self, pixels: Tensor) -> tuple[Features, Tensor]:
        """Features, and the allocator's maps ``(B, F, h, w)``."""
        finds = _finds_nonfinite(type(self.allocator))
        features = self.dense(pixels, finite=not finds)
        try:
            maps = self.allocator(features.map, features.cls_attention)
        except FloatingPointError as error:
            if not finds:
                raise
            raise not_finite(type(self.backbone).__name__) from error
        return features, check_allocation(maps, features.map, type(self.allocator).__name__)

    def dense(self, pixels: Tensor, finite: bool = True) -> Features:
        """Features of every frame, or feature frame, of every sample: map ``(B, F, D, h, w)``.

        Args:
            finite: whether to refuse a map that is not.
        """
        batch, _, frames, _, _ = pixels.shape
        name = type(self.backbone).__name__
        whole = getattr(self.backbone, 'clips', False)
        given = pixels.split(max(1, self.frames_per_batch // frames)) if whole else self._stills(pixels)
        parts = [check_features(self.backbone(chunk), chunk, name, finite) for chunk in given]
        joined = _joined([p.map for p in parts])
        attention = None if parts[0].cls_attention is None else _joined([p.cls_attention for p in parts])
        if whole:
            return Features(joined, attention, parts[0].spans, parts[0].offset)
        each = (batch, frames)
        attention = None if attention is None else attention.unflatten(0, each)
        return Features(joined.unflatten(0, each), attention, offset=parts[0].offset)

    def _stills(self, pixels: Tensor) -> Iterator[Tensor]:
        """Frames ``(N, 3, Y, X)`` in order, ``frames_per_batch`` at a time; no more than these are copied."""
        batch, _, frames, _, _ = pixels.shape
        if batch == 1 or frames == 1:  # a view
            yield from pixels.transpose(1, 2).flatten(0, 1).split(self.frames_per_batch)
            return
        for chosen in torch.arange(batch * frames, device=pixels.device).split(self.frames_per_batch):
            yield pixels[chosen // frames, :, chosen % frames]

    def _fill(self, maps: Tensor, flat: Tensor) -> Tensor:
        """Give frames ``(B, F, h, w)`` without information the mean of the clip's others, or ones where there are none.

        Without information is a constant map, and any map of a frame that is ``flat`` ``(B, F)``: all that a backbone
        with position embeddings finds there is its own positions. A constant frame says "no preference here"; at 0 it
        would say "learn nothing here". It does say so where the allocator has all frames of a clip on one scale, unless
        all of them are constant.
        """
        broken = ~maps.sum((-2, -1)).isfinite()
        maps = maps.masked_fill(broken[..., None, None], 0).clamp(min=0)
        high = maps.amax((-2, -1))
        empty = flat | (high - maps.amin((-2, -1)) <= 1e-6 * high)
        if getattr(self.allocator, 'over_clip', False):
            empty = broken | empty.all(1, keepdim=True)
        self.counts.update(frames=broken.numel(), constant=int((empty & ~broken).sum()), broken=int(broken.sum()))
        told = (~empty).float()
        mean = (maps.mean((-2, -1)) * told).sum(1, keepdim=True) / told.sum(1, keepdim=True)
        return torch.where(empty[..., None, None], mean.nan_to_num(1.0)[..., None, None], maps)


def _finds_nonfinite(allocator: type) -> bool:
    """What the class says that defines the call; one that inherits the word with another call has not said it."""
    owner = next(cls for cls in allocator.__mro__ if '__call__' in vars(cls))
    return vars(owner).get('finds_nonfinite', False)


def _joined(parts: list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts)
