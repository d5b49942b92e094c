"""What a backbone, an allocator and a structurer give is what their contracts say, or a message of one line is."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from vipo.registry import ConfigError
from vipo.structurers.backbones.base import Features


def check_features(features: Features, given: Tensor, name: str, finite: bool = True) -> Features:
    """Refuse what does not belong to the pictures ``(N, 3, Y, X)`` or clips ``(B, 3, F, Y, X)`` that were given.

    Args:
        finite: whether to look at every feature.

    Raises:
        ConfigError: it is not what :class:`~vipo.structurers.backbones.Features` says; the message names the backbone.
    """
    shape, what = ('(N, D, h, w)', 'pictures') if given.ndim == 4 else ('(B, t, D, h, w)', 'clips')
    if not isinstance(features, Features):
        raise ConfigError(f'{name} must return Features(map={shape}), got {type(features).__name__}')
    for attribute, values in (('map', features.map), ('cls_attention', features.cls_attention)):
        if values is None and attribute == 'cls_attention':
            continue
        if not isinstance(values, Tensor) or not values.is_floating_point():
            raise ConfigError(f'{name}: {attribute} must be a torch tensor of floats, got {described(values)}')
    found = tuple(features.map.shape)
    if features.map.ndim != given.ndim or len(features.map) != len(given) or 0 in found:
        raise ConfigError(f'{name} must return a map {shape} for {len(given)} {what}, got {found}')
    if given.ndim == 5:
        spans = (1,) * features.map.shape[1] if features.spans is None else features.spans
        if len(spans) != features.map.shape[1] or sum(spans) != given.shape[2]:
            raise ConfigError(
                f'{name}: the spans {spans} of {features.map.shape[1]} feature frames do not make up the '
                f'{given.shape[2]} frames of a clip'
            )
    _check_positions(found, given, name, shape)
    positions = (*found[:-3], *found[-2:])
    if features.cls_attention is not None and features.cls_attention.shape != positions:
        raise ConfigError(
            f'{name}: cls_attention must have the positions of the map, {positions}, got '
            f'{tuple(features.cls_attention.shape)}'
        )
    for values in (features.map if finite else None, features.cls_attention):
        if values is not None and not values.sum().isfinite():  # one pass, nothing is stored
            raise not_finite(name)
    return features


def _check_positions(found: tuple[int, ...], given: Tensor, name: str, shape: str) -> None:
    """Refuse channels that are last: as positions they do not fit the picture's sides, and the others do."""
    height, width = given.shape[-2:]

    def stretch(rows: int, columns: int) -> float:
        sides = height / rows / (width / columns)
        return max(sides, 1 / sides)

    first, rows, columns = found[-3:]
    if stretch(rows, columns) > 3 and stretch(first, rows) < 1.5:
        raise ConfigError(
            f'{name} must return a map {shape}; {found} would be {rows} x {columns} positions of pictures of '
            f'{height} x {width} pixels. Are its channels last?'
        )


def check_allocation(maps: Any, features: Tensor, name: str) -> Tensor:
    """Refuse what is no raw map of features ``(B, F, D, h, w)``.

    Raises:
        ConfigError: it is no tensor ``(B, F, h, w)``, or it is negative somewhere; the message names the allocator.
            Values that are not finite are the structurer's to count.
    """
    positions = (*features.shape[:2], *features.shape[3:])
    wanted = f'{name} must return a map (B, F, h, w) = {positions}, which is not negative; got '
    if not isinstance(maps, Tensor) or maps.shape != positions:
        raise ConfigError(wanted + described(maps))
    maps = maps.float()
    lowest, highest = maps.aminmax()
    if lowest.isfinite() and lowest < -1e-6 * highest.abs():
        raise ConfigError(
            f'{wanted}{lowest.item():.3g} at the lowest; vipo.structurers.functional.minmax scales to [0, 1]'
        )
    return maps


def check_map(maps: Any, batch: int, grid: tuple[int, int, int], name: str) -> Tensor:
    """Refuse what is no map of ``batch`` samples on the latent grid ``(T, H, W)``.

    Raises:
        ConfigError: it is no tensor ``(B, 1, T, H, W)``; the message names the structurer.
    """
    wanted = (batch, 1, *grid)
    if not isinstance(maps, Tensor) or maps.shape != wanted:
        raise ConfigError(f'{name} must return a map (B, 1, T, H, W) = {wanted}, got {described(maps)}')
    return maps


def described(value: Any) -> str:
    """The shape of a tensor or an array, and of anything else its type."""
    shape = getattr(value, 'shape', None)
    if shape is None:
        return 'None' if value is None else f'a {type(value).__name__}'
    kind = f'a tensor of {value.dtype}' if isinstance(value, Tensor) else f'a {type(value).__name__}'
    return f'{tuple(shape)}, {kind}'


def not_finite(name: str) -> ConfigError:
    """What is said of a backbone's features that are not finite."""
    return ConfigError(f'{name} returned features that are not finite')
