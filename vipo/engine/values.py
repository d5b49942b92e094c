"""Values of a config that MMEngine and torch would find wrong late, or with a message about something else."""

from __future__ import annotations

import inspect
import types
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from mmengine.config import Config
from mmengine.dist import init_dist
from torch.optim import Optimizer

from vipo.registry import ConfigError
from vipo.registry.build import check_finite, closest, fits

#: What the keys at the top level hold, beside the sections that every config needs.
_KINDS: dict[tuple[type, ...], tuple[str, ...]] = {
    (Mapping,): (
        'eval_rewards',
        'advantage',
        'evaluation',
        'ema',
        'default_hooks',
        'visualizer',
        'log_processor',
        'env_cfg',
        'randomness',
        'model_wrapper_cfg',
        'custom_imports',
    ),
    (list, tuple): ('custom_hooks', 'offload'),
    (Mapping, list, tuple): ('param_scheduler',),
    (str,): ('load_from', 'work_dir', 'log_level', 'default_scope', 'experiment_name', 'launcher'),
    (bool,): ('resume',),
}
_NAMES = {Mapping: 'dict(...)', list: 'a list', str: 'a text', bool: 'True or False'}
#: Sections of ``env_cfg``, as ``Runner.setup_env`` reads them.
_ENVIRONMENT = ('cudnn_benchmark', 'mp_cfg', 'dist_cfg', 'resource_limit')


def check_kinds(cfg: Config) -> None:
    """Whether the keys at the top level hold sections, lists or texts where these belong; None is left to others.

    Raises:
        ConfigError: one does not.
    """
    for kinds, keys in _KINDS.items():
        for key in keys:
            if cfg.get(key) is not None and not isinstance(cfg[key], kinds):
                wanted = ' or '.join(_NAMES[kind] for kind in kinds if kind is not tuple)
                raise ConfigError(f'config key {key!r} must be {wanted}, got {cfg[key]!r}')
    for name, section in (cfg.get('eval_rewards') or {}).items():
        if isinstance(section, (str, int, float, list, tuple, types.NoneType)):
            raise ConfigError(f"config key 'eval_rewards.{name}' must be dict(type=..., ...), got {section!r}")


def check_environment(section: Mapping[str, Any]) -> None:
    """The section ``env_cfg``.

    Raises:
        ConfigError: an option is unknown, or of another type.
    """
    _check_known(section, _ENVIRONMENT, 'env_cfg')
    for key in ('mp_cfg', 'dist_cfg'):
        if not isinstance(section.get(key, {}), Mapping):
            raise ConfigError(f"config key 'env_cfg.{key}' must be dict(...), got {section[key]!r}")
    for key, kind in (('cudnn_benchmark', bool), ('resource_limit', int)):
        if key in section and not fits(section[key], kind):
            raise ConfigError(f"config key 'env_cfg.{key}' must be {kind.__name__}, got {section[key]!r}")
    processes = section.get('dist_cfg', {})
    _check_known(processes, ('timeout', *inspect.signature(init_dist).parameters), 'env_cfg.dist_cfg')
    if not isinstance(processes.get('backend', ''), str):
        raise ConfigError(f"config key 'env_cfg.dist_cfg.backend' must be a text, got {processes['backend']!r}")
    timeout = processes.get('timeout')
    if timeout is not None and not (fits(timeout, float) and 0 < timeout < float('inf')):
        raise ConfigError(f'env_cfg.dist_cfg.timeout is a positive number of seconds, got {timeout!r}')


def _check_known(section: Mapping[str, Any], known: Iterable[str], where: str) -> None:
    for key in section:
        if key not in known:
            raise ConfigError(f'config key {where!r} has no option {key!r}.{closest(key, known)}')


def check_against_defaults(options: Mapping[str, Any], parameters: Mapping[str, inspect.Parameter], where: str) -> None:
    """Compare options of a class that is not ours with its annotations and with the kinds of its defaults.

    Raises:
        ConfigError: a value is no finite number where the default is one, or no text or list where it is one.
    """
    for key, value in options.items():
        if key not in parameters or key == 'norm_type':  # which may be infinite
            continue
        check_finite(value, f'{where}.{key}')
        annotation, default = parameters[key].annotation, parameters[key].default
        if isinstance(annotation, str):
            annotation = {'int': int, 'float': float, 'bool': bool, 'str': str}.get(annotation, inspect.Parameter.empty)
        good = annotation is inspect.Parameter.empty or fits(value, annotation)
        wanted = inspect.formatannotation(annotation)
        if isinstance(default, (int, float)) and not isinstance(default, bool):
            good, wanted = good and (fits(value, float) or isinstance(value, torch.Tensor)), 'a number'
        elif isinstance(default, str) and annotation is inspect.Parameter.empty:
            good, wanted = isinstance(value, str), 'a text'
        elif isinstance(default, bool):
            good, wanted = isinstance(value, bool), 'True or False'
        elif isinstance(default, tuple) and default and all(isinstance(x, float) for x in default):
            numbers = isinstance(value, (list, tuple)) and len(value) == len(default)
            good, wanted = numbers and all(fits(x, float) for x in value), f'{len(default)} numbers'
        if not good:
            raise ConfigError(f'config key {where}.{key} must be {wanted}, got {value!r} ({type(value).__name__})')


def trial_optimizer(target: Any = None, options: Mapping[str, Any] | None = None) -> Optimizer:
    """An optimiser of one number, made as that of a run will be; without a class an SGD.

    Raises:
        ConfigError: the class refuses the options.
    """
    parameters = [torch.zeros(1, requires_grad=True)]
    if not (inspect.isclass(target) and issubclass(target, Optimizer)):
        return torch.optim.SGD(parameters, lr=1.0)
    return trial(target, 'optim_wrapper.optimizer', parameters, **(options or {}))


def trial(target: Any, where: str, *args: Any, **options: Any) -> Any:
    """Call a class of MMEngine or torch with options whose names and plain types are right.

    Raises:
        ConfigError: it refuses them, in its own words.
    """
    try:
        return target(*args, **options)
    except (ValueError, TypeError, AssertionError) as error:
        said = str(error) or 'it says no more'
        raise ConfigError(f'config key {where!r}: {target.__name__} refuses {_shown(options)}: {said}') from error


def _shown(options: Mapping[str, Any]) -> str:
    return f'dict({", ".join(f"{k}={v!r}" for k, v in options.items())})'
