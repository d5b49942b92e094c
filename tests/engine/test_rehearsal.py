"""Every shipped config is rehearsed, and what is wrong with one shows in a rehearsal."""

import json
import time

import pytest
import torch

from tests.engine.conftest import ROOT
from tools.train import load_config, main, parse_args
from vipo.comparison.groups import flat
from vipo.engine.rehearsal import check_export, rehearsed
from vipo.engine.scoring import RunStopped
from vipo.generators import FluxGenerator
from vipo.generators.twins import save_twin
from vipo.registry import ConfigError

CONFIGS = sorted(p.stem for p in (ROOT / 'configs').glob('*.py'))
#: What the table of a config says of the model at full size. FLUX.1-dev has 19 joint blocks with 12 adapted layers and
#: 38 single ones with 3.
COUNTED = {'vipo_flux_hps_lora': (f'adapters on {19 * 12 + 38 * 3} layers', '15 layers of transformer')}
#: Baselines, and the paper's way of a config -> what they differ from. One of each kind is rehearsed.
DERIVED = {name: f'vipo_{name[5:]}' for name in CONFIGS if name.startswith('grpo_') and name != 'grpo_flux_hps'}
DERIVED['vipo_wan_videoalign_paper'] = 'vipo_wan_videoalign'


def path(name):
    return str(ROOT / 'configs' / f'{name}.py')


def test_there_are_configs():
    assert {'vipo_tiny_sd3', 'vipo_flux_hps', 'grpo_flux_hps', 'vipo_flux_hps_lora'} <= set(CONFIGS)


@pytest.mark.parametrize('name', DERIVED)
def test_config_differs_from_a_rehearsed_one_in_map_and_loss_alone(name):
    assert DERIVED[name] in CONFIGS and DERIVED[name] not in DERIVED
    own, other = (flat(load_config(parse_args([path(n)]))) for n in (name, DERIVED[name]))
    changed = {key for key in own.keys() | other.keys() if own.get(key) != other.get(key)}
    assert changed
    assert {key.partition('.')[0] for key in changed} <= {'structurer', 'loss', 'ema'}, changed


@pytest.mark.slow
@pytest.mark.parametrize('name', [name for name in CONFIGS if name not in DERIVED])
def test_shipped_config_is_rehearsed(name, tmp_path, capsys):
    began = time.monotonic()  # the program counts from its own start, which here is that of all tests
    assert main([path(name), '--rehearse', '--work-dir', str(tmp_path)]) == 0
    assert time.monotonic() - began < 120
    said = capsys.readouterr().out
    expected = ('at full size', 'the same weights, bit for bit', 'first ratios were 1', 'the same velocity within')
    for words in ('rehearsed in', *expected, *COUNTED.get(name, ())):
        assert words in said
    summary = json.loads((tmp_path / 'run' / 'summary.json').read_text())
    assert summary['iterations'] == 2
    first, last = (torch.load(tmp_path / 'run' / f'iter_{i}.pth', weights_only=True)['state_dict'] for i in (1, 2))
    assert any(not torch.equal(first[k], last[k]) for k in first), 'the second iteration moved nothing'
    assert list((tmp_path / 'export').rglob('*.safetensors'))


def test_export_that_is_not_what_was_trained_is_noticed(tmp_path):
    folder = save_twin('flux', tmp_path / 'twin')
    generator = FluxGenerator(folder, resolution=32, max_sequence_length=16, lora={'rank': 4})
    with torch.no_grad():
        for parameter in generator.trainable_parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    generator.save_pretrained(tmp_path / 'good')
    assert check_export(generator, tmp_path / 'good') < 1e-4
    with torch.no_grad():
        generator.trainable_parameters()[1].add_(0.1)
    with pytest.raises(RunStopped, match='other velocities in plain diffusers'):
        check_export(generator, tmp_path / 'good')


@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
def test_export_that_holds_nothing_is_noticed(tmp_path, dtype):
    """Rounding under autocast must not hide that the adapters are missing."""
    generator = FluxGenerator(
        save_twin('flux', tmp_path / 'twin'), resolution=32, max_sequence_length=16, lora={'rank': 4}, dtype=dtype
    )
    generator.save_pretrained(tmp_path / 'empty')
    with torch.no_grad():
        for parameter in generator.trainable_parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    generator.save_pretrained(tmp_path / 'good')
    check_export(generator, tmp_path / 'good')
    with pytest.raises(RunStopped, match='where training moved them by'):
        check_export(generator, tmp_path / 'empty')


def brightness(pixels, prompts, metadata):
    """A reward of somebody's own, over all frames of a clip."""
    assert pixels.shape[2] == 5
    return pixels.mean((1, 2, 3, 4)).tolist()


@pytest.mark.slow
def test_own_config_of_a_video_model_is_rehearsed(tmp_path, capsys):
    """Of the parts that are shipped, with a reward of one's own."""
    parts = ('runtime', 'policy_video', 'generators/hunyuan_video', 'structurers/dinov2_pca')
    config = tmp_path / 'mine.py'
    config.write_text(
        f"""_base_ = {[f'{ROOT}/configs/_base_/{part}.py' for part in parts]}
reward = dict(type='FunctionReward', function='{__name__}.brightness')
rollout = dict(
    num_steps=16, kernel=dict(type='DanceKernel', eta=0.25), selector=dict(type='RandomFraction', fraction=0.6),
)
batch = dict(prompts_per_iteration=16, group_size=8, micro_batch_size=1)
"""
    )
    assert main([str(config), '--rehearse', '--work-dir', str(tmp_path / 'out')]) == 0
    said = capsys.readouterr().out
    assert 'parameters of hunyuanvideo-community/HunyuanVideo, adapters on' in said
    assert ', 2, ' in said, 'two latent frames'
    assert json.loads((tmp_path / 'out' / 'run' / 'summary.json').read_text())['iterations'] == 2
    assert list((tmp_path / 'out' / 'export').rglob('pytorch_lora_weights.safetensors'))


