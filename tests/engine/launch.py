"""Starts ``tools/train.py`` in several processes over gloo, as a user does with torchrun."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

from tests.engine.conftest import ROOT


def launch(config: str | Path, *arguments: str, options: dict[str, Any], processes: int = 2) -> tuple[int, str]:
    """Exit code and output."""
    command = [sys.executable, '-m', 'torch.distributed.run', '--standalone', f'--nproc-per-node={processes}']
    command += ['tools/train.py', str(config), '--launcher', 'pytorch', *arguments]
    command += ['--cfg-options', *(f'{k}={v}' for k, v in options.items())]
    process = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, env={**os.environ, 'OMP_NUM_THREADS': '1'}
    )
    return process.returncode, process.stdout + process.stderr


def flat(state: dict[str, torch.Tensor]) -> torch.Tensor:
    """All tensors in one, in the order of their names."""
    return torch.cat([state[k].double().flatten() for k in sorted(state)])
