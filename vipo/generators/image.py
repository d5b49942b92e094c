"""What generators of pictures share: one latent frame, and Stable Diffusion's kind of autoencoder."""

from __future__ import annotations

from torch import Tensor, nn

from vipo.generators.pipeline import PipelineGenerator


class ImagePipelineGenerator(PipelineGenerator):
    """A pipeline over ``AutoencoderKL``, whose latents have no frames; the rest of the system sees one."""

    @property
    def factor(self) -> int:
        """Pixels per latent position."""
        return 2 ** (len(self.vae_config.block_out_channels) - 1)

    def unscale(self, latents: Tensor) -> Tensor:
        return latents / self.vae_config.scaling_factor + (self.vae_config.shift_factor or 0.0)

    def use_tiles(self, vae: nn.Module, side: int) -> None:
        vae.enable_tiling()
        # By itself the class takes tiles as large as the pictures it was trained on.
        vae.tile_sample_min_size, vae.tile_latent_min_size = side, side // self.factor

    def decode_part(self, z: Tensor) -> Tensor:
        return super().decode_part(z.squeeze(2)).unsqueeze(2)
