"""SIGTERM and SIGUSR1: a run saves, leaves with its own exit code, and goes on as if nothing had been."""

import signal
import subprocess
import sys
import textwrap
import time

import pytest
import torch

from tests.engine.conftest import ROOT, SMALL, run, small_config, weights
from tests.engine.launch import torchrun, train_command
from vipo.engine.preemption import PREEMPTED

HOOK = """
import os, signal, time
from mmengine.hooks import Hook

class Signal(Hook):
    def after_rollout(self, runner, samples):
        if runner.iter == 1 and int(os.environ.get('RANK', 0)) == {rank}:
            os.kill(os.getpid(), signal.{name})
            os.kill(os.getpid(), signal.{name})
            time.sleep(0.2)
"""


def signalled(folder, name, rank=0):
    (folder / 'sends.py').write_text(HOOK.format(name=name, rank=rank))
    config = folder / 'signalled.py'
    config.write_text(f"_base_ = ['{ROOT}/configs/vipo_tiny_sd3.py']\ncustom_hooks = [dict(type='sends.Signal')]\n")
    return config


@pytest.mark.slow
def test_sigterm_saves_and_the_resumed_run_ends_with_the_same_weights(tmp_path):
    """The signal comes twice, as from Slurm and from torchrun, in the middle of the second iteration of three."""
    options = {**SMALL, 'train_cfg.max_iters': 3}
    command = [
        sys.executable,
        'tools/train.py',
        str(signalled(tmp_path, 'SIGTERM')),
        '--work-dir',
        str(tmp_path / 'cut'),
    ]
    command += ['--cfg-options', *(f'{k}={v}' for k, v in options.items())]
    process = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    said = process.stdout + process.stderr
    assert process.returncode == PREEMPTED, said
    assert 'SIGTERM: the run saves and stops at the end of this iteration' in said
    assert 'SIGTERM: stopped after iteration 2 of 3; iter_2.pth' in said
    assert '--resume goes on from it' in said
    assert (tmp_path / 'cut' / 'history.jsonl').read_text().count('\n') == 2

    kept = {k.replace('.', '__'): v for k, v in options.items()}
    whole = run(small_config(tmp_path / 'whole', **kept))
    resumed = run(small_config(tmp_path / 'cut', resume=True, **kept))
    assert all(torch.equal(v, weights(whole)[k]) for k, v in weights(resumed).items())
    assert all(torch.equal(v, whole.components.ema.average[k]) for k, v in resumed.components.ema.average.items())


@pytest.mark.slow
def test_one_rank_that_is_signalled_stops_all(tmp_path):
    options = {**SMALL, 'train_cfg.max_iters': 3, 'batch.updates_per_iteration': 1, 'evaluation': None}
    config = signalled(tmp_path, 'SIGUSR1', rank=1)
    arguments = ('--verbose-ranks', '--work-dir', str(tmp_path / 'run'))
    code, said = torchrun(train_command(config, *arguments, options=options))
    assert code != 0
    assert 'processes   2 on 1 machine(s), gloo; each takes 4 samples of 2 prompts x 4 per iteration' in said
    for rank in range(2):
        assert f'rank {rank}: host ' in said
    assert said.count(', 4 samples per iteration') == 2
    assert 'SIGUSR1: stopped after iteration 2 of 3; iter_2.pth' in said
    assert said.count(f'exitcode  : {PREEMPTED}') >= 1, said[-3000:]
    saved = torch.load(tmp_path / 'run' / 'iter_2.pth', weights_only=True)
    assert saved['meta']['iter'] == 2


def alone(script: str) -> subprocess.CompletedProcess:
    script = 'import os, signal, sys, time\nimport vipo.engine.preemption as p\n' + textwrap.dedent(script)
    return subprocess.run([sys.executable, '-c', script], cwd=ROOT, capture_output=True, text=True)


@pytest.mark.slow
def test_a_child_that_goes_on_running_keeps_nobody_from_leaving():
    """Workers of a data loader outlive the training: Python ends them last."""
    began = time.monotonic()
    process = alone(
        """
        with p.listening():
            child = os.fork()
            if not child:
                time.sleep(100)
        os.kill(child, signal.SIGKILL)
        """
    )
    assert process.returncode == 0, process.stderr
    assert time.monotonic() - began < 60


@pytest.mark.slow
def test_a_run_with_workers_ends_and_is_the_same(tmp_path):
    options = [f'{k}={v}' for k, v in {**SMALL, 'evaluation': None}.items()]
    command = [sys.executable, 'tools/train.py', str(ROOT / 'configs' / 'vipo_tiny_sd3.py'), '--work-dir']
    for workers in (0, 1):
        more = ['--cfg-options', *options, f'train_dataloader.num_workers={workers}']
        folder = str(tmp_path / str(workers))
        done = subprocess.run([*command, folder, *more], cwd=ROOT, capture_output=True, text=True, timeout=200)
        assert done.returncode == 0, done.stdout + done.stderr
    one, two = (torch.load(tmp_path / n / 'iter_2.pth', weights_only=True)['state_dict'] for n in '01')
    assert all(torch.equal(one[k], two[k]) for k in one)


@pytest.mark.slow
def test_a_second_signal_ends_at_once_and_children_are_their_own():
    process = alone(
        """
        p._SAME = 0.3
        with p.listening():
            pass
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
        listens = p.listening()
        listens.__enter__()
        child = os.fork()
        if not child:
            time.sleep(20)
            os._exit(1)
        os.kill(child, signal.SIGTERM)
        assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGTERM
        time.sleep(0.2)
        assert not p._asked
        os.kill(os.getpid(), signal.SIGUSR1)
        time.sleep(0.5)
        assert p._asked == signal.SIGUSR1
        os.kill(os.getpid(), signal.SIGUSR1)
        time.sleep(20)
        """
    )
    assert process.returncode == 128 + signal.SIGUSR1, process.stderr
    assert 'SIGUSR1 for the second time: stopped without saving' in process.stderr
