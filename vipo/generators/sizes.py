"""Which sizes of pictures, batches and tiles a model can take; what is wrong shows before weights are loaded."""

from __future__ import annotations

from torch import nn


def pair(resolution: int | tuple[int, int]) -> tuple[int, int]:
    """Height and width in pixels of a ``resolution`` option.

    Raises:
        ValueError: it is neither a number nor two.
    """
    if not isinstance(resolution, int) and not (len(resolution) == 2 and all(isinstance(x, int) for x in resolution)):
        raise ValueError(f'generator.resolution must be a number of pixels or (height, width), got {resolution!r}')
    return (resolution, resolution) if isinstance(resolution, int) else tuple(resolution)


def check_resolution(resolution: int | tuple[int, int], multiple: int) -> tuple[int, int]:
    """Height and width in pixels.

    Raises:
        ValueError: they are no multiples of ``multiple``.
    """
    height, width = pair(resolution)
    if height % multiple or width % multiple or min(height, width) < multiple:
        fits = [max(multiple, round(side / multiple) * multiple) for side in (height, width)]
        raise ValueError(
            f'generator.resolution {height}x{width} does not fit the model: both sides must be '
            f'multiples of {multiple}. '
            f'The nearest that fits is {fits[0]}x{fits[1]}.'
        )
    return height, width


def check_decoding(vae: nn.Module, batch: int, tile: int | None, size: tuple[int, int], factor: int) -> None:
    """Check ``decode_batch`` and ``decode_tile``.

    Args:
        vae: the autoencoder, which may be without weights.
        size: height and width of a sample in pixels.
        factor: pixels per latent position.

    Raises:
        ValueError: the batch is empty, the autoencoder cannot decode in tiles, or a tile of this side is impossible or
            changes nothing.
    """
    if batch < 1:
        raise ValueError(f'generator.decode_batch must be at least 1, got {batch}')
    if tile is None:
        return
    if not hasattr(vae, 'use_tiling'):
        raise ValueError(
            f'generator.decode_tile: {type(vae).__name__} cannot decode in tiles; leave it None, and take a smaller '
            'generator.decode_batch where memory is short'
        )
    # Tiles overlap by a quarter, which must be whole latent positions: else they would not lie where they belong.
    if tile < 4 * factor or tile % (4 * factor):
        raise ValueError(f'generator.decode_tile must be a multiple of {4 * factor} for this model, got {tile}')
    if tile >= max(size):
        raise ValueError(
            f'generator.decode_tile={tile} changes nothing: {size[0]}x{size[1]} pixels fit into one tile. Take a '
            'smaller one, or None'
        )
