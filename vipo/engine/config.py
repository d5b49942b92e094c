"""Reads a config file, applies the command line to it, and points out what nothing reads."""

from __future__ import annotations

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
        return Config.fromfile(path, import_custom_modules=imports)
    except ConfigError:
        raise
    except Exception as error:
        # MMEngine wraps what goes wrong in custom_imports into a page about PYTHONPATH.
        cause: BaseException | str = error
        while isinstance(cause, BaseException) and (inner := cause.__cause__ or cause.__context__) is not None:
            cause = inner
        hint = ''
        if isinstance(cause, ModuleNotFoundError):
            hint = ' Modules are looked for beside the config, in the folder you start from, and on PYTHONPATH.'
        elif isinstance(cause, FileNotFoundError):
            hint = ' Paths in _base_ are relative to the file that names them.'
        elif 'lazy_import' in str(cause):
            cause, hint = 'it has an import statement', ' Import nothing; write type="my_module.MyClass".'
        name = f'{type(cause).__name__}: ' if isinstance(cause, BaseException) else ''
        raise ConfigError(f'config file {str(path)!r} cannot be read: {name}{cause}.{hint}') from error


def override(cfg: Config, options: dict[str, Any]) -> None:
    """Set single values by dotted keys, such as ``{'generator.lora.rank': 8}``; what was None becomes a section.

    Raises:
        ConfigError: a key leads through a value that has no parts.
    """
    for key in options:
        section: Any = cfg._cfg_dict
        for name in key.split('.')[:-1]:
            if isinstance(section, list):
                if not name.isdigit() or int(name) >= len(section):
                    raise ConfigError(f'--cfg-options {key}: {name!r} is no index of a list of {len(section)}')
                section = section[int(name)]
                continue
            if section.get(name) is None:
                section[name] = ConfigDict()
            section = section[name]
            if not isinstance(section, (dict, list)):
                raise ConfigError(f'--cfg-options {key}: {name!r} is {section!r} in the config and has no parts')
    cfg.merge_from_dict(options)


def unknown_keys(cfg: Config) -> list[str]:
    """A warning for every top-level key that nothing reads, with the nearest known one."""
    return [
        f'config key {key!r} is not known and has no effect.{closest(key, KNOWN_KEYS)}'
        for key in cfg
        if key not in KNOWN_KEYS and not key.startswith('_')
    ]
