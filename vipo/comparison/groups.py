"""Runs of one config with several seeds belong together; what differs between groups is their config."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from typing import Any

from mmengine.config import Config

from vipo.comparison.runs import Run
from vipo.engine.evaluation import plain
from vipo.registry import ConfigError

#: Keys that say where and how a run went, not what it did.
_NOT_COMPARED = ('work_dir', 'experiment_name', 'resume', 'load_from', 'launcher', 'randomness.seed', 'visualizer')


@dataclass
class Group:
    """Runs whose configs differ in nothing but the seed.

    Attributes:
        label: names it in the report.
        runs: ordered by seed.
        values: every value of the config by its dotted key.
    """

    label: str
    runs: list[Run]
    values: dict[str, Any]

    @property
    def seeds(self) -> list[int]:
        """Of its runs."""
        return [run.seed for run in self.runs]


def group_runs(runs: list[Run]) -> list[Group]:
    """Put runs of one config together, in the order in which the configs come first.

    A group is called by its config file; groups of one file by what differs between them as well.

    Raises:
        ConfigError: a folder is named twice.
    """
    folders = Counter(run.folder.resolve() for run in runs)
    for folder, count in folders.items():
        if count > 1:
            raise ConfigError(f'{folder} is named {count} times')
    groups: dict[str, Group] = {}
    for run in runs:
        values = flat(run.cfg)
        key = json.dumps([run.name, values], sort_keys=True)
        groups.setdefault(key, Group(run.name, [], values)).runs.append(run)
    found = list(groups.values())
    for group in found:
        group.runs.sort(key=lambda run: run.seed)
    for name, count in Counter(group.label for group in found).items():
        same = [group for group in found if group.label == name]
        changed = differences(same) if count > 1 else {}
        for i, group in enumerate(same if count > 1 else ()):
            words = [f'{key.rpartition(".")[2]}={values[i]}' for key, values in changed.items()]
            long = len(words) > 2 or sum(map(len, words)) > 40
            group.label = f'{name} ({group.runs[0].folder.name if long else ", ".join(words)})'
    return found


def differences(groups: list[Group]) -> dict[str, list[str]]:
    """Config key -> its value in each group as text, ``'-'`` where it has none; only keys in which they differ."""
    keys = dict.fromkeys(key for group in groups for key in group.values)
    texts = {key: [_text(group.values[key]) if key in group.values else '-' for group in groups] for key in keys}
    return {key: values for key, values in sorted(texts.items()) if len(set(values)) > 1}


def flat(cfg: Config) -> dict[str, Any]:
    """Every value of a config by its dotted key, without where it ran."""
    found: dict[str, Any] = {}

    def walk(value: Any, key: str) -> None:
        if key in _NOT_COMPARED:
            return
        if isinstance(value, dict) and value:
            for name, part in value.items():
                walk(part, f'{key}.{name}' if key else name)
        elif isinstance(value, list) and any(isinstance(part, dict) for part in value):
            for number, part in enumerate(value):
                walk(part, f'{key}.{number}')
        else:
            found[key] = value

    walk(plain(cfg.to_dict()), '')
    return found


def _text(value: Any) -> str:
    return value if isinstance(value, str) else repr(value)
