"""The scripts that start a run, as a user types them."""

import os
import subprocess
import sys

import pytest
import torch

from tests.engine.conftest import ROOT, SMALL
from tests.ports import free_port

OPTIONS = {**SMALL, 'batch.updates_per_iteration': 1, 'evaluation': None, 'train_cfg.max_iters': 1}
SMALLER = ['--cfg-options', *(f'{k}={v}' for k, v in OPTIONS.items())]


def call(script, *arguments, cwd=ROOT, **environment):
    """Exit code and output of a script, without what another launcher left in the environment."""
    left_out = ('RANK', 'WORLD_SIZE', 'LOCAL_RANK', 'MASTER_ADDR', 'MASTER_PORT', 'NNODES', 'NODE_RANK')
    mine = {k: v for k, v in os.environ.items() if k not in left_out}
    process = subprocess.run(
        [str(ROOT / 'tools' / script), *map(str, arguments)],
        cwd=cwd,
        capture_output=True,
        text=True,
        env={**mine, 'PYTHON': sys.executable, 'PORT': str(free_port()), 'OMP_NUM_THREADS': '1', **environment},
    )
    return process.returncode, process.stdout + process.stderr


def spaced(folder):
    """A config whose path has spaces in it."""
    path = folder / 'my configs' / 'my run.py'
    path.parent.mkdir()
    path.write_text(f"_base_ = ['{ROOT}/configs/vipo_tiny_sd3.py']\n")
    return path


@pytest.mark.slow
def test_the_shipped_config_on_two_processes(tmp_path):
    code, said = call('dist_train.sh', 'configs/vipo_tiny_sd3.py', 2, '--work-dir', tmp_path / 'run', *SMALLER)
    assert code == 0, said[-3000:]
    assert 'node 0 of 1, 2 process(es) here' in said
    assert '2 process(es), micro-batches' in said
    assert said.count('Done in') == 1, 'the main process alone reports'
    assert 'Failed to search registry' not in said
    assert (tmp_path / 'run' / 'iter_1.pth').exists()


@pytest.mark.slow
def test_spaces_and_another_folder(tmp_path):
    work_dir = tmp_path / 'my work dir'
    code, said = call('dist_train.sh', spaced(tmp_path), 1, '--work-dir', work_dir, *SMALLER, cwd=tmp_path)
    assert code == 0, said[-3000:]
    assert (work_dir / 'iter_1.pth').exists()


@pytest.mark.slow
def test_an_error_is_the_exit_code_of_the_script(tmp_path):
    code, said = call('dist_train.sh', 'configs/vipo_tiny_sd3.py', 1, '--cfg-options', 'strategy.type=FSPD2')
    assert code != 0
    assert "config key 'strategy': there is no strategy named 'FSPD2'. Did you mean 'FSDP2'?" in said


@pytest.mark.parametrize(
    ('script', 'arguments', 'environment', 'words'),
    [
        ('dist_train.sh', ['configs/vipo_tiny_sd3.py'], {}, 'usage:'),
        ('dist_train.sh', [8, 'configs/vipo_tiny_sd3.py'], {}, 'GPUS must be a positive number'),
        ('dist_train.sh', ['nowhere.py', 2], {}, "config file 'nowhere.py' does not exist"),
        ('dist_train.sh', ['configs/vipo_tiny_sd3.py', 2], {'NNODES': '2'}, 'needs MASTER_ADDR'),
        ('slurm_train.sh', ['gpu', 'job', 'configs/vipo_tiny_sd3.py'], {}, 'usage:'),
        ('slurm_train.sh', ['gpu', 'job', 'nowhere.py', 'out'], {}, "config file 'nowhere.py' does not exist"),
        ('slurm_train.sh', ['gpu', 'job', 'configs/vipo_tiny_sd3.py', 'out'], {'GPUS': '12'}, 'no multiple'),
    ],
)
def test_wrong_words(script, arguments, environment, words):
    code, said = call(script, *arguments, **environment)
    assert code == 2
    assert words in said


#: Stands in for Slurm: starts the tasks on this machine with the variables that srun sets.
SRUN = """#!/usr/bin/env bash
echo "$@" > "$SAID"
for word in "$@"; do case $word in --ntasks=*) N=${word#*=};; esac; done
while [[ $1 == --* ]]; do shift; done
PIDS=()
for ((i = 0; i < N; i++)); do
    SLURM_PROCID=$i SLURM_LOCALID=$i SLURM_NTASKS=$N SLURM_JOB_NODELIST='n[1]' "$@" & PIDS+=($!)
done
for pid in "${PIDS[@]}"; do wait "$pid"; done
"""


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason='both tasks would ask for a GPU of their own')
def test_slurm(tmp_path):
    """The words that srun is given, and a run from the variables that it sets; no Slurm is involved."""
    folder = tmp_path / 'bin'
    folder.mkdir()
    for name, text in (('srun', SRUN), ('scontrol', '#!/bin/sh\necho 127.0.0.1\n')):
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    work_dir = tmp_path / 'my work dir'
    code, said = call(
        'slurm_train.sh',
        *('gpu', 'a-job', spaced(tmp_path), work_dir, *SMALLER),
        PATH=f'{folder}:{os.environ["PATH"]}',
        SAID=str(tmp_path / 'said'),
        GPUS='2',
        SRUN_ARGS='--exclusive --time=10',
    )
    assert code == 0, said[-3000:]
    assert '2 process(es), micro-batches' in said
    assert (work_dir / 'iter_1.pth').exists()
    words = (tmp_path / 'said').read_text()
    assert '--partition=gpu --job-name=a-job --gres=gpu:2 --ntasks=2 --ntasks-per-node=2' in words
    assert '--kill-on-bad-exit=1 --exclusive --time=10' in words
