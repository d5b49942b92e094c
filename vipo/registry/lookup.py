"""Finds the component configs in a config, and the classes that they name, without building anything."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from vipo.registry import ROOTS, ConfigError
from vipo.registry.build import find_dotted

#: Sections whose components the root registries build.
SECTIONS = ('generator', 'reward', 'eval_rewards', 'structurer', 'loss')


def components_of(cfg: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Config key and config of every component, outer ones first."""
    for section in SECTIONS:
        if cfg.get(section) is not None:
            yield from _walk(cfg[section], section)


def component_class(kind: Any) -> Any:
    """The class or function that a ``type`` names; None where there is none, which the build explains."""
    if not isinstance(kind, str):
        return kind
    for registry in ROOTS.values():
        registry.import_from_location()
        found = registry.module_dict.get(kind.removeprefix(f'{registry.scope}.'))
        if found is not None:
            return found
    try:
        return find_dotted(kind, 'type')
    except ConfigError:
        return None


def _walk(value: Any, key: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    if isinstance(value, Mapping):
        if 'type' in value:
            yield key, value
        for name, part in value.items():
            yield from _walk(part, f'{key}.{name}')
    elif isinstance(value, (list, tuple)):
        for number, part in enumerate(value):
            yield from _walk(part, f'{key}.{number}')
