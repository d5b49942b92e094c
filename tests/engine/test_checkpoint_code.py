"""A file that carries code does not execute it, wherever a checkpoint, an adapter or an asset is read."""

import re
import shutil
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.runner import CheckpointLoader
from safetensors.torch import load_file

from tests.engine.conftest import ROOT, run, small_config
from tests.rewards.conftest import Bomb
from tools import export, sample, train, verify_checkpoint
from vipo.assets import resolve
from vipo.engine.checkpoint import load_tensors_only
from vipo.engine.evaluation import Evaluation
from vipo.engine.runner import build_runner
from vipo.engine.verify import inspect
from vipo.generators import SD3Generator
from vipo.registry import ConfigError
from vipo.rewards import HPSReward
from vipo.structurers.backbones import DINOv2Backbone, TimmBackbone

CONFIG = str(ROOT / 'configs' / 'vipo_tiny_sd3.py')


@pytest.fixture(scope='module')
def finished(tmp_path_factory):
    """A run of adapters."""
    folder = tmp_path_factory.mktemp('finished')
    return run(small_config(folder, train_cfg__max_iters=1, evaluation=None, generator__lora__rank=4))


@pytest.fixture
def bomb(tmp_path):
    return Bomb(tmp_path / 'boom')


@pytest.fixture(params=['archive', 'old pickle', 'optimizer'])
def armed(request, finished, bomb, tmp_path):
    """A work dir whose checkpoint is complete, and carries code in one of three places."""
    folder = Path(shutil.copytree(finished.work_dir, tmp_path / 'run'))
    path = folder / 'iter_1.pth'
    content = torch.load(path, weights_only=True)
    place = content['optimizer'] if request.param == 'optimizer' else content
    place['extra'] = bomb
    torch.save(content, path, _use_new_zipfile_serialization=request.param != 'old pickle')
    (folder / 'iter_1.pth.sha256').unlink()
    yield path
    assert not bomb.place.exists(), 'the code in the checkpoint was executed'
    torch.load(path, weights_only=False)
    assert bomb.place.exists(), 'the checkpoint carries no code: the test shows nothing'


def test_code_in_a_checkpoint_is_refused_by_everything_that_reads_one(armed, tmp_path, capsys):
    work_dir, other = str(armed.parent), str(tmp_path / 'other')
    config = str(next(armed.parent.glob('*.py')))
    calls = {
        'resume': lambda: train.main([CONFIG, '--work-dir', work_dir, '--resume']),
        'resume PATH': lambda: train.main([CONFIG, '--work-dir', other, '--resume', str(armed)]),
        'load_from': lambda: train.main([CONFIG, '--work-dir', other, '--cfg-options', f'load_from={armed}']),
        'export': lambda: export.main([str(armed), other]),
        'sample': lambda: sample.main([config, str(armed), '--prompts', 'a red ball', '--out', other]),
        'verify': lambda: verify_checkpoint.main([work_dir]),
    }
    for name, call in calls.items():
        assert call() == (1 if name == 'verify' else 2), name
        said = capsys.readouterr().err
        assert 'more than tensors and plain values (posix.mkdir), which is never executed here' in said, name
        assert 'weights_only' not in said, f'{name}: advice on how to run it'


def test_a_config_inside_a_checkpoint_is_not_run(finished, tmp_path):
    """MMEngine runs ``meta['config']`` of what it resumes as a config file, which is Python."""
    folder = Path(shutil.copytree(finished.work_dir, tmp_path / 'run'))
    path, boom = folder / 'iter_1.pth', tmp_path / 'boom'
    content = torch.load(path, weights_only=True)
    content['meta']['config'] = f"_base_ = []\n__import__('os').mkdir({str(boom)!r})\n"
    torch.save(content, path)
    (folder / 'iter_1.pth.sha256').unlink()
    assert inspect(path).problem is None
    options = {'train_cfg__max_iters': 1, 'evaluation': None, 'generator__lora__rank': 4}
    runner = run(small_config(folder, resume=True, **options))
    assert runner.resumed_from == str(path)
    assert not boom.exists()
    Config.fromstring(content['meta']['config'], file_format='.py')
    assert boom.exists(), 'the text runs where it is taken for a config: the test shows something'


