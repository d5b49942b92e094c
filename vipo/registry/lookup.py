"""Finds the component configs in a config, and the classes that they name, without building anything."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from vipo.registry import ALLOCATORS, BACKBONES, GENERATORS, LOSSES, REWARDS, ROOTS, STRUCTURERS, ConfigError
from vipo.registry.build import check_component, find_dotted

#: Sections whose components the root registries build.
SECTIONS = ('generator', 'reward', 'eval_rewards', 'structurer', 'loss')


def components_of(cfg: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Config key and config of every component, outer ones first."""
    for section in SECTIONS:
        if cfg.get(section) is not None:
            yield from _walk(cfg[section], section)


#: Last word of a config key -> where its type is looked up.
_BY_NAME = {
    'generator': GENERATORS,
    'reward': REWARDS,
    'structurer': STRUCTURERS,
    'backbone': BACKBONES,
    'allocator': ALLOCATORS,
    'loss': LOSSES,
}


def check_sections(cfg: Mapping[str, Any]) -> None:
    """Check types and option names of every component, before the first of them loads anything.

    Components in places that only their owner knows are left to the build.

    Raises:
        ConfigError: as the build would say.
    """
    for key, section in components_of(cfg):
        parts = key.split('.')
        registry = _BY_NAME.get(parts[-1])
        if parts[0] == 'eval_rewards' and len(parts) == 2:
            registry = REWARDS
        if parts[0] == 'structurer' and len(parts) > 2 and parts[-2] == 'parts':
            registry = STRUCTURERS
        if registry is not None:
            check_component(section, registry, key)


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