@pytest.mark.parametrize(
    ('name', 'options', 'words'),
    [
        ('vipo_flux_hps', {'reward.type': 'HSPReward'}, ["config key 'reward'", "Did you mean 'HPSReward'"]),
        ('vipo_flux_hps_lora', {'generator.lora.targets': ['attn.to_z']}, ["'attn.to_z' matches no linear layer"]),
        ('vipo_flux_hps', {'generator.resolution': 500}, ['generator.resolution 500x500', 'multiples of 16']),
        ('vipo_flux_hps', {'generator.attention': 'flsh'}, ["no backend 'flsh'"]),
        ('vipo_flux_hps', {'generator.decode_tile': 512}, ['generator.decode_tile=512 changes nothing']),
        ('vipo_flux_hps', {'generator.resolutoin': 512}, ["Did you mean 'resolution'"]),
        ('vipo_flux_hps', {'batch.group_size': 1}, ['batch.group_size is 1']),
        ('vipo_flux_hps', {'rollout.num_steps': 1}, ['nothing to train']),
    ],
)
def test_mistake_shows_in_a_rehearsal(name, options, words, tmp_path, capsys):
    given = [f'{k}={v}' for k, v in options.items()]
    assert main([path(name), '--rehearse', '--work-dir', str(tmp_path), '--cfg-options', *given]) == 2
    said = capsys.readouterr().err
    for word in words:
        assert word in said


def test_rehearsal_leaves_a_folder_that_is_in_use_alone(tmp_path, capsys):
    (tmp_path / 'precious').touch()
    assert main([path('vipo_flux_hps'), '--rehearse', '--work-dir', str(tmp_path)]) == 2
    assert 'is not empty' in capsys.readouterr().err


def test_config_itself_is_not_changed(tmp_path):
    cfg = load_config(parse_args([path('vipo_flux_hps')]))
    before = cfg.pretty_text
    small = rehearsed(cfg, tmp_path)
    assert cfg.pretty_text == before
    assert small.generator.pretrained != cfg.generator.pretrained
    assert small.rollout.kernel == cfg.rollout.kernel
    with pytest.raises(ConfigError, match='does not fit'):
        cfg.rollout.selector = {'type': 'Window', 'size': 20}
        rehearsed(cfg, tmp_path / 'again')


@pytest.mark.parametrize(
    ('name', 'options'),
    [
        # Larger than the twin can place, and a block that the twin does not have.
        ('vipo_sd35_hps', {'generator.resolution': 2048}),
        ('vipo_flux_hps_lora', {'generator.lora.targets': ['transformer_blocks.7.attn.to_q']}),
    ],
)
def test_what_fits_the_real_model_alone_is_accepted(name, options, tmp_path):
    given = [f'{k}={v}' for k, v in options.items()]
    cfg = load_config(parse_args([path(name), '--cfg-options', *given]))
    small = rehearsed(cfg, tmp_path)
    assert small.generator.resolution == (64, 64)
    assert 'targets' not in small.generator.lora
    assert small.generator.lora.rank == cfg.generator.lora.rank


@pytest.mark.slow
def test_rewards_of_other_processes_are_rehearsed_without_them(tmp_path, capsys):
    """Their servers are not there; the table says that they were not asked."""
    config = tmp_path / 'mine.py'
    config.write_text(
        f"""_base_ = ['{ROOT}/configs/vipo_tiny_sd3.py']
reward = dict(_delete_=True, type='RemoteReward', url=['http://gpu-1:8321', 'http://gpu-2:8321'], batch_size=3)
eval_rewards = dict(_delete_=True, written=dict(
    type='JudgeReward', url='http://gpu-3:8000/v1', model='judge', key_variable='NOT_SET_ANYWHERE',
    template='Rate this picture of {{prompt}}.', patterns=dict(rating=r'Rating: ([0-9.]+)'), low=1, high=5,
    example='Rating: 3.5',
))
"""
    )
    assert main([str(config), '--rehearse', '--work-dir', str(tmp_path / 'out')]) == 0
    said = capsys.readouterr().out
    assert 'RemoteReward, JudgeReward' in said
    assert 'not rehearsed  reward: a local stand-in answered in place of the server' in said
    assert 'not rehearsed  eval_rewards.written: a local stand-in answered in place of the judge' in said
    summary = json.loads((tmp_path / 'out' / 'run' / 'summary.json').read_text())
    assert summary['iterations'] == 2


@pytest.mark.parametrize(('tile', 'size', 'small'), [(None, (64, 64), None), (256, (128, 128), 64)])
def test_what_is_decoded_in_tiles_is_rehearsed_in_tiles(tile, size, small, tmp_path):
    cfg = load_config(parse_args([path('vipo_flux_hps'), '--cfg-options', f'generator.decode_tile={tile}']))
    generator = rehearsed(cfg, tmp_path).generator
    assert (generator.resolution, generator.decode_tile) == (size, small)
