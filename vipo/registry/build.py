"""Builds a component from its config, and says what to do when the config is wrong."""

from __future__ import annotations

import contextvars
import difflib
import importlib
import inspect
import math
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

_PATH: contextvars.ContextVar[tuple[str, ...]] = contextvars.ContextVar('vipo_config_path', default=())


class ConfigError(ValueError):
    """The config asks for something that cannot be built. The message names the config key and the way out."""


def closest(word: str, known: Iterable[str]) -> str:
    """``' Did you mean A or B?'`` for near misses (case does not matter), or an empty string."""
    by_lower = {k.lower(): k for k in known}
    hits = difflib.get_close_matches(word.lower(), by_lower, n=3, cutoff=0.5)
    return f' Did you mean {" or ".join(repr(by_lower[h]) for h in hits)}?' if hits else ''


def build_component(cfg: Any, *args: Any, registry: Any, at: str | None = None, **extra: Any) -> Any:
    """Build ``cfg`` (a dict with ``type``) with the class it names.

    Args:
        cfg: the config; an object that is no mapping is taken to be built already and returned as it is.
        registry: where names are looked up. A class, or a dotted path to one, needs no registration.
        at: the config key of this component, for error messages. Nested builds extend the path.
        extra: arguments that the caller supplies beside the config.

    Raises:
        ConfigError: the type is unknown, the argument names do not fit, or a required one is missing.
    """
    path = (*_PATH.get(), at or registry.name)
    where = '.'.join(path)
    if isinstance(cfg, str):
        raise ConfigError(f'config key {where!r} is the text {cfg!r}; a component is written dict(type={cfg!r})')
    if isinstance(cfg, (int, float, list, tuple)):
        raise ConfigError(f'config key {where!r} must be dict(type=..., ...), got {cfg!r}')
    if not isinstance(cfg, Mapping):
        return cfg
    token = _PATH.set(path)
    try:
        options = {**{k: v for k, v in cfg.items() if k not in ('type', '_scope_')}, **extra}
        if 'type' not in cfg:
            raise ConfigError(f'config key {where!r}: no "type" is given. {_known(registry)}')
        target = _find(cfg['type'], registry, where)
        check_options(target, options, where, args)
        try:
            return target(*args, **options)
        except ConfigError:
            raise
        # OSError: what transformers and diffusers say of a wrong folder; ImportError: a missing extra.
        except (ValueError, OSError, ImportError) as error:
            raise ConfigError(f'config key {where!r}: {error}') from error
    finally:
        _PATH.reset(token)


def check_component(cfg: Mapping[str, Any], registry: Any, where: str) -> None:
    """Check a component's type and the names of its options, without building anything.

    Raises:
        ConfigError: as :func:`build_component` would say.
    """
    if 'type' not in cfg:
        raise ConfigError(f'config key {where!r}: no "type" is given. {_known(registry)}')
    options = {k: v for k, v in cfg.items() if k not in ('type', '_scope_')}
    check_options(_find(cfg['type'], registry, where), options, where)


def _find(kind: Any, registry: Any, where: str) -> Callable[..., Any]:
    if not isinstance(kind, str):
        if not callable(kind):
            raise ConfigError(f'config key {where!r}: "type" must be a name, a dotted path or a class, not {kind!r}')
        return kind
    registry.import_from_location()
    name = kind.removeprefix(f'{registry.scope}.')
    if name in registry.module_dict:
        return registry.module_dict[name]
    if '.' in kind:
        return find_dotted(kind, where)
    raise ConfigError(
        f'config key {where!r}: there is no {registry.name} named {kind!r}.{closest(kind, registry.module_dict)} '
        f'{_known(registry)} A class of your own is registered with @{_constant(registry)}.register_module() in a '
        "file that the config names in custom_imports=dict(imports=['your_module']), or is named by its dotted path "
        "type='your_module.YourClass' with no registration at all."
    )


def find_dotted(path: str, where: str) -> Any:
    """What the dotted path of a module attribute leads to; ``where`` is the config key, for the message."""
    module_name, _, attribute = path.rpartition('.')
    if not module_name:
        raise ConfigError(f'config key {where!r}: {path!r} is no dotted path such as "my_module.my_function"')
    if not all(name.isidentifier() for name in path.split('.')):
        raise ConfigError(f'config key {where!r}: {path!r} is no dotted path such as "my_module.my_function"')
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise ConfigError(
            f'config key {where!r}: {path!r} cannot be imported: {error}. Is the file in the folder you start from '
            'or on PYTHONPATH?'
        ) from error
    try:
        found = getattr(module, attribute)
        if not callable(found):
            raise ConfigError(f'config key {where!r}: {path!r} is a {type(found).__name__}, no class and no function')
        return found
    except AttributeError:
        public = [n for n in vars(module) if not n.startswith('_')]
        raise ConfigError(
            f'config key {where!r}: module {module_name!r} has no {attribute!r}.{closest(attribute, public)}'
        ) from None


