"""Small runs of the real main job: the shipped config with fewer samples."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.config import Config

from vipo.engine.config import override, read_config

ROOT = Path(__file__).resolve().parent.parent.parent
#: What makes the shipped config small enough for a unit test.
SMALL = {
    'train_cfg.max_iters': 2,
    'batch.prompts_per_iteration': 2,
    'batch.group_size': 4,
    'batch.updates_per_iteration': 2,
    'batch.micro_batch_size': 4,
    'rollout.num_steps': 4,
    'evaluation.num_prompts': 6,
    'evaluation.num_steps': 2,
    'default_hooks.report.gallery': 4,
    'param_scheduler': None,
}
_names = itertools.count()


def small_config(work_dir: Path, name: str = 'vipo_tiny_sd3', **options: Any) -> Config:
    """The config ``name``, shrunk; ``options`` use ``__`` for the dots of a config key."""
    cfg = read_config(ROOT / 'configs' / f'{name}.py')
    override(cfg, {**SMALL, **{k.replace('__', '.'): v for k, v in options.items()}})
    cfg.work_dir = str(work_dir)
    # MMEngine keeps loggers and message hubs by experiment name.
    cfg.experiment_name = f'test_{next(_names)}'
    return cfg


def run(cfg: Config):
    """Train and return the runner."""
    from vipo.engine.runner import build_runner

    runner = build_runner(cfg)
    runner.train()
    return runner


def weights(runner) -> dict[str, torch.Tensor]:
    """The trained parameters."""
    return {n: p.detach().clone() for n, p in runner.components.policy.named_parameters() if p.requires_grad}


def history(runner) -> list[dict[str, Any]]:
    """The records of ``history.jsonl``."""
    lines = (Path(runner.work_dir) / 'history.jsonl').read_text().splitlines()
    return [json.loads(line) for line in lines]


@pytest.fixture
def cfg(tmp_path):
    return lambda name='vipo_tiny_sd3', **options: small_config(tmp_path / 'run', name, **options)
