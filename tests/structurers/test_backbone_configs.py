"""Every shipped structurer is built from its config by the rehearsal twin of its backbone, and makes a map."""

from copy import deepcopy

import pytest
import torch
from mmengine.config import Config

from tests.engine.conftest import ROOT
from tools.train import main
from vipo.registry import STRUCTURERS
from vipo.registry.lookup import component_class
from vipo.rewards import HPSReward
from vipo.structurers.base import bind_reward

FOLDER = ROOT / 'configs' / '_base_' / 'structurers'
NAMES = sorted(p.stem for p in FOLDER.glob('*.py'))
#: What each would load from the hub.
MODELS = {
    'clip_pca': 'openai/clip-vit-large-patch14',
    'dinov2_pca': 'facebook/dinov2-large',
    'dinov2_small_pca': 'facebook/dinov2-small',
    'dinov3_pca': 'facebook/dinov3-vitl16-pretrain-lvd1689m',
    'resnet50_pca': 'timm/resnet50.a1_in1k',
    'reward_tower_pca': None,
    'sam2_pca': 'timm/sam2_hiera_base_plus.fb_r896_2pt1',
    'sam_pca': 'timm/samvit_base_patch16.sa1b',
    'siglip_pca': 'google/siglip2-base-patch16-256',
    'vjepa2_pca': 'facebook/vjepa2-vitl-fpc64-256',
}


def parts(name):
    """The structurer's config, its backbone's class and options."""
    config = Config.fromfile(FOLDER / f'{name}.py').structurer.to_dict()
    options = {k: v for k, v in config['backbone'].items() if k != 'type'}
    return config, component_class(config['backbone']['type']), options


def test_there_are_no_others():
    assert set(NAMES) == set(MODELS)


@pytest.mark.parametrize('name', NAMES)
@pytest.mark.parametrize(('frames', 'latents'), [(1, 1), (5, 2)])
def test_map_by_the_twin(name, frames, latents, tmp_path, normal):
    config, cls, options = parts(name)
    before = deepcopy(options)
    config['backbone'] |= cls.rehearsal(options, tmp_path)
    assert options == before
    structurer = STRUCTURERS.build(config)
    if hasattr(structurer.backbone, 'bind'):
        bind_reward(structurer, HPSReward(checkpoint='vipo://tiny-hps'))
    maps = structurer(normal(2, 3, frames, 64, 80).sigmoid(), (latents, 8, 10))
    assert maps.shape == (2, 1, latents, 8, 10)
    torch.testing.assert_close(maps.mean((1, 2, 3, 4)), torch.ones(2))
    assert (maps.std((1, 2, 3, 4)) > 0.1).all()
    assert structurer.counts['constant'] == structurer.counts['broken'] == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ('job', 'name', 'map_of'),
    [
        ('vipo_flux_hps_lora', 'reward_tower_pca', 'RewardTowerBackbone'),
        ('vipo_wan_videoalign_lora', 'vjepa2_pca', 'VJEPA2Backbone'),
        ('vipo_flux_hps_lora', 'sam2_pca', 'TimmBackbone'),
    ],
)
def test_life_of_a_run(job, name, map_of, tmp_path, capsys):
    config = tmp_path / 'mine.py'
    config.write_text(
        f"""_base_ = ['{ROOT}/configs/{job}.py']
structurer = dict(_delete_=True, **{parts(name)[0]!r})
offload = ['reward', 'map']
"""
    )
    assert main([str(config), '--rehearse', '--work-dir', str(tmp_path / 'out')]) == 0
    assert f'PerceptualStructurer + {map_of} + PCAAllocator' in capsys.readouterr().out


@pytest.mark.parametrize('name', NAMES)
def test_models_and_their_sizes_are_told(name):
    _, cls, options = parts(name)
    told = list(cls.hub_models(options).values()) if hasattr(cls, 'hub_models') else []
    assert told == [MODELS[name]] * (MODELS[name] is not None)
    size = cls.model_bytes(options)
    assert size == 0 if MODELS[name] is None else 80e6 < size < 1.3e9
    if 'dtype' in options:
        assert cls.model_bytes({**options, 'dtype': 'bfloat16'}) * 2 == size
