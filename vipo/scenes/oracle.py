"""Maps of the embedded world that know where the named objects belong: an upper bound, and its controls."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from vipo.randomness import derive_seed
from vipo.registry import STRUCTURERS, ConfigError
from vipo.rewards.base import check_pixels
from vipo.scenes.draw import named_masks, object_places
from vipo.scenes.grammar import Scene, parse_prompt
from vipo.structurers.base import Structurer, check_normalization, normalized
from vipo.structurers.functional import gaussian_blur

PLACES = ('objects', 'places', 'background', 'random')


@STRUCTURERS.register_module()
class SceneOracleStructurer(Structurer):
    """The share of each position that belongs to the objects which a scene prompt names.

    It reads the prompt, and of the pixels no more than their size: the map says where the objects should be.

    Args:
        where: ``'objects'``; ``'places'``: the squares in which the objects may lie, their surroundings in them
            included; ``'background'``: one minus ``'objects'``; ``'random'``: the values of ``'objects'`` in another
            place, a smooth blob of the same area that is drawn anew for every picture.
        seed: of the blobs. The same picture of the same prompt gets the same blob, whatever is beside it in a batch;
            one that another number of processes rounds otherwise, in a single pixel, gets another.
        normalize: one of :data:`vipo.structurers.base.NORMALIZATIONS`, see :class:`PerceptualStructurer`.

    Raises:
        ValueError: an option is unknown.
    """

    needs_prompts = True

    def __init__(self, where: str = 'objects', seed: int = 0, normalize: str = 'mean') -> None:
        if where not in PLACES:
            raise ValueError(f'structurer.where must be one of {PLACES}, got {where!r}')
        self.where, self.seed = where, seed
        self.normalize = check_normalization(normalize)

    def __call__(
        self,
        pixels: Tensor,
        grid: tuple[int, int, int],
        prompts: Sequence[str] | None = None,
        metadata: Sequence[dict[str, Any]] | None = None,
    ) -> Tensor:
        """The map of each sample, the same in all frames.

        Raises:
            ConfigError: a prompt names no scene, or the pictures are not square, as scenes are.
        """
        check_pixels(pixels)
        frames, height, width = grid
        side = pixels.shape[-1]
        if pixels.shape[-2] != side:
            raise ConfigError(
                f'SceneOracleStructurer: scenes are square, and the pictures are {side} x {pixels.shape[-2]}; set '
                'generator.resolution to one number'
            )
        try:
            scenes = {prompt: parse_prompt(prompt) for prompt in prompts}
        except ValueError as error:
            raise ConfigError(
                f"SceneOracleStructurer reads the objects' places from scene prompts, such as those of "
                f'vipo://prompts/scenes_train.txt: {error}'
            ) from error
        cover = {prompt: self._cover(scene, side) for prompt, scene in scenes.items()}
        maps = F.adaptive_avg_pool2d(torch.stack([cover[prompt] for prompt in prompts]), (height, width))
        if self.where == 'background':
            maps = 1 - maps
        elif self.where == 'random':
            maps = torch.stack([self._moved(m, x, p) for m, x, p in zip(maps, pixels, prompts, strict=True)])
        maps = maps[:, None, None].expand(-1, 1, frames, -1, -1)
        return normalized(maps.to(pixels.device), self.normalize)

    def _cover(self, scene: Scene, side: int) -> Tensor:
        return object_places(scene, side).float() if self.where == 'places' else named_masks(scene, side).amax(0)

    def _moved(self, values: Tensor, pixels: Tensor, prompt: str) -> Tensor:
        """The values ``(H, W)`` of a map, the highest where a smooth random field is."""
        levels = (pixels * 255).round().byte().cpu().numpy()
        picture = hashlib.blake2b(levels.tobytes(), digest_size=8).hexdigest()
        generator = torch.Generator().manual_seed(derive_seed('blob', self.seed, prompt, picture))
        field = gaussian_blur(torch.randn(values.shape, generator=generator), min(values.shape) / 8)
        moved = torch.empty_like(values).flatten()
        moved[field.flatten().argsort()] = values.flatten().sort().values
        return moved.unflatten(0, values.shape)
