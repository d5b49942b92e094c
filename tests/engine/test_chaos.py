"""A run whose ranks are killed at many moments ends as if nothing had happened."""

import os
import subprocess
import sys

import pytest

from tests.engine.conftest import ROOT


@pytest.mark.slow
def test_kills_change_nothing(tmp_path):
    command = [sys.executable, '-m', 'tests.engine.chaos', str(tmp_path / 'runs'), '--kills', '8', '--seed', '0']
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, 'OMP_NUM_THREADS': '1'}, capture_output=True, text=True, timeout=400
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    assert '8 kills, and the very weights of the run that was left alone' in done.stdout
    for phase in ('rollout', 'update', 'writing', 'checkpoint'):
        assert f'in {phase} ' in done.stdout
