"""Rewards without a run around them, for tools: from a config, or from the name of a reward."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config

from vipo.engine.config import KNOWN_KEYS, override, read_config
from vipo.engine.hub import check_reach
from vipo.registry import REWARDS, ConfigError
from vipo.registry.build import closest, find_dotted
from vipo.rewards.base import Reward
from vipo.rewards.function import as_reward


def reward_config(name: str, options: dict[str, Any]) -> Config:
    """A config with at least the section ``reward``.

    Args:
        name: a config file; the name of a registered reward; or the dotted path of a class or of a plain function.
        options: single values by dotted keys, ``{'reward.batch_size': 8}``.

    Raises:
        ConfigError: there is no such file or function, it has no such section, or an option fits nothing.
    """
    if name.endswith('.py') or Path(name).exists():
        cfg = read_config(name)
        override(cfg, options)
        if not isinstance(cfg.get('reward'), dict):
            raise ConfigError(f'config file {name!r} has no section reward=dict(...)')
        return cfg
    if '.' in name and not inspect.isclass(find_dotted(name, 'reward')):
        cfg = Config({'reward': {'type': 'FunctionReward', 'function': name}})
    else:
        cfg = Config({'reward': {'type': name}})
    for key in options:
        if key.split('.')[0] not in KNOWN_KEYS:
            raise ConfigError(
                f'{key!r} is not known.{closest(key, KNOWN_KEYS)} Options of {name} are written '
                '--cfg-options reward.OPTION=VALUE'
            )
    override(cfg, options)
    return cfg


def build_rewards(cfg: Config, evaluation: bool = False) -> dict[str, Reward]:
    """The reward of a config under ``'reward'``, and with ``evaluation`` those of ``eval_rewards`` by their names.

    Raises:
        ConfigError: a model cannot be had, or a section is wrong.
    """
    check_eval_names(cfg.get('eval_rewards') or {})
    sections = {'reward': cfg.reward}
    if evaluation:
        sections |= {f'eval_rewards.{name}': section for name, section in (cfg.get('eval_rewards') or {}).items()}
    check_reach({'reward': cfg.reward, 'eval_rewards': (cfg.get('eval_rewards') or {}) if evaluation else {}})
    return {
        key.removeprefix('eval_rewards.'): as_reward(REWARDS.build(section, at=key))
        for key, section in sections.items()
    }


def add_eval_rewards(cfg: Config, names: Iterable[str]) -> None:
    """Add rewards to ``eval_rewards``, in place: each under the name of its file, class or function.

    Args:
        names: see :func:`reward_config`.

    Raises:
        ConfigError: two rewards have one name.
    """
    given = dict(cfg.get('eval_rewards') or {})
    for name in names:
        section = reward_config(name, {}).reward
        short = Path(name).stem if name.endswith('.py') else name.rpartition('.')[2]
        if short == 'reward' or given.setdefault(short, section) != section:
            raise ConfigError(
                f'--rewards {name}: the config has another reward named {short!r}; give the file a new name'
            )
    cfg.eval_rewards = given or None


def check_eval_names(names: Iterable[str]) -> None:
    """Refuse a name under which the trained reward is logged.

    Raises:
        ConfigError: one is ``'reward'``.
    """
    if 'reward' in names:
        raise ConfigError("eval_rewards: the name 'reward' is that of the trained reward; take another one")


def pick_device(wanted: str | None) -> torch.device:
    """The device of that name; None takes the GPU where there is one.

    Raises:
        ConfigError: there is no such device here.
    """
    try:
        device = torch.device(wanted or ('cuda' if torch.cuda.is_available() else 'cpu'))
        torch.empty(1, device=device)
    except Exception as error:  # torch raises whatever the device's library does
        raise ConfigError(f'--device {wanted}: {error}') from error
    return device
