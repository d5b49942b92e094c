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


def read_config(path: str | Path) -> Config:
    """Parse a config file.

    Raises:
        ConfigError: the file does not exist or is no valid config.
    """
    if not Path(path).is_file():
        raise ConfigError(f'config file {str(path)!r} does not exist')
    try:
        return Config.fromfile(path)
    except ConfigError:
        raise
    except Exception as error:
        raise ConfigError(f'config file {str(path)!r} cannot be read: {type(error).__name__}: {error}') from error


def override(cfg: Config, options: dict[str, Any]) -> None:
    """Set single values by dotted keys, such as ``{'generator.lora.rank': 8}``; what was None becomes a section.

    Raises:
        ConfigError: a key leads through a value that has no parts.
    """
    for key in options:
        section: Any = cfg._cfg_dict
        for name in key.split('.')[:-1]:
            if isinstance(section, list):
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