def config_path(default: str = 'reward') -> str:
    """The config key of the component that is being built; ``default`` outside a build."""
    return '.'.join(_PATH.get()) or default


def torch_dtype(name: str) -> torch.dtype:
    """The floating dtype of that name.

    Raises:
        ValueError: torch has none.
    """
    import torch

    found = getattr(torch, name, None)
    if not isinstance(found, torch.dtype) or not found.is_floating_point:
        raise ValueError(f'dtype {name!r} is none of float32, bfloat16, float16')
    return found


def check_options(
    target: Callable[..., Any],
    options: Mapping[str, Any],
    where: str,
    args: tuple = (),
    internal: Iterable[str] = (),
) -> None:
    """Check options against a signature before anything is built.

    Args:
        target: what will be called.
        options: its keyword arguments.
        where: the config key, for messages.
        args: its positional arguments.
        internal: parameters that the framework fills in and no config may name.

    Raises:
        ConfigError: ``target(*args, **options)`` would not bind, or a value is of another plain type than annotated.
    """
    name = getattr(target, '__name__', str(target))
    if inspect.isclass(target) and inspect.isabstract(target):
        lacking = ', '.join(sorted(target.__abstractmethods__))
        raise ConfigError(f'config key {where!r}: {name} does not define {lacking}, which a {_contract(target)} must')
    signature = full_signature(target)
    try:
        signature.bind(*args, **options)
    except TypeError as error:
        accepted = [k for k in signature.parameters if k not in internal]
        unknown = [k for k in options if k not in accepted]
        hint = ''.join(closest(k, accepted) for k in unknown)
        if unknown:
            hint += ' An option that is inherited from a _base_ config goes away with dict(_delete_=True, type=...).'
        shown = signature.replace(parameters=[p for k, p in signature.parameters.items() if k not in internal])
        raise ConfigError(f'config key {where!r}: {error}.{hint} The signature is {name}{shown}') from error
    for key, value in options.items():
        check_finite(value, f'{where}.{key}')
        parameter = signature.parameters.get(key)
        if parameter is not None and not fits(value, parameter.annotation):
            wanted = inspect.formatannotation(parameter.annotation)
            raise ConfigError(f'config key {where}.{key} must be {wanted}, got {value!r} ({type(value).__name__})')


def _contract(target: type) -> str:
    """The base class that asks for the methods which a class lacks."""
    return next(c for c in reversed(target.__mro__) if inspect.isabstract(c)).__name__


def check_finite(value: Any, where: str) -> None:
    """Refuse numbers that are none; there is no bound that must be written as an infinite one.

    Raises:
        ConfigError: the value, or one in its list, is not finite.
    """
    for number in value if isinstance(value, (list, tuple)) else [value]:
        if isinstance(number, float) and not math.isfinite(number):
            raise ConfigError(f'config key {where} must be finite, got {value!r}')


def full_signature(target: Callable[..., Any]) -> inspect.Signature:
    """Signature; where a class says ``forwards_options``, its ``**options`` are those of the class that it extends."""
    try:
        signature = inspect.signature(target, eval_str=True)
    except NameError:  # an annotation that exists for type checkers alone
        signature = inspect.signature(target)
    parameters = list(signature.parameters.values())
    if not getattr(target, 'forwards_options', False) or parameters[-1].kind != inspect.Parameter.VAR_KEYWORD:
        return signature
    base = next(c for c in target.__mro__[1:] if '__init__' in vars(c))
    more = [p for n, p in full_signature(base).parameters.items() if n not in signature.parameters]
    more = [p.replace(kind=p.KEYWORD_ONLY) if p.kind == p.POSITIONAL_OR_KEYWORD else p for p in more]
    return signature.replace(parameters=[*parameters[:-1], *more])


def fits(value: Any, hint: Any) -> bool:
    """Whether a config value can be what an annotation says; only plain types are judged, anything else passes."""
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        return any(fits(value, part) for part in typing.get_args(hint))
    if hint is None or hint is type(None):
        return value is None
    if hint in (int, float):
        return isinstance(value, (int, hint)) and not isinstance(value, bool)
    if hint in (str, bool):
        return isinstance(value, hint)
    if origin in (list, tuple) or hint in (list, tuple):
        return isinstance(value, (list, tuple))
    if origin is dict or hint is dict:
        return isinstance(value, Mapping)
    return True


def _known(registry: Any) -> str:
    registry.import_from_location()
    return f'Known: {", ".join(sorted(registry.module_dict)) or "none"}.'


def _constant(registry: Any) -> str:
    name = registry.name.upper().replace(' ', '_')
    return f'vipo.registry.{name}ES' if name.endswith('S') else f'vipo.registry.{name}S'
