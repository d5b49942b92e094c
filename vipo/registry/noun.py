"""MMEngine's registry, with a decorator that may be written without parentheses and a clear word about names in use."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mmengine.registry import Registry

from vipo.registry.build import ConfigError


class NounRegistry(Registry):
    """A registry of components; see :func:`vipo.registry.build.build_component` for what is built from it."""

    def register_module(
        self, name: str | list[str] | Callable[..., Any] | None = None, force: bool = False, module: Any = None
    ) -> Any:
        """Register a class or a function: ``@X.register_module``, ``@X.register_module()`` or with a name.

        Args:
            name: under which a config finds it; its own where none is given.
            force: take the place of what has that name.
            module: what to register, where this is no decorator.

        Raises:
            ConfigError: the name is taken.
        """
        if callable(name):
            return super().register_module(module=name)
        return super().register_module(name, force, module)

    def _register_module(self, module: Any, module_name: str | list[str] | None = None, force: bool = False) -> None:
        names = [module_name or module.__name__] if not isinstance(module_name, (list, tuple)) else module_name
        for name in names:
            if not force and name in self.module_dict:
                raise ConfigError(
                    f'{self.name} {name!r} of {module.__module__}: {self.module_dict[name].__module__} has one of that '
                    f'name. Choose another, or take its place with register_module(force=True)'
                )
        super()._register_module(module, module_name, force)
