"""Reads a config file, applies the command line to it, and points out what nothing reads."""

from __future__ import annotations

import ast
import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmengine.config import Config, ConfigDict

from vipo.registry import ConfigError
from vipo.registry.build import closest

#: Every key that a config may have at the top level.
KNOWN_KEYS = frozenset(
    [
        'generator',
        'reward',
        'eval_rewards',
        'structurer',
        'loss',
        'advantage',
        'rollout',
        'batch',
        'evaluation',
        'ema',
        'offload',
        'strategy',
        'train_dataloader',
        'train_cfg',
        'optim_wrapper',
        'param_scheduler',
        'default_hooks',
        'custom_hooks',
        'visualizer',
        'log_processor',
        'log_level',
        'env_cfg',
        'launcher',
        'load_from',
        'resume',
        'randomness',
        'work_dir',
        'default_scope',
        'custom_imports',
        'experiment_name',
        'model_wrapper_cfg',
    ]
)


def read_config(path: str | Path, imports: bool = True) -> Config:
    """Parse a config file.

    Args:
        imports: whether its ``custom_imports`` are imported, which a look at its values does not need.

    Raises:
        ConfigError: the file does not exist or is no valid config.
    """
    if not Path(path).is_file():
        problem = 'is a folder' if Path(path).is_dir() else 'does not exist'
        raise ConfigError(f'config file {str(path)!r} {problem}')
    try:
        _check_base(Path(path))
        return Config.fromfile(path, import_custom_modules=imports)
    except ConfigError:
        raise
    except (Exception, SystemExit) as error:
        # MMEngine wraps what goes wrong in custom_imports into a page about PYTHONPATH.
        cause: BaseException | str = error
        while isinstance(cause, BaseException) and (inner := cause.__cause__ or cause.__context__) is not None:
            cause = inner
            if isinstance(cause, ModuleNotFoundError):  # of a name with ".py" Python goes on to tell its own reason
                break
        hint = ''
        if isinstance(cause, ModuleNotFoundError):
            hint = ' Modules are looked for beside the config, in the folder you start from, and on PYTHONPATH.'
            if (cause.name or '').endswith('.py') or '/' in (cause.name or ''):
                hint = ' custom_imports names modules, as an import statement does: folder.file, without ".py".'
        elif isinstance(cause, FileNotFoundError):
            hint = ' Paths in _base_ are relative to the file that names them.'
        elif 'Duplicate key is not allowed' in str(cause):
            hint = (
                ' A section may come from one file of _base_ alone: leave the other file out of _base_, and write what '
                'you want of it here, section=dict(_delete_=True, type=...).'
            )
        elif 'import_modules_from_strings() argument' in str(cause):
            cause, hint = 'custom_imports must be a dict', " Write custom_imports=dict(imports=['your_module'])."
        elif 'lazy_import' in str(cause):
            cause, hint = 'it has an import statement', ' Import nothing; write type="my_module.MyClass".'
        name = f'{type(cause).__name__}: ' if isinstance(cause, BaseException) else ''
        raise ConfigError(f'config file {str(path)!r} cannot be read: {name}{cause}.{hint}') from error


def _check_base(path: Path) -> None:
    """MMEngine says of a ``_base_`` that is no text and no list of texts only what Python does."""
    if path.suffix != '.py':
        return
    for node in ast.parse(path.read_bytes()).body:
        if isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == '_base_' for t in node.targets):
            try:
                bases = ast.literal_eval(node.value)
            except ValueError:  # it is computed
                continue
            names = [bases] if isinstance(bases, str) else bases
            if not (isinstance(names, (list, tuple)) and all(isinstance(name, str) for name in names)):
                raise ConfigError(f'config file {str(path)!r}: _base_ must be a list of files, got {bases!r}')


def require_sections(cfg: Config, *names: str) -> None:
    """Refuse a config without these sections.

    Raises:
        ConfigError: one is missing or is none.
    """
    for name in names:
        if not isinstance(cfg.get(name), Mapping):
            raise ConfigError(f'the config needs a section {name}=dict(...), got {cfg.get(name)!r}')


def override(cfg: Config, options: dict[str, Any]) -> None:
    """Set single values by dotted keys, such as ``{'generator.lora.rank': 8}``; what was None becomes a section.

    Raises:
        ConfigError: a key leads through a value that has no parts, or its first word is not known.
    """
    for key, value in options.items():
        names = key.split('.')
        if not all(names):
            raise ConfigError(f'--cfg-options {key!r}: a word between the dots is empty')
        if names[0] not in cfg and names[0] not in KNOWN_KEYS:
            raise ConfigError(f'--cfg-options {key}: {names[0]!r} is not known.{closest(names[0], KNOWN_KEYS)}')
        if names[0] == 'custom_imports':
            raise ConfigError(
                f'--cfg-options {key}: modules are imported while the config file is read; write them there'
            )
        section: Any = cfg._cfg_dict
        for name in names[:-1]:
            section = _part(section, name, key)
        _make_room(section, names[-1], value, key)
    cfg.merge_from_dict(copy.deepcopy(options))  # MMEngine takes the `_delete_` out of what it is given


def _part(section: Any, name: str, key: str) -> Any:
    """What ``name`` leads to; a section that was None is made."""
    if not isinstance(section, (list, tuple)):
        if section.get(name) is None:
            section[name] = ConfigDict()
        part = section[name]
    elif name.isdigit() and int(name) < len(section):
        part = section[int(name)]
    else:
        raise ConfigError(f'--cfg-options {key}: {name!r} is no index of a list of {len(section)}')
    if not isinstance(part, (dict, list)):
        raise ConfigError(f'--cfg-options {key}: {name!r} is {part!r} in the config and has no parts')
    return part


def _make_room(section: Any, name: str, value: Any, key: str) -> None:
    """MMEngine merges a section into one that is there, and a single value of a list into nothing."""
    if isinstance(value, dict) and not value.get('_delete_'):
        for inner, deeper in value.items():
            _make_room(_part(section, name, key), inner, deeper, f'{key}.{inner}')
    elif isinstance(section, list):
        where = key.rpartition('.')[0]
        raise ConfigError(f'--cfg-options {key}: give the whole list, {where}={section!r} with what you want changed')


def unknown_keys(cfg: Config) -> list[str]:
    """A warning for every top-level key that nothing reads, with the nearest known one."""
    return [
        f'config key {key!r} is not known and has no effect.{closest(key, KNOWN_KEYS)}'
        for key in cfg
        if key not in KNOWN_KEYS and not key.startswith('_')
    ]
