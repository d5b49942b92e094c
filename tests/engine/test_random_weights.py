"""The loop at published sizes without weights, as a GPU of anyone's measures it."""

import json

import pytest
from transformers import Dinov2Model

from tests.engine.conftest import ROOT, SMALL
from tools import benchmark
from tools.benchmarks.random_weights import random_dinov2, randomize
from vipo.engine.config import read_config
from vipo.registry import ConfigError


def test_sizes_are_the_published_ones(tmp_path):
    """facebook/dinov2-small has 22,056,576 parameters."""
    model = Dinov2Model.from_pretrained(random_dinov2('small', tmp_path / 'backbone'))
    assert sum(p.numel() for p in model.parameters()) == 22_056_576
    assert model.embeddings.patch_embeddings.projection.weight.std() > 0


@pytest.mark.slow
def test_loop_at_random(tmp_path, capsys):
    small = [f'{key}={value}' for key, value in SMALL.items() if not key.startswith(('evaluation', 'train_cfg'))]
    options = [*small, 'structurer.backbone.pretrained=facebook/dinov2-small']
    out = tmp_path / 'figures.json'
    config = str(ROOT / 'configs' / 'vipo_tiny_sd3.py')
    benchmark.main(['loop', config, '--random', '--iterations', '1', '--out', str(out), '--cfg-options', *options])
    figures = json.loads(out.read_text())
    assert 'of it the map stage' in capsys.readouterr().out
    assert 0 < figures['backbone'] < figures['of it the map stage'] < figures['total']
    parts = [v for k, v in figures.items() if k not in ('total', 'of it the map stage')]
    assert sum(parts) == pytest.approx(figures['total'])


@pytest.mark.parametrize('name', ['vipo_flux_hps_lora', 'vipo_wan_videoalign_lora', 'grpo_flux_hps_lora'])
def test_configs_of_full_size_take_random_weights(name, tmp_path, monkeypatch):
    monkeypatch.setattr(
        'tools.benchmarks.random_weights.random_dinov2', lambda size, folder: f'{size} in {folder.name}'
    )
    cfg = read_config(ROOT / 'configs' / f'{name}.py')
    randomize(cfg, tmp_path)
    assert cfg.generator.init == 'random'
    assert cfg.reward.type == 'RednessReward'
    assert 'combine' not in cfg.advantage
    if name.startswith('vipo'):
        assert cfg.structurer.backbone.pretrained == 'large in backbone'


def test_other_backbones_are_refused(tmp_path):
    cfg = read_config(ROOT / 'configs' / 'vipo_tiny_sd3.py')
    with pytest.raises(ConfigError, match='DINOv2Backbone of facebook/dinov2-small'):
        randomize(cfg, tmp_path)
