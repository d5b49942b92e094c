"""Maps made of maps."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from vipo.registry import STRUCTURERS, ConfigError
from vipo.structurers.base import Structurer, call_structurer, check_normalization, is_uniform, normalized

COMBINATIONS = ('mean', 'product')


@STRUCTURERS.register_module()
class CombinedStructurer(Structurer):
    """The weighted mean of several maps, or their product with the weights as exponents.

    Maps that exclude each other leave nothing of a product, which becomes ones and is counted.

    Args:
        parts: name -> config of a structurer; none of them may be signed.
        combine: ``'mean'``: any of the parts says that a position matters; ``'product'``: all of them.
        weights: by name, 1 where none is given.
        normalize: one of :data:`vipo.structurers.base.NORMALIZATIONS`, see :class:`PerceptualStructurer`.

    Attributes:
        counts: since it was last cleared, the ``products`` made of a sample's maps, and among them those that
            ``vanished``: zero everywhere, so that ones stand for them.

    Raises:
        ValueError: no parts, an unknown combination or name, or a weight that is not positive.
    """

    def __init__(
        self,
        parts: Mapping[str, Any],
        combine: str = 'mean',
        weights: Mapping[str, float] | None = None,
        normalize: str = 'mean',
    ) -> None:
        weights = dict(weights or {})
        if not isinstance(parts, Mapping) or not parts:
            raise ValueError(
                'structurer.parts must give every part a name, dict(saliency=dict(type=...), center=dict(type=...)), '
                f'got {parts!r}'
            )
        if combine not in COMBINATIONS:
            raise ValueError(f'structurer.combine must be one of {COMBINATIONS}, got {combine!r}')
        for name, weight in weights.items():
            if name not in parts or not weight > 0:
                raise ValueError(
                    f'structurer.weights: {name!r} must be one of {tuple(parts)} and positive, got {weight}'
                )
        self.normalize = check_normalization(normalize)
        self.combine = combine
        self._parts = {n: STRUCTURERS.build(c, at=f'parts.{n}') for n, c in parts.items()}
        for name, part in self._parts.items():
            if getattr(part, 'normalize', None) == 'signed':
                raise ConfigError(f'structurer.parts.{name} is signed, and signed maps cannot be combined')
        self.weights = {n: weights.get(n, 1.0) for n in parts}
        self.counts: Counter[str] = Counter()

    @property
    def needs_prompts(self) -> bool:
        return any(getattr(part, 'needs_prompts', False) for part in self._parts.values())

    @property
    def uniform(self) -> bool:
        """Whether all that it is made of is the same everywhere."""
        return all(is_uniform(part) for part in self._parts.values())

    def parts(self) -> Iterator[object]:
        return iter(self._parts.values())

    def __call__(
        self,
        pixels: Tensor,
        grid: tuple[int, int, int],
        prompts: Sequence[str] | None = None,
        metadata: Sequence[dict[str, Any]] | None = None,
    ) -> Tensor:
        maps = {n: call_structurer(part, pixels, grid, prompts, metadata) for n, part in self._parts.items()}
        for name, each in maps.items():
            _check_finite(each, f'structurer.parts.{name}')
            if each.min() < 0:
                raise ConfigError(f'structurer.parts.{name} is signed, and signed maps cannot be combined')
        if self.combine == 'mean':
            total = sum(self.weights.values())
            combined = torch.stack([self.weights[n] / total * m for n, m in maps.items()]).sum(0)
        else:
            combined = torch.stack([m.double() ** self.weights[n] for n, m in maps.items()]).prod(0)
            vanished = combined.amax((1, 2, 3, 4)) <= 0
            self.counts.update(products=len(combined), vanished=int(vanished.sum()))
        return normalized(combined, self.normalize).float()


@STRUCTURERS.register_module()
class BlendedStructurer(Structurer):
    """``floor + (1 - floor) map``: no position is left without credit. The floor can change in the course of a run.

    Args:
        structurer: config of the structurer whose map is blended with ones.
        floor: in [0, 1]; 1 is the uniform map.
        end: the floor at the end of the schedule; None keeps it.
        schedule: the floor goes linearly from ``floor`` to ``end`` between these shares of the run; None is all of it.

    Raises:
        ValueError: a number is out of range, or a schedule has no end to go to.
    """

    def __init__(
        self,
        structurer: Mapping[str, Any] | Callable[..., Tensor],
        floor: float = 0.2,
        end: float | None = None,
        schedule: tuple[float, float] | None = None,
    ) -> None:
        for name, value in (('floor', floor), ('end', floor if end is None else end)):
            if not 0 <= value <= 1:
                raise ValueError(f'structurer.{name} must lie in [0, 1], got {value}')
        if schedule is not None and end is None:
            raise ValueError('structurer.schedule has no effect without structurer.end, the floor that it leads to')
        schedule = (0.0, 1.0) if schedule is None else tuple(schedule)
        if len(schedule) != 2 or not 0 <= schedule[0] < schedule[1] <= 1:
            raise ValueError(f'structurer.schedule must be two increasing shares of the run, got {schedule}')
        self.structurer = STRUCTURERS.build(structurer, at='structurer')
        if getattr(self.structurer, 'normalize', None) == 'signed':
            raise ConfigError('structurer.structurer is signed, and a floor under a signed map is none')
        self.start, self.end, self.schedule = floor, floor if end is None else end, schedule
        self.floor = floor

    @property
    def needs_prompts(self) -> bool:
        return getattr(self.structurer, 'needs_prompts', False)

    @property
    def uniform(self) -> bool:
        """Whether it leaves nothing of the map, now or later, or has nothing to leave."""
        return max(self.start, self.end) == 1 or is_uniform(self.structurer)

    def parts(self) -> Iterator[object]:
        yield self.structurer

    def set_progress(self, iteration: int, total: int) -> None:
        """Set the floor for an iteration, counted from 0."""
        begin, stop = self.schedule
        share = min(max((iteration / max(total - 1, 1) - begin) / (stop - begin), 0.0), 1.0)
        self.floor = self.start + share * (self.end - self.start)

    def __call__(
        self,
        pixels: Tensor,
        grid: tuple[int, int, int],
        prompts: Sequence[str] | None = None,
        metadata: Sequence[dict[str, Any]] | None = None,
    ) -> Tensor:
        maps = call_structurer(self.structurer, pixels, grid, prompts, metadata)
        _check_finite(maps, 'structurer.structurer')
        if maps.min() < 0:
            raise ConfigError('structurer.structurer is signed, and a floor under a signed map is none')
        return self.floor + (1 - self.floor) * maps


def _check_finite(maps: Tensor, where: str) -> None:
    """Refuse a part's map that is not finite.

    Raises:
        ConfigError: with the config key of the part.
    """
    if not maps.isfinite().all():
        raise ConfigError(f'{where} gave a map that is not finite')
