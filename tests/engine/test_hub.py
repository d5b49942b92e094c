"""A config whose models cannot be had stops in seconds and names the ways out."""

import time

import pytest
from huggingface_hub import HfApi, constants
from huggingface_hub.errors import GatedRepoError

from tests.engine.conftest import ROOT
from tools.train import load_config, main, parse_args
from vipo.engine import hub
from vipo.registry.lookup import component_class

FLAGSHIP = str(ROOT / 'configs' / 'vipo_flux_hps.py')


def test_embedded_models_need_no_hub():
    cfg = load_config(parse_args([str(ROOT / 'configs' / 'vipo_tiny_sd3.py')]))
    assert [n[:3] for n in hub.needed(cfg)] == []


def test_models_of_a_config_with_their_keys(tmp_path):
    cfg = load_config(parse_args([FLAGSHIP]))
    assert [n[:3] for n in hub.needed(cfg)] == [
        ('generator.pretrained', 'black-forest-labs/FLUX.1-dev', None),
        ('reward.checkpoint', 'xswu/HPSv2', ['HPS_v2.1_compressed.pt']),
        ('structurer.backbone.pretrained', 'facebook/dinov2-large', None),
    ]
    cfg.generator.pretrained = str(tmp_path)
    cfg.reward.checkpoint = str(tmp_path / 'hps.pt')
    assert [n[:3] for n in hub.needed(cfg)] == [('structurer.backbone.pretrained', 'facebook/dinov2-large', None)]


def test_flagship_without_the_hub(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(constants, 'HF_HUB_OFFLINE', True)
    began = time.perf_counter()
    assert main([FLAGSHIP, '--work-dir', str(tmp_path / 'run')]) == 2
    assert time.perf_counter() - began < 30
    said = capsys.readouterr().err
    for words in (
        'black-forest-labs/FLUX.1-dev, for generator.pretrained',
        'xswu/HPSv2, for reward.checkpoint',
        'facebook/dinov2-large, for structurer.backbone.pretrained',
        '--cfg-options generator.pretrained=/path/to/it',
        'add --rehearse',
    ):
        assert words in said
    assert 'Traceback' not in said
    assert not (tmp_path / 'run').exists()


def test_gated_model_says_where_to_accept_its_licence(monkeypatch):
    class Response:
        headers, status_code, text, request = {}, 403, '', None

    def refuse(self, repo_id, **_):
        if 'FLUX' in repo_id:
            raise GatedRepoError('gated', response=Response())
        if 'HPS' in repo_id:
            raise ConnectionError('no route')

    monkeypatch.setattr(HfApi, 'auth_check', refuse)
    monkeypatch.setattr(constants, 'HF_HUB_OFFLINE', False)
    cfg = load_config(parse_args([FLAGSHIP]))
    with pytest.raises(hub.ConfigError) as raised:
        hub.check_reach(cfg)
    said = str(raised.value)
    assert 'accept its licence at https://huggingface.co/black-forest-labs/FLUX.1-dev' in said
    assert 'xswu/HPSv2, for reward.checkpoint: the hub cannot be reached (ConnectionError)' in said
    assert 'dinov2' not in said, 'that one can be fetched'


def test_missing_instruction_text_is_named_with_the_missing_models(monkeypatch, tmp_path):
    """Not after 20 GB have been fetched."""
    monkeypatch.setattr(constants, 'HF_HUB_OFFLINE', True)
    cfg = load_config(parse_args([str(ROOT / 'configs' / 'vipo_wan_videoalign.py')]))
    with pytest.raises(
        hub.ConfigError, match=r'(?s)VideoReward, for reward.checkpoint.*prompt_template.py.* is no file'
    ):
        hub.check_reach(cfg)
    (tmp_path / 'text.txt').write_text('judge {text_prompt}')
    cfg.reward.update(template=str(tmp_path / 'text.txt'), template_sha256=None)
    with pytest.raises(hub.ConfigError) as raised:
        hub.check_reach(cfg)
    assert 'template' not in str(raised.value)


def test_missing_instruction_text_stops_where_all_models_are_here():
    cfg = load_config(parse_args([str(ROOT / 'configs' / 'vipo_tiny_sd3.py')]))
    cfg.eval_rewards = {'late': {'type': 'HPSv3Reward', 'checkpoint': str(ROOT), 'tokenizer': str(ROOT)}}
    with pytest.raises(hub.ConfigError, match=r'^eval_rewards.late.template is not given') as raised:
        hub.check_reach(cfg)
    assert 'name the file in eval_rewards.late.template;' in str(raised.value)
    assert str(raised.value).endswith('add --rehearse')


def test_a_part_that_names_no_key_of_its_own_gets_it_named(monkeypatch):
    """And a file that is called like a key keeps its name."""

    def refuse(cls, options):
        raise ValueError('/data/reward.txt is no file')

    cfg = load_config(parse_args([str(ROOT / 'configs' / 'vipo_tiny_sd3.py')]))
    monkeypatch.setattr(component_class(cfg.structurer.type), 'check_files', classmethod(refuse), raising=False)
    with pytest.raises(hub.ConfigError, match=r'^structurer: /data/reward.txt is no file'):
        hub.check_reach(cfg)
