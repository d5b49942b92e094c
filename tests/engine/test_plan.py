"""What is counted on tensors without contents is what the same model takes with contents."""

import shutil
from copy import deepcopy

import pytest
import torch
from mmengine.config import Config
from torch.utils.flop_counter import FlopCounterMode

from tests.engine.conftest import ROOT
from tests.generators.families import FAMILIES, start
from tools import plan as command
from vipo.engine.config import override, read_config
from vipo.engine.measure import PeakMemory, measure_pass
from vipo.engine.plan import adapter_parameters, find_remedy, make_plan
from vipo.generators.source import count_stored
from vipo.generators.twins import build_twin, save_twin


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp('plan')
    return lambda name: save_twin(name, root / name)


def test_peak_memory_by_hand():
    with torch.no_grad(), PeakMemory() as memory:
        x = torch.zeros(1000, 1000)  # 4 MB
        y = x * 2  # 8 MB
        del x  # 4 MB
        z = y.view(-1) + 1  # 8 MB; the view is no memory of its own
        w = torch.cat([y.view(-1), z])  # 16 MB
        del y, z
        w.add_(1)
    assert memory.peak == 16_000_000
    assert memory.now == 8_000_000


@pytest.mark.parametrize('name', FAMILIES)
def test_pass_of_a_twin_is_counted_as_it_runs(name, folder):
    """Operations and saved bytes of real weights and real tensors, counted by hooks of the test's own."""
    family = FAMILIES[name]
    real = family.build(folder(family.twin), **family.guided)
    saved: dict[int, int] = {}
    kept = []
    weights = {p.data_ptr() for p in real.denoiser.parameters()}

    def pack(t):
        kept.append(t)
        if t.untyped_storage().data_ptr() not in weights:
            saved[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
        return t

    noise, conditioning = start(real), real.encode(['a', 'b'])
    with FlopCounterMode(display=False) as flops, torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        v = real.velocity(noise, 0.95, conditioning)
        forward = flops.get_total_flops()
        v.square().mean().backward()
    empty = family.build(folder(family.twin), **family.guided, init='meta')
    cost = measure_pass(empty, 2, None)
    assert cost.forward_flops == forward
    assert cost.backward_flops == flops.get_total_flops() - forward
    assert cost.saved == pytest.approx(sum(saved.values()), rel=0.05)
    assert 0 < cost.saved_checkpointed < cost.saved
    assert 0 < cost.forward_peak < cost.saved
    assert cost.decode_peak > 0


@pytest.mark.parametrize('name', FAMILIES)
def test_adapters_are_counted_without_making_them(name, folder):
    family = FAMILIES[name]
    lora = {'rank': 4}
    real = family.build(folder(family.twin), lora=lora)
    empty = family.build(folder(family.twin), lora=lora, init='meta')
    assert adapter_parameters(empty, lora) == sum(p.numel() for p in real.trainable_parameters())


def twin_config(folder, **options) -> Config:
    """The main job on the twin of Stable Diffusion 3.5, whose window always begins at step 2."""
    cfg = read_config(ROOT / 'configs' / 'vipo_tiny_sd3.py')
    window = {'rollout.selector.first': 2, 'rollout.selector.last': 3}
    override(cfg, {'generator.pretrained': folder('sd3'), **window, **options})
    return cfg


def test_plan_by_hand(folder):
    cfg = twin_config(folder)
    plan = make_plan(cfg, gpus=2)
    # 12 prompts of 12 samples on two GPUs; 6 steps, of which 2 are common to a group and 2 are trained.
    assert plan.counts == {
        'samples': 72,
        'forward passes in rollout': 72 * 4 + 6 * 2,
        'forward and backward passes in update': 72 * 2,
        'forward passes of the reference': 0,
        'forward passes for old log-probs': 0,
    }
    family = FAMILIES['sd3']
    parameters = sum(p.numel() for p in family.build(folder('sd3')).denoiser.parameters())
    update = plan.phases['update']
    assert update['weights'] == update['gradients'] == update['EMA'] == update['DDP buckets'] == 4 * parameters
    assert update['Adam'] == 8 * parameters
    # The sample, and two states of two trained transitions, float32, 16 x 8 x 8 latents.
    assert update['kept latents'] == 72 * 5 * 4 * 16 * 8 * 8
    assert plan.phases['rollout']['kept latents'] == 2 * update['kept latents']
    # 6 prompts, each encoded once: 77 + 16 tokens of 32 numbers, and 64 pooled ones, or what this twin has.
    shapes = family.build(folder('sd3')).text_shapes()
    assert update['encoded prompts'] == 6 * 4 * sum(torch.Size(s).numel() for s in shapes.values())
    assert plan.phases['optimiser step']['temporaries of AdamW'] == 4 * parameters
    assert plan.phases['evaluation']['weights set aside for EMA'] == 4 * parameters
    sharded = make_plan(cfg, gpus=2, strategy='fsdp2').phases['update']
    assert sharded['weights'] == sharded['gradients'] == 2 * parameters
    assert sharded['DDP buckets'] == 0
    # float32 everywhere: what is gathered for a whole rollout are all weights.
    rollout = make_plan(cfg, gpus=2, strategy='fsdp2').phases['rollout']
    assert rollout['weights'] + rollout['gathered weights'] == 6 * parameters
    assert 0 < sharded['gathered weights'] <= 4 * parameters
    changed = deepcopy(cfg)
    changed.strategy = {'type': 'FSDP2', 'keep_in_rollout': False, 'reshard_after_forward': False, 'cpu_offload': True}
    other = make_plan(changed, gpus=2, strategy='fsdp2').phases
    assert other['rollout']['gathered weights'] == sharded['gathered weights']
    assert other['update']['gathered weights'] == 4 * parameters
    assert other['update']['weights'] == other['update']['gradients'] == other['update']['Adam'] == 0
    assert make_plan(changed, gpus=2).phases['update'] == {**update}, 'DDP has no such options'
    override(cfg, {'loss.kl_weight': 0.1})
    assert make_plan(cfg, gpus=2).counts['forward passes of the reference'] == 72 * 2
    override(cfg, {'generator.gradient_checkpointing': True})
    checkpointed = make_plan(cfg, gpus=2)
    assert checkpointed.phases['update']['activations'] == plan.activations['with'] < update['activations']
    assert plan.activations == checkpointed.activations
    assert plan.activations['without'] == update['activations']


@pytest.mark.parametrize(('dtype', 'width'), [('float32', 4), ('bfloat16', 2)])
@pytest.mark.parametrize('name', ['sd3', 'flux', 'wan21', 'hunyuan_video'])
def test_text_encoders_of_a_local_folder_are_counted(name, dtype, width, folder):
    """What the loaded encoders hold; with a cache of prompts they leave memory."""
    family = FAMILIES[name]
    pipe = family.build(folder(family.twin)).pipe
    real = sum(p.numel() for n in family.adapter.text_encoders for p in getattr(pipe, n).parameters())
    cfg = twin_config(folder)
    cfg.generator = {'type': family.adapter.__name__, 'pretrained': folder(family.twin), 'dtype': dtype}
    cfg.generator |= {'max_sequence_length': 16, **family.options}
    plan = make_plan(cfg, gpus=1)
    assert plan.phases['rollout']['text encoders'] == real * width
    assert not any('text encoders' in note for note in plan.notes)
    cfg.generator.prompt_cache = 'somewhere'
    assert make_plan(cfg, gpus=1).phases['rollout'].get('text encoders', 0) == 0


def test_text_encoders_in_several_files(tmp_path):
    """Their headers give the same count, and so does the index of files that are not there."""
    encoder = build_twin('sd3').text_encoder_3
    real = sum(p.numel() for p in encoder.parameters())
    encoder.save_pretrained(tmp_path / 'whole')
    encoder.to(torch.bfloat16).save_pretrained(tmp_path / 'parts', max_shard_size='20KB')
    shards = list((tmp_path / 'parts').glob('*.safetensors'))
    assert len(shards) > 2
    assert count_stored(tmp_path / 'whole') == count_stored(tmp_path / 'parts') == real
    for shard in shards:
        shard.unlink()
    assert count_stored(tmp_path / 'parts') == real
    (tmp_path / 'parts' / 'model.safetensors.index.json').unlink()
    assert count_stored(tmp_path / 'parts') is None


def test_text_encoders_that_cannot_be_counted_are_noted(folder, tmp_path):
    shutil.copytree(folder('sd3'), tmp_path / 'sd3')
    (tmp_path / 'sd3' / 'text_encoder_2' / 'model.safetensors').unlink()
    plan = make_plan(twin_config(lambda _: str(tmp_path / 'sd3')), gpus=1)
    assert plan.phases['rollout']['text encoders'] == 0
    assert any('text encoders are not counted' in note for note in plan.notes)


@pytest.mark.slow
def test_remedy_is_the_smallest_that_fits(folder):
    cfg = twin_config(folder)
    full = make_plan(cfg, gpus=1)
    assert find_remedy(cfg, 1, full.peak - 1) == 'batch.micro_batch_size=1'
    override(cfg, {'batch.micro_batch_size': 1})
    # nothing that is still open but the text encoders is at work in the phase that takes most
    assert find_remedy(cfg, 1, make_plan(cfg, gpus=1).peak - 1) == 'generator.prompt_cache=FOLDER'
    assert find_remedy(cfg, 1, 1) is None


def test_what_is_watched_is_offloaded_by_its_own_name(folder):
    cfg = twin_config(folder)
    cfg.reward = {'type': 'HPSReward'}
    cfg.eval_rewards = {'pick': {'type': 'PickScoreReward'}}
    whole = make_plan(cfg, gpus=1).phases['update']
    assert whole['rewards'] == whole['eval rewards'] == 986_000_000 * 4
    cfg.offload = ['eval_rewards']
    away = make_plan(cfg, gpus=1).phases['update']
    assert (away['rewards'], away['eval rewards']) == (whole['rewards'], 0)


def test_replay_of_another_size_and_adapters_in_half_precision(folder):
    """By hand: a base of 2 bytes a weight beside adapters of 4, and old log-probs computed again."""
    options = {'generator.lora.rank': 4, 'generator.dtype': 'bfloat16', 'batch.micro_batch_size': 4}
    plan = make_plan(twin_config(folder, **options), gpus=1)
    real = FAMILIES['sd3'].build(folder('sd3'), lora={'rank': 4})
    trained = sum(p.numel() for p in real.trainable_parameters())
    base = sum(p.numel() for p in real.denoiser.parameters()) - trained
    assert plan.phases['update']['weights'] == 2 * base
    assert plan.phases['update']['LoRA'] == 4 * trained
    assert plan.phases['update']['gradients'] == 4 * trained
    assert plan.phases['update']['autocast copies'] == 2 * trained
    large = make_plan(twin_config(folder, **options, **{'batch.replay_micro_batch_size': 36}), gpus=1)
    assert large.phases['update']['activations'] > 8 * plan.phases['update']['activations']
    assert large.counts['forward passes for old log-probs'] == 144 * 2
    assert large.flops > plan.flops


@pytest.mark.slow
def test_command_on_the_flagship(tmp_path, capsys):
    """12 billion weights with float32 masters are 48 GB, their Adam moments 95 GB."""
    config = str(ROOT / 'configs' / 'vipo_flux_hps.py')
    assert command.main([config, '--gpus', '8', '--gpu-memory', '80', '--json', str(tmp_path / 'plan.json')]) == 0
    said = capsys.readouterr().out
    assert 'does NOT fit in 80 GB' in said
    assert '47.61' in said
    assert '95.21' in said
    assert 'it would fit with generator.lora.rank=64' in said
    assert (tmp_path / 'plan.json').exists()
