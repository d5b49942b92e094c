"""Two processes over gloo: weights that drift apart, folders that are not shared, a model of two networks."""

import re
from functools import partial

import pytest
import torch

from tests.engine.conftest import ROOT, SMALL
from tests.engine.launch import launch as launch_with
from vipo.generators.twins import save_twin

OPTIONS = {**SMALL, 'batch.updates_per_iteration': 1}
launch = partial(launch_with, options=OPTIONS)


@pytest.mark.slow
def test_ranks_that_drift_apart_stop(tmp_path):
    """A user's hook moves one weight of one rank; every ratio there still is 1, so nothing else would notice."""
    (tmp_path / 'drift.py').write_text(
        'from mmengine.dist import get_rank\n'
        'from mmengine.hooks import Hook\n'
        'class Drift(Hook):\n'
        '    def before_train(self, runner):\n'
        '        if get_rank() == 1:\n'
        '            next(p for p in runner.model.parameters() if p.requires_grad).data.view(-1)[0] += 1e-3\n'
    )
    config = tmp_path / 'drifting.py'
    config.write_text(f"_base_ = ['{ROOT}/configs/vipo_tiny_sd3.py']\ncustom_hooks = [dict(type='drift.Drift')]\n")
    code, said = launch(config, '--work-dir', str(tmp_path / 'run'))
    assert code != 0
    message = r'on rank\(s\) \[1\] differ from those on rank 0 after iteration 1: 1 of \d+ tensors, the first '
    assert re.search(message + r'is denoiser\.\w', said), said[-3000:]
    assert not list((tmp_path / 'run').glob('iter_*.pth'))


@pytest.mark.slow
def test_ranks_that_see_other_checkpoints_do_not_start(tmp_path):
    """As on two nodes whose work dirs are not shared: the second would begin again while the first goes on."""
    base = f"_base_ = ['{ROOT}/configs/vipo_tiny_sd3.py']\n"
    (tmp_path / 'one').mkdir()
    torch.save({'meta': {'seed': 0}}, tmp_path / 'one' / 'iter_2.pth')
    config = tmp_path / 'apart.py'
    config.write_text(
        base + f"import os\nwork_dir = '{tmp_path}/' + ('one' if os.environ['RANK'] == '0' else 'two')\ndel os\n"
    )
    code, said = launch(config, '--resume')
    assert code != 0
    assert "do not see the same checkpoint to resume (['iter_2.pth', None], by rank)" in said


@pytest.mark.slow
def test_two_processes_train_a_model_of_two_networks(tmp_path):
    """A window of steps lies within one of Wan 2.2's transformers; the other one's weights get no gradient."""
    config = tmp_path / 'wan22.py'
    config.write_text(
        f"""_base_ = ['{ROOT}/configs/vipo_tiny_sd3.py']
generator = dict(
    _delete_=True, type='WanGenerator', pretrained='{save_twin('wan22', tmp_path / 'twin')}', resolution=(64, 64),
    num_frames=1, guidance_scale=1.0, max_sequence_length=16, lora=dict(rank=2),
)
"""
    )
    code, said = launch(config, '--work-dir', str(tmp_path / 'run'))
    assert code == 0, said[-3000:]
    assert (tmp_path / 'run' / 'iter_2.pth').exists()
