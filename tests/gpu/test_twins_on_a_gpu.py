"""Every family, backbone and reward by its tiny twin: a GPU gives what the CPU gives, and whole runs work there."""

import pytest
import torch
from mmengine.config import Config

from tests.engine.conftest import ROOT, SMALL
from tests.engine.test_launchers import call
from tools.train import main
from vipo.registry import REWARDS, STRUCTURERS
from vipo.registry.lookup import component_class

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a CUDA device'),
]

BASE = ROOT / 'configs' / '_base_'
#: All but the one that is made of a reward's own tower.
STRUCTURER_NAMES = sorted(p.stem for p in (BASE / 'structurers').glob('*.py') if p.stem != 'reward_tower_pca')
#: Those that compute on the device: a service computes elsewhere, OCR and JPEG on the CPU.
REWARD_NAMES = ['hps', 'hpsv3', 'videoalign', 'pickscore', 'clipscore', 'aesthetic', 'imagereward', 'redness']
JOBS = [
    'vipo_sd35_hps',
    'vipo_flux_hps_lora',
    'vipo_wan_videoalign',
    'vipo_wan22_videoalign',
    'vipo_hunyuan_videoalign',
]


def twin(kind, name, folder):
    """The section of a config, of tiny twins."""
    section = Config.fromfile(BASE / f'{kind}s' / f'{name}.py')[kind].to_dict()
    made = section['backbone'] if kind == 'structurer' else section
    cls = component_class(made['type'])
    if hasattr(cls, 'rehearsal'):
        made |= cls.rehearsal({k: v for k, v in made.items() if k != 'type'}, folder)
    return section


def on_both(build, call):
    """What a component gives on the CPU and on the GPU, both on the CPU."""
    results = []
    for device in ('cpu', 'cuda'):
        part = build()
        part.to(device)
        results.append(call(part, device))
    assert results[1].is_cuda
    return results[0], results[1].cpu()


@pytest.fixture(autouse=True)
def exact():
    """Convolutions in float32, as on the CPU; a run may have them in TF32."""
    before, torch.backends.cudnn.allow_tf32 = torch.backends.cudnn.allow_tf32, False
    yield
    torch.backends.cudnn.allow_tf32 = before


@pytest.mark.parametrize('name', STRUCTURER_NAMES)
def test_map_is_that_of_the_cpu(name, tmp_path, normal):
    section = twin('structurer', name, tmp_path)
    pixels = normal(2, 3, 5, 64, 80).sigmoid()
    here, there = on_both(
        lambda: STRUCTURERS.build(section), lambda part, device: part(pixels.to(device), (2, 8, 10)).float()
    )
    assert here.std() > 0.1
    torch.testing.assert_close(there, here, atol=2e-2, rtol=0)


@pytest.mark.parametrize('name', REWARD_NAMES)
def test_score_is_that_of_the_cpu(name, tmp_path, normal):
    section = twin('reward', name, tmp_path)
    clips = name == 'videoalign'
    pixels = (normal(3, 3, 9 if clips else 1, 60, 100).sigmoid() * 255).round() / 255
    prompts = ['a small red circle', 'a large blue square above a ring', 'Ein Zug fährt durch den Schnee']

    def score(part, device):
        out = part(pixels.to(device), prompts)
        assert out.valid.all()
        return out.scores

    here, there = on_both(lambda: REWARDS.build(section), score)
    assert here.std() > 0
    torch.testing.assert_close(there, here, atol=2e-3, rtol=2e-3)


@pytest.mark.parametrize('name', JOBS)
def test_job_is_rehearsed(name, tmp_path, capsys):
    """Two iterations, an evaluation, checkpoints, a resumption that ends with the same weights, an export."""
    assert main([str(ROOT / 'configs' / f'{name}.py'), '--rehearse', '--work-dir', str(tmp_path)]) == 0
    said = capsys.readouterr().out
    for words in ('the same weights, bit for bit', 'first ratios were 1', 'the same velocity within'):
        assert words in said


def test_processes_talk_over_nccl(tmp_path):
    """One process per GPU, as on a cluster: DDP and its checks of equal weights."""
    options = {**SMALL, 'strategy.type': 'DDP', 'evaluation': None, 'train_cfg.max_iters': 2}
    gpus = torch.cuda.device_count()
    chosen = ['--cfg-options', *(f'{k}={v}' for k, v in options.items())]
    code, said = call('dist_train.sh', 'configs/vipo_tiny_sd3.py', gpus, '--work-dir', tmp_path / 'run', *chosen)
    assert code == 0, said[-3000:]
    assert (tmp_path / 'run' / 'iter_2.pth').exists()
    assert gpus == 1 or 'nccl' in said, 'one process says nothing of how it talks'
