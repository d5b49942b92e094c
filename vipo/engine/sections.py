"""Checks the sections that MMEngine builds, so that a slip in them shows before weights are loaded."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from mmengine.config import Config
from mmengine.registry import Registry
from mmengine.runner import Runner
from torch import nn
from torch.nn.utils import clip_grad_norm_, clip_grad_value_
from torch.utils.data import DataLoader

from vipo.engine.config import require_sections
from vipo.engine.ema import TrainableEMA
from vipo.engine.hooks.ema import EMAHook
from vipo.engine.hooks.held_out import HeldOutHook
from vipo.engine.parallel import EqualWeights
from vipo.engine.values import check_against_defaults, check_environment, check_kinds, trial, trial_optimizer
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
from vipo.registry.build import check_options, closest, fits

_LEVELS = ('DEBUG', 'INFO', 'WARNING', 'ERROR', 'CRITICAL')
#: Options of a data loader that MMEngine takes out of it.
_OF_MMENGINE = ('num_batch_per_epoch', 'disable_subprocess_warning')
_REQUIRED = ('generator', 'reward', 'loss', 'rollout', 'batch', 'train_dataloader', 'train_cfg', 'optim_wrapper')


def check_sections(cfg: Config) -> None:
    """Names, option names and plain types of everything outside the component registries.

    Raises:
        ConfigError: with the config key and, where there is one, the closest right spelling.
    """
    check_kinds(cfg)
    require_sections(cfg, *_REQUIRED)
    _check(cfg.train_cfg, LOOPS, 'train_cfg', 'runner', 'dataloader')
    if 'max_iters' not in cfg.train_cfg:
        raise ConfigError('config key train_cfg.max_iters is missing')
    if not cfg.train_cfg.max_iters > 0:
        raise ConfigError(f'train_cfg.max_iters must be positive, got {cfg.train_cfg.max_iters}')
    EqualWeights(cfg.train_cfg.get('compare_weights_every', 0))
    loader = cfg.train_dataloader
    if 'batch_size' in loader:
        raise ConfigError(
            'train_dataloader.batch_size cannot be set: batch.prompts_per_iteration is the number of prompts of an '
            'iteration, and the processes divide it'
        )
    _check(loader.get('dataset'), DATASETS, 'train_dataloader.dataset')
    built = ('dataset', 'sampler', 'batch_sampler', 'collate_fn', 'worker_init_fn', *_OF_MMENGINE)
    _check_names(DataLoader, {k: v for k, v in loader.items() if k not in built}, 'train_dataloader', ('batch_size',))
    if loader.get('num_workers', 0) < 0:
        raise ConfigError(f'train_dataloader.num_workers must not be negative, got {loader.num_workers}')
    if 'sampler' in loader:
        _check(loader.sampler, DATA_SAMPLERS, 'train_dataloader.sampler', 'dataset')
    _check(cfg.optim_wrapper, OPTIM_WRAPPERS, 'optim_wrapper')
    _check_optimizer(cfg)
    hooks = {f'default_hooks.{name}': hook for name, hook in (cfg.get('default_hooks') or {}).items()}
    hooks |= {f'custom_hooks.{i}': hook for i, hook in enumerate(cfg.get('custom_hooks') or [])}
    averages = False
    for where, hook in hooks.items():
        if hook is None and where.startswith('default_hooks'):
            continue
        _check(hook, HOOKS, where)
        if not isinstance(hook, Mapping):
            averages |= isinstance(hook, EMAHook)
            continue
        kind = hook.get('type')
        target = HOOKS.get(kind) if isinstance(kind, str) else kind
        if inspect.isclass(target) and issubclass(target, HeldOutHook):
            target.check(cfg, hook, where)
        averages |= inspect.isclass(target) and issubclass(target, EMAHook)
        if target is not None:
            trial(target, where, **{k: v for k, v in hook.items() if k not in ('type', '_scope_', 'priority')})
    if cfg.get('visualizer'):
        _check(cfg.visualizer, VISUALIZERS, 'visualizer', 'name', 'save_dir')
        backends = cfg.visualizer.get('vis_backends') or []
        if not isinstance(backends, (list, tuple)):
            raise ConfigError(f"config key 'visualizer.vis_backends' must be a list, got {backends!r}")
        for i, backend in enumerate(backends):
            _check(backend, VISBACKENDS, f'visualizer.vis_backends.{i}', 'save_dir')
    if cfg.get('log_processor'):
        _check(cfg.log_processor, LOG_PROCESSORS, 'log_processor')
    if cfg.get('log_level', 'INFO') not in _LEVELS:
        raise ConfigError(f'log_level must be one of {_LEVELS}, got {cfg.log_level!r}')
    if cfg.get('randomness'):
        given = {'seed': 0, **cfg.randomness}
        check_options(Runner.set_randomness, given, 'randomness', args=(None,), internal=['self'])
        seed = given['seed']
        if not (fits(seed, int) and 0 <= seed < 2**32):
            raise ConfigError(f'config key randomness.seed must be a whole number from 0 to 2**32 - 1, got {seed!r}')
        check_against_defaults(cfg.randomness, _accepted(Runner.set_randomness) or {}, 'randomness')
        if cfg.randomness.get('diff_rank_seed'):
            raise ConfigError(
                'randomness.diff_rank_seed=True gives every rank other steps to train and other noise within a group: '
                'leave it out, every sample has a seed of its own already'
            )
    if cfg.get('env_cfg'):
        check_environment(cfg.env_cfg)
    if cfg.get('ema'):
        check_options(TrainableEMA, {**cfg.ema, 'module': None}, 'ema', internal=['module'])
        TrainableEMA(nn.Module(), **cfg.ema)
        if not averages:
            raise ConfigError(
                'the average of the config section ema would stay what it is before training, and it is what is '
                "evaluated and exported: add default_hooks.ema=dict(type='EMAHook'), or set ema=None"
            )


def _check_optimizer(cfg: Config) -> None:
    section = cfg.optim_wrapper.get('optimizer')
    _check(section, OPTIMIZERS, 'optim_wrapper.optimizer', 'params')
    kind = section.get('type')
    options = {k: v for k, v in section.items() if k not in ('type', '_scope_')}
    optimizer = trial_optimizer(OPTIMIZERS.get(kind) if isinstance(kind, str) else kind, options)
    if cfg.optim_wrapper.get('accumulative_counts', 1) != 1:
        raise ConfigError(
            f'optim_wrapper.accumulative_counts={cfg.optim_wrapper.accumulative_counts} has no effect here: gradients '
            'of micro-batches are summed already, batch.updates_per_iteration is the number of optimiser steps'
        )
    clip = cfg.optim_wrapper.get('clip_grad')
    if clip is not None:
        if not isinstance(clip, Mapping):
            raise ConfigError(f"config key 'optim_wrapper.clip_grad' must be dict(max_norm=...) or None, got {clip!r}")
        options = {k: v for k, v in clip.items() if k != 'type'}
        value = clip.get('type') == 'value'
        _check_names(
            clip_grad_value_ if value else clip_grad_norm_, options, 'optim_wrapper.clip_grad', ('parameters',)
        )
        bound = 'clip_value' if value else 'max_norm'
        if not options.get(bound, 0) > 0:
            raise ConfigError(f'optim_wrapper.clip_grad.{bound} must be given and positive, got {options.get(bound)}')
    schedulers = cfg.get('param_scheduler') or []
    for i, scheduler in enumerate([schedulers] if isinstance(schedulers, Mapping) else schedulers):
        where = f'param_scheduler.{i}'
        _check(scheduler, PARAM_SCHEDULERS, where, 'optimizer')
        options = {k: v for k, v in scheduler.items() if k not in ('type', '_scope_')}
        if options.get('begin', 0) < 0:
            raise ConfigError(f'{where}.begin must not be negative, got {options["begin"]}')
        if not options.pop('convert_to_iter_based', False):  # which needs the length of an epoch
            kind = scheduler.get('type')
            trial(PARAM_SCHEDULERS.get(kind) if isinstance(kind, str) else kind, where, optimizer, **options)


def _check(section: Any, registry: Registry, where: str, *supplied: str) -> None:
    """Look the type up, here and in MMEngine; then its options. ``supplied`` are the arguments the runner gives."""
    if not isinstance(section, Mapping):
        if isinstance(section, (str, int, float, list, tuple)) or section is None:
            raise ConfigError(f'config key {where!r} must be dict(type=..., ...), got {section!r}')
        return
    kind = section.get('type')
    if kind is None and where in ('optim_wrapper', 'log_processor', 'visualizer'):
        return  # MMEngine has a default
    if kind is None:
        raise ConfigError(f'config key {where!r}: no "type" is given')
    if not isinstance(kind, str) and not callable(kind):
        raise ConfigError(f'config key {where!r}: "type" must be a name, a dotted path or a class, not {kind!r}')
    target = _look_up(kind, registry) if isinstance(kind, str) else kind
    if not callable(target):
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


def _look_up(kind: str, registry: Registry) -> Any:
    try:
        return registry.get(kind) if all(name.isidentifier() for name in kind.split('.')) else None
    except RuntimeError:  # what MMEngine says of a dotted path that leads nowhere
        return None


def _check_names(target: Any, options: Mapping[str, Any], where: str, supplied: tuple[str, ...]) -> None:
    accepted = _accepted(target)
    unknown = [k for k in options if accepted is not None and k not in accepted]
    if unknown:
        name = getattr(target, '__name__', str(target))
        known = sorted({*accepted} - {'self', *supplied})
        raise ConfigError(
            f'config key {where!r}: {name} has no option {unknown[0]!r}.{closest(unknown[0], known)} '
            f'It has: {", ".join(known)}'
        )
    if accepted is not None:
        check_against_defaults(options, accepted, where)
    if inspect.isclass(target) and target.__module__.startswith('vipo.'):
        check_options(target, {**options, **dict.fromkeys(supplied)}, where, internal=supplied)


def _accepted(target: Any) -> dict[str, inspect.Parameter] | None:
    """All parameters by name, through base classes that ``**kwargs`` hand on to; None where that has no end."""
    found: dict[str, inspect.Parameter] = {}
    functions = [target]
    if inspect.isclass(target):
        functions = [vars(c)['__init__'] for c in target.__mro__[:-1] if '__init__' in vars(c)]
        if not functions:
            return found
    for function in functions:
        try:
            parameters = inspect.signature(function).parameters.values()
        except ValueError:  # written in C
            return None
        found = {p.name: p for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)} | found
        if not any(p.kind == p.VAR_KEYWORD for p in parameters):
            return found
    return None
