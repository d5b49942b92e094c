"""The contract of a structurer: pixels in, an allocation map on the latent grid out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from vipo.structurers.checks import check_map

if TYPE_CHECKING:
    from vipo.rewards.base import Reward

#: ``'mean'``: mean one over the clip; ``'minmax'``: [0, 1]; ``'signed'``: mean one, less one, so that what is below the
#: average is pushed the other way.
NORMALIZATIONS = ('mean', 'minmax', 'signed')


class Structurer(ABC):
    """Says where in space and time each sample's advantage goes. Not part of the trained module tree.

    Any callable ``(pixels, grid) -> map`` is one too; this class adds what some need beside.

    Attributes:
        needs_prompts: whether :meth:`__call__` takes the prompts and their records.
    """

    needs_prompts: ClassVar[bool] = False

    @abstractmethod
    def __call__(
        self,
        pixels: Tensor,
        grid: tuple[int, int, int],
        prompts: Sequence[str] | None = None,
        metadata: Sequence[dict[str, Any]] | None = None,
    ) -> Tensor:
        """The map of each sample.

        Args:
            pixels: ``(B, 3, F, Y, X)`` in [0, 1].
            grid: ``(T, H, W)`` of the latents.
            prompts: B prompts, where :attr:`needs_prompts` says so.
            metadata: their B records from the prompt file, where there is one.

        Returns:
            ``(B, 1, T, H, W)`` float32, finite, never all zero; non-negative unless it is signed by option.
        """

    def parts(self) -> Iterator[object]:
        """Other structurers and the backbone in it: :func:`bind_reward` and :func:`set_progress` go down to them."""
        return iter(())

    def to(self, device: torch.device | str) -> Structurer:
        """Move the weights, if there are any."""
        for part in self.parts():
            if hasattr(part, 'to'):
                part.to(device)
        return self


def call_structurer(
    structurer: Callable[..., Tensor],
    pixels: Tensor,
    grid: tuple[int, int, int],
    prompts: Sequence[str] | None,
    metadata: Sequence[dict[str, Any]] | None = None,
) -> Tensor:
    """Call any structurer with what it takes.

    Raises:
        ValueError: it needs prompts and there are none.
        ConfigError: it returns no map ``(B, 1, T, H, W)``.
    """
    name = getattr(structurer, '__name__', type(structurer).__name__)
    if not getattr(structurer, 'needs_prompts', False):
        maps = structurer(pixels, grid)
    elif prompts is None:
        raise ValueError(f'{name} needs the prompts of the pictures')
    else:
        maps = structurer(pixels, grid, prompts, metadata)
    return check_map(maps, len(pixels), grid, name)


def every_part(part: object) -> Iterator[object]:
    """A structurer and all that is in it, outer ones first."""
    yield part
    for inner in part.parts() if hasattr(part, 'parts') else ():
        yield from every_part(inner)


def bind_reward(structurer: object, reward: Reward) -> None:
    """Give the run's own reward to every part that has a method ``bind``."""
    for part in every_part(structurer):
        if hasattr(part, 'bind'):
            part.bind(reward)


def uses_reward(structurer: object) -> bool:
    """Whether any part has a method ``bind``."""
    return any(hasattr(part, 'bind') for part in every_part(structurer))


def is_uniform(structurer: object) -> bool:
    """Whether a map that is the same everywhere is what the config asks for.

    The outermost parts with an attribute ``uniform`` say so: one that is made of others speaks for them.
    """
    if hasattr(structurer, 'uniform'):
        return bool(structurer.uniform)
    return any(is_uniform(inner) for inner in (structurer.parts() if hasattr(structurer, 'parts') else ()))


def set_progress(structurer: object, iteration: int, total: int) -> None:
    """Tell every part that has a method ``set_progress`` how far the run is."""
    for part in every_part(structurer):
        if hasattr(part, 'set_progress'):
            part.set_progress(iteration, total)


def counters(structurer: object) -> Iterator[Counter[str]]:
    """The counters of a structurer and of those in it, see :class:`vipo.structurers.PerceptualStructurer`."""
    for part in every_part(structurer):
        if isinstance(getattr(part, 'counts', None), Counter):
            yield part.counts


def normalized(maps: Tensor, how: str) -> Tensor:
    """Apply one of :data:`NORMALIZATIONS` to non-negative maps ``(B, 1, T, H, W)``.

    A map that is zero everywhere says nothing and becomes ones; in the signed form it stays zero nowhere either: it is
    ones there too, for plain credit.
    """
    mean = maps.mean((1, 2, 3, 4), keepdim=True)
    silent = mean <= 0
    maps, mean = torch.where(silent, 1.0, maps), torch.where(silent, 1.0, mean)
    if how == 'minmax':
        return maps
    even = maps / mean
    if how == 'mean':
        return even
    signed = even - 1
    flat = signed.abs().amax((1, 2, 3, 4), keepdim=True) < 1e-6
    return torch.where(flat, 1.0, signed)


def check_normalization(how: str) -> str:
    """The name itself.

    Raises:
        ValueError: it is none of :data:`NORMALIZATIONS`.
    """
    if how not in NORMALIZATIONS:
        raise ValueError(f'structurer.normalize must be one of {NORMALIZATIONS}, got {how!r}')
    return how
