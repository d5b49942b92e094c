"""What generators of clips share: frames, and latents that are smaller in time as well."""

from __future__ import annotations

from abc import abstractmethod
from pathlib import Path
from typing import Any

from torch import nn

from vipo.generators.pipeline import PipelineGenerator


class VideoPipelineGenerator(PipelineGenerator):
    """A pipeline whose autoencoder is causal in time: latent frame 0 is pixel frame 0, each later one is a block.

    Args:
        num_frames: pixel frames F; F - 1 is a multiple of the autoencoder's factor in time.
        options: see :class:`vipo.generators.pipeline.PipelineGenerator`.

    Raises:
        ValueError: the autoencoder cannot represent that number of frames.
    """

    def __init__(
        self,
        pretrained: str,
        resolution: int | tuple[int, int],
        guidance_scale: float,
        max_sequence_length: int,
        num_frames: int = 53,
        decode_batch: int = 1,
        **options: Any,
    ) -> None:
        self.num_frames = num_frames
        super().__init__(
            pretrained, resolution, guidance_scale, max_sequence_length, decode_batch=decode_batch, **options
        )

    @classmethod
    def rehearsal(cls, options: dict[str, Any], folder: Path) -> dict[str, Any]:
        # Two latent frames: the first alone, and one block.
        frames = min(5, options.get('num_frames', 5))
        return {**super().rehearsal(options, folder), 'num_frames': frames}

    @property
    @abstractmethod
    def factors(self) -> tuple[int, int]:
        """Pixel frames and pixels per latent position, in time and in space."""

    def pipeline_arguments(self) -> dict[str, Any]:
        return {**super().pipeline_arguments(), 'num_frames': self.num_frames}

    def check(self) -> None:
        time, _ = self.factors
        if self.num_frames < 1 or (self.num_frames - 1) % time:
            low = max(0, self.num_frames - 1) // time * time + 1
            raise ValueError(
                f'generator.num_frames {self.num_frames} cannot be represented: the autoencoder makes the first frame '
                f'alone and then blocks of {time}. The nearest that fit are {low} and {low + time}.'
            )

    def latent_shape(self) -> tuple[int, int, int, int]:
        time, space = self.factors
        frames = (self.num_frames - 1) // time + 1
        return self.config.in_channels, frames, self.height // space, self.width // space

    def use_tiles(self, vae: nn.Module, side: int) -> None:
        # In time each class divides a clip as it does without tiles.
        vae.enable_tiling(
            **dict.fromkeys(('tile_sample_min_height', 'tile_sample_min_width'), side),
            **dict.fromkeys(('tile_sample_stride_height', 'tile_sample_stride_width'), side * 3 // 4),
        )