def test_no_address_leads_around_the_loader(tmp_path):
    """MMEngine has loaders of its own for each kind of address, with pickle."""
    addresses = ['http://x/a.pth', 'https://x/a.pth', 's3://x/a.pth', 'petrel://x/a', 'my:s3://x/a', 'pavi://x/a']
    addresses += ['torchvision://resnet18', 'modelzoo://x', 'open-mmlab://x', 'openmmlab://x', 'mmcls://x']
    for address in addresses:
        with pytest.raises(ConfigError, match=re.escape(f'{address!r} does not exist; it must be a file on this')):
            CheckpointLoader.load_checkpoint(address)
    assert set(CheckpointLoader._schemes.values()) == {load_tensors_only}
    with pytest.raises(ConfigError, match='must be a file on this machine'):
        build_runner(small_config(tmp_path, load_from='http://127.0.0.1:1/a.pth'))


def copy_of(asset, tmp_path):
    return Path(shutil.copytree(resolve(f'vipo://{asset}'), tmp_path / asset))


@pytest.mark.parametrize('part', ['transformer', 'vae', 'text_encoder'])
def test_code_in_a_generator_is_not_run(part, bomb, tmp_path):
    folder = copy_of('tiny-sd3', tmp_path)
    (weights,) = (folder / part).glob('*.safetensors')
    name = 'pytorch_model.bin' if part == 'text_encoder' else 'diffusion_pytorch_model.bin'
    torch.save({**load_file(weights), 'extra': bomb}, weights.with_name(name))
    weights.unlink()
    with pytest.raises(Exception, match=r'Weights only load failed|Unable to load weights'):
        SD3Generator(pretrained=str(folder), resolution=64)
    assert not bomb.place.exists()


def test_code_in_a_backbone_is_not_run(bomb, tmp_path, monkeypatch):
    folder = copy_of('tiny-dinov2', tmp_path)
    (weights,) = folder.glob('*.safetensors')
    torch.save({**load_file(weights), 'extra': bomb}, folder / 'pytorch_model.bin')
    weights.unlink()
    with pytest.raises(Exception, match='Weights only load failed'):
        DINOv2Backbone(str(folder))
    # As versions of timm before 1.0.26 do it.
    monkeypatch.setattr('timm.models._builder.load_state_dict', lambda path: torch.load(path, weights_only=False))
    with pytest.raises(ValueError, match='which is never executed here'):
        TimmBackbone('resnet18', checkpoint=str(folder / 'pytorch_model.bin'))
    assert not bomb.place.exists()


def test_code_beside_a_backbone_is_not_run(tmp_path):
    """A folder can name a Python file as the class of its config; nobody is asked whether to run it."""
    (tmp_path / 'config.json').write_text('{"model_type": "mine", "auto_map": {"AutoConfig": "mine.Mine"}}')
    (tmp_path / 'mine.py').write_text(f'import os\nos.mkdir({str(tmp_path / "boom")!r})\n')
    with pytest.raises(ValueError, match='trust_remote_code'):
        DINOv2Backbone(str(tmp_path))
    assert not (tmp_path / 'boom').exists()


def test_code_in_a_reward_is_not_run(bomb, tmp_path):
    torch.save({'state_dict': {}, 'extra': bomb}, tmp_path / 'model.pt')
    with pytest.raises(ValueError):
        HPSReward(checkpoint=str(tmp_path / 'model.pt'))
    assert not bomb.place.exists()


def test_code_in_an_evaluation_is_not_run(bomb, tmp_path):
    import numpy as np

    path = tmp_path / 'iter_0.npz'
    np.savez(path, prompts=np.array([bomb], dtype=object), pixels=np.zeros(1), setup=np.array(''))
    with pytest.raises(ValueError, match='allow_pickle'):
        Evaluation.load(path)
    assert not bomb.place.exists()


def test_code_in_an_adapter_is_not_run_by_what_an_export_says_to_call(finished, bomb, tmp_path):
    from diffusers import StableDiffusion3Pipeline

    assert export.main([f'{finished.work_dir}/iter_1.pth', str(tmp_path / 'out')]) == 0
    (weights,) = (tmp_path / 'out').glob('*.safetensors')
    torch.save({**load_file(weights), 'extra': bomb}, weights.with_suffix('.bin'))
    weights.unlink()
    pipe = StableDiffusion3Pipeline.from_pretrained(resolve('vipo://tiny-sd3'), dtype=torch.float32)
    with pytest.raises(OSError, match='Unable to load weights'):
        pipe.load_lora_weights(tmp_path / 'out')
    assert not bomb.place.exists()
