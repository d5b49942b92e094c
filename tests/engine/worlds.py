"""Runs of the main job one after another in each of several processes, which start once.

    torchrun --nproc-per-node N tests/engine/worlds.py FOLDER

where FOLDER/cases.json has for each name the strategy of the run and its options.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from mmengine.dist import get_rank, is_distributed
from mmengine.hooks import Hook
from torch import distributed

from tests.engine.conftest import run, small_config
from vipo.engine.parallel import leave


class Record(Hook):
    """Keeps what an iteration sampled and how it was judged."""

    def __init__(self, folder: str) -> None:
        self.folder = Path(folder)

    def after_update(self, runner: Any, samples: Any) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        kept = {
            'number': samples.number,
            'pixels': samples.pixels,
            'scores': samples.reward.scores.cpu(),
            'advantage': samples.advantage.cpu(),
            'prompts': samples.prompts,
        }
        torch.save(kept, self.folder / f'{runner.iter}_{get_rank()}.pt')


def run_cases(folder: Path, cases: dict[str, dict[str, Any]]) -> None:
    """Train every case; work dirs are ``folder / name``, samples lie in ``samples`` there."""
    for name, case in cases.items():
        hook = {'type': 'tests.engine.worlds.Record', 'folder': str(folder / name / 'samples')}
        options = {**case['options'], 'strategy': case['strategy'], 'custom_hooks': [hook]}
        cfg = small_config(folder / name, **{k.replace('.', '__'): v for k, v in options.items()})
        if is_distributed():
            cfg.launcher = 'pytorch'
        run(cfg)


def read_samples(folder: Path, iteration: int) -> dict[str, Any]:
    """What all ranks kept of an iteration, in the order of the samples' numbers."""
    parts = [torch.load(p, weights_only=True) for p in sorted(folder.glob(f'samples/{iteration}_*.pt'))]
    order = torch.cat([p['number'] for p in parts]).argsort()
    prompts = [text for part in parts for text in part['prompts']]
    joined = {k: torch.cat([p[k] for p in parts])[order] for k in ('number', 'pixels', 'scores', 'advantage')}
    return joined | {'prompts': [prompts[i] for i in order]}


if __name__ == '__main__':
    distributed.init_process_group('gloo')
    root = Path(sys.argv[1])
    run_cases(root, json.loads((root / 'cases.json').read_text()))
    leave()
