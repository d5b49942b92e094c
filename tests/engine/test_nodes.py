"""Two machines, as far as one can tell without them: network namespaces with their own addresses, joined by a wire."""

import os
import shutil
import subprocess
import sys
from contextlib import ExitStack

import pytest
import torch

from tests.engine.conftest import ROOT, SMALL, run, small_config

OPTIONS = {**SMALL, 'train_cfg.max_iters': 1, 'batch.updates_per_iteration': 1, 'evaluation': None}
#: Nothing else should live there.
ADDRESSES = ('10.213.77.1', '10.213.77.2')
_NOT_INHERITED = ('RANK', 'WORLD_SIZE', 'LOCAL_RANK', 'MASTER_ADDR', 'MASTER_PORT', 'GLOO_SOCKET_IFNAME')


def ip(*words):
    return subprocess.run(['ip', *words], capture_output=True, text=True)


@pytest.fixture
def nodes():
    """Names of two network namespaces that reach each other under :data:`ADDRESSES`, and nothing else."""
    if shutil.which('ip') is None:
        pytest.skip('needs the command ip (Debian: iproute2)')
    names = [f'vipo{os.getpid()}n{i}' for i in range(2)]
    with ExitStack() as stack:
        for name in names:
            made = ip('netns', 'add', name)
            if made.returncode:
                pytest.skip(f'network namespaces are not permitted here: {made.stderr.strip()}')
            stack.callback(ip, 'netns', 'del', name)
        wires = [f'v{os.getpid()}w{i}' for i in range(2)]
        steps = [
            ['link', 'add', wires[0], 'type', 'veth', 'peer', 'name', wires[1]],
            *(['link', 'set', wire, 'netns', name] for wire, name in zip(wires, names, strict=True)),
        ]
        for name, wire, address in zip(names, wires, ADDRESSES, strict=True):
            steps += [
                ['-n', name, 'addr', 'add', f'{address}/24', 'dev', wire],
                ['-n', name, 'link', 'set', wire, 'up'],
                ['-n', name, 'link', 'set', 'lo', 'up'],
            ]
        for step in steps:
            done = ip(*step)
            if done.returncode:
                pytest.skip(f'network namespaces cannot be joined here: ip {" ".join(step)}: {done.stderr.strip()}')
        yield names


def start(node, number, work_dir, processes, options):
    """``tools/dist_train.sh`` on one node, as a cluster starts it."""
    inherited = {k: v for k, v in os.environ.items() if k not in _NOT_INHERITED}
    environment = {
        **inherited,
        'NNODES': '2',
        'NODE_RANK': str(number),
        'MASTER_ADDR': ADDRESSES[0],
        'PORT': '29500',
        'PYTHON': sys.executable,
        'OMP_NUM_THREADS': '1',
    }
    script = [str(ROOT / 'tools' / 'dist_train.sh'), 'configs/vipo_tiny_sd3.py', str(processes)]
    script += ['--work-dir', str(work_dir), '--cfg-options', *(f'{k}={v}' for k, v in options.items())]
    return subprocess.Popen(
        ['ip', 'netns', 'exec', node, *script],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.mark.slow
def test_two_nodes_train_what_one_process_trains(nodes, tmp_path):
    started = [start(node, i, tmp_path / 'nodes', 2, OPTIONS) for i, node in enumerate(nodes)]
    said = [process.communicate(timeout=300)[0] for process in started]
    assert [process.returncode for process in started] == [0, 0], '\n'.join(said)[-6000:]
    assert '4 process(es)' in said[0]
    assert 'node 1 of 2, 2 process(es) here' in said[1]
    run(small_config(tmp_path / 'one', **{k.replace('.', '__'): v for k, v in OPTIONS.items()}))
    ours, theirs = (torch.load(tmp_path / n / 'iter_1.pth', weights_only=True) for n in ('one', 'nodes'))
    for name, tensor in ours['state_dict'].items():
        torch.testing.assert_close(theirs['state_dict'][name], tensor, rtol=0.0, atol=1e-5, msg=name)
