"""Starts a script in several processes over gloo."""

from __future__ import annotations

import atexit
import functools
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

from tests.engine.conftest import ROOT


def train_command(config: str | Path, *arguments: str, options: dict[str, Any]) -> list[str]:
    """``tools/train.py`` and its arguments."""
    chosen = [f'{k}={v}' for k, v in options.items()]
    return ['tools/train.py', str(config), '--launcher', 'pytorch', *arguments, '--cfg-options', *chosen]


def torchrun(command: list[str], processes: int = 2) -> tuple[int, str]:
    """Exit code and output of a script as a user starts it."""
    process = subprocess.run(
        [sys.executable, '-m', 'torch.distributed.run', '--standalone', f'--nproc-per-node={processes}', *command],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={**os.environ, 'OMP_NUM_THREADS': '1'},
    )
    return process.returncode, process.stdout + process.stderr


@functools.cache
def _server() -> subprocess.Popen:
    process = subprocess.Popen(
        [sys.executable, '-m', 'tests.engine.forks'],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, 'OMP_NUM_THREADS': '1', 'PYTHONPATH': str(ROOT)},
    )
    atexit.register(process.kill)
    return process


def fork(command: list[str], processes: int = 2, timeout: float = 300.0) -> tuple[int, str]:
    """The same from a process that has imported everything: the exit code of the first rank that failed, and output."""
    with tempfile.NamedTemporaryFile('r', suffix='.log') as log:
        server = _server()
        request = {'command': command, 'logs': [log.name] * processes, 'timeout': timeout}
        print(json.dumps(request), file=server.stdin, flush=True)
        reply = json.loads(server.stdout.readline())
        said = log.read()
    assert 'error' not in reply, f'{reply["error"]}\n{said[-4000:]}'
    return next((code for code in reply['codes'] if code), 0), said


def launch(config: str | Path, *arguments: str, options: dict[str, Any], processes: int = 2) -> tuple[int, str]:
    """Train in several processes; exit code and output."""
    return fork(train_command(config, *arguments, options=options), processes)


def flat(state: dict[str, torch.Tensor]) -> torch.Tensor:
    """All tensors in one, in the order of their names."""
    return torch.cat([state[k].double().flatten() for k in sorted(state)])
