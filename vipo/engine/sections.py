"""Checks the sections that MMEngine builds, so that a slip in them shows before weights are loaded."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from mmengine.config import Config
from mmengine.registry import Registry
from mmengine.runner import Runner
from torch.nn.utils import clip_grad_norm_

from vipo.engine.ema import TrainableEMA
from vipo.engine.hooks.held_out import HeldOutHook
from vipo.registry import (
    DATA_SAMPLERS,
    DATASETS,
    HOOKS,
    LOG_PROCESSORS,
    LOOPS,
    OPTIM_WRAPPERS,
    OPTIMIZERS,
    PARAM_SCHEDULERS,
    VISBACKENDS,
    VISUALIZERS,
    ConfigError,
)
from vipo.registry.build import check_options, closest

_LEVELS = ('DEBUG', 'INFO', 'WARNING', 'ERROR', 'CRITICAL')
_REQUIRED = ('generator', 'reward', 'loss', 'rollout', 'batch', 'train_dataloader', 'train_cfg', 'optim_wrapper')


def check_sections(cfg: Config) -> None:
    """Names, option names and plain types of everything outside the component registries.

    Raises:
        ConfigError: with the config key and, where there is one, the closest right spelling.
    """
    for section in _REQUIRED:
        if not isinstance(cfg.get(section), Mapping):
            raise ConfigError(f'the config needs a section {section}=dict(...), got {cfg.get(section)!r}')
    _check(cfg.train_cfg, LOOPS, 'train_cfg', 'runner', 'dataloader')
    if not cfg.train_cfg.get('max_iters', 1) > 0:
        raise ConfigError(f'train_cfg.max_iters must be positive, got {cfg.train_cfg.max_iters}')
    loader = cfg.train_dataloader
    if 'batch_size' in loader:
        raise ConfigError(
            'train_dataloader.batch_size cannot be set: batch.prompts_per_iteration is the number of prompts of an '
            'iteration, and the processes divide it'
        )
    _check(loader.get('dataset'), DATASETS, 'train_dataloader.dataset')
    if 'sampler' in loader:
        _check(loader.sampler, DATA_SAMPLERS, 'train_dataloader.sampler', 'dataset')
    _check(cfg.optim_wrapper, OPTIM_WRAPPERS, 'optim_wrapper')
    _check(cfg.optim_wrapper.get('optimizer'), OPTIMIZERS, 'optim_wrapper.optimizer', 'params')
    if cfg.optim_wrapper.get('clip_grad'):
        options = {k: v for k, v in cfg.optim_wrapper.clip_grad.items() if k != 'type'}
        _check_names(clip_grad_norm_, options, 'optim_wrapper.clip_grad', ('parameters',))
    schedulers = cfg.get('param_scheduler') or []
    for i, scheduler in enumerate([schedulers] if isinstance(schedulers, Mapping) else schedulers):
        _check(scheduler, PARAM_SCHEDULERS, f'param_scheduler.{i}', 'optimizer')
    hooks = {f'default_hooks.{name}': hook for name, hook in (cfg.get('default_hooks') or {}).items()}
    hooks |= {f'custom_hooks.{i}': hook for i, hook in enumerate(cfg.get('custom_hooks') or [])}
    for where, hook in hooks.items():
        if hook is None and where.startswith('default_hooks'):
            continue
        _check(hook, HOOKS, where)
        target = HOOKS.get(hook['type']) if isinstance(hook, Mapping) and isinstance(hook.get('type'), str) else None
        if inspect.isclass(target) and issubclass(target, HeldOutHook):
            target.check(cfg, hook, where)
    if cfg.get('visualizer'):
        _check(cfg.visualizer, VISUALIZERS, 'visualizer', 'name', 'save_dir')
        for i, backend in enumerate(cfg.visualizer.get('vis_backends') or []):
            _check(backend, VISBACKENDS, f'visualizer.vis_backends.{i}', 'save_dir')
    if cfg.get('log_processor'):
        _check(cfg.log_processor, LOG_PROCESSORS, 'log_processor')
    if cfg.get('log_level', 'INFO') not in _LEVELS:
        raise ConfigError(f'log_level must be one of {_LEVELS}, got {cfg.log_level!r}')
    if cfg.get('randomness'):
        check_options(Runner.set_randomness, cfg.randomness, 'randomness', args=(None,), internal=['self'])
    if cfg.get('ema'):
        check_options(TrainableEMA, {**cfg.ema, 'module': None}, 'ema', internal=['module'])


def _check(section: Any, registry: Registry, where: str, *supplied: str) -> None:
    """Look the type up, here and in MMEngine; then its options. ``supplied`` are the arguments the runner gives."""
    if not isinstance(section, Mapping):
        if isinstance(section, str) or section is None:
            raise ConfigError(f'config key {where!r} must be dict(type=..., ...), got {section!r}')
        return
    kind = section.get('type')
    if kind is None and where in ('optim_wrapper', 'log_processor', 'visualizer', 'train_cfg'):
        return  # MMEngine has a default
    target = registry.get(kind) if isinstance(kind, str) else kind
    if target is None:
        registry.import_from_location()
        known = {**registry.module_dict, **(registry.parent.module_dict if registry.parent else {})}
        raise ConfigError(
            f'config key {where!r}: there is no {registry.name} named {kind!r}.{closest(str(kind), known)}'
        )
    options = {k: v for k, v in section.items() if k not in ('type', '_scope_')}
    # Sections of their own, and options that MMEngine's builders take out before they call the class.
    for nested in ('optimizer', 'clip_grad', 'vis_backends', 'constructor', 'paramwise_cfg', 'convert_to_iter_based'):
        options.pop(nested, None)
    _check_names(target, options, where, supplied)


def _check_names(target: Any, options: Mapping[str, Any], where: str, supplied: tuple[str, ...]) -> None:
    accepted = _accepted(target)
    unknown = [k for k in options if accepted is not None and k not in accepted]
    if unknown:
        name = getattr(target, '__name__', str(target))
        known = sorted(accepted - {'self', *supplied})
        raise ConfigError(
            f'config key {where!r}: {name} has no option {unknown[0]!r}.{closest(unknown[0], known)} '
            f'It has: {", ".join(known)}'
        )
    if inspect.isclass(target) and target.__module__.startswith('vipo.'):
        check_options(target, {**options, **dict.fromkeys(supplied)}, where, internal=supplied)


def _accepted(target: Any) -> set[str] | None:
    """Names of all parameters, through base classes that ``**kwargs`` hand on to; None where that has no end."""
    names: set[str] = set()
    functions = (
        [vars(c)['__init__'] for c in target.__mro__ if '__init__' in vars(c)] if inspect.isclass(target) else [target]
    )
    for function in functions:
        try:
            parameters = inspect.signature(function).parameters.values()
        except ValueError:  # written in C
            return None
        names |= {p.name for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)}
        if not any(p.kind == p.VAR_KEYWORD for p in parameters):
            return names
    return None
