"""Where the map applies, in the loop: on the advantage, on the reward, from the reward, signed."""

from pathlib import Path

import pytest
import torch

from tests.engine.conftest import history, run, small_config, weights
from vipo.engine.loop import PolicyLoop
from vipo.engine.runner import build_runner
from vipo.engine.scoring import RunStopped
from vipo.registry import ConfigError


@pytest.fixture
def collected(monkeypatch):
    """The samples of every iteration."""
    seen, collect = [], PolicyLoop.collect
    monkeypatch.setattr(PolicyLoop, 'collect', lambda self, batch: seen.append(collect(self, batch)) or seen[-1])
    return seen


def test_map_on_the_reward(cfg, collected):
    runner = run(cfg(train_cfg__max_iters=1, advantage__map_on='reward', advantage__eps=0.0, evaluation=None))
    (samples,) = collected
    rewards, maps = samples.reward.scores, samples.allocation.squeeze(1)
    products = (rewards[:, None, None, None] * maps).double().unflatten(0, (2, 4))
    centred = products - products.mean(1, keepdim=True)
    expected = (centred / centred.square().mean(1, keepdim=True).sqrt()).clamp(-5, 5).flatten(0, 1)
    torch.testing.assert_close(samples.advantage.double(), expected, atol=1e-3, rtol=1e-3)
    (record,) = history(runner)
    assert record['map/entropy'] < 1
    assert 'clipped_inside' not in record, 'the loss saw no map'


def test_map_on_the_reward_that_is_not_finite_stops_the_run(cfg):
    runner = build_runner(cfg(train_cfg__max_iters=1, advantage__map_on='reward', evaluation=None))
    runner.components.structurer = lambda pixels, grid: torch.full((len(pixels), 1, *grid), torch.nan)
    with pytest.raises(RunStopped, match='function gave a map that is not finite'):
        runner.train()


def test_map_of_the_reward_itself(cfg, collected):
    config = cfg(train_cfg__max_iters=1, evaluation=None, offload=['reward', 'map'])
    config.structurer = {
        'type': 'BlendedStructurer',
        'structurer': {'type': 'RewardAttributionStructurer'},
        'floor': 0.5,
    }
    runner = run(config)
    (samples,) = collected
    assert runner.components.structurer.structurer.reward is runner.components.reward
    torch.testing.assert_close(samples.allocation.mean((1, 2, 3, 4)), torch.ones(8))
    assert samples.allocation.min() >= 0.5
    assert samples.allocation.std() > 0.05
    (record,) = history(runner)
    assert {'clipped_inside', 'clipped_outside', 'map/constant_frames'} <= set(record)


def test_products_that_vanish_are_logged_beside_the_frames_of_the_parts(cfg):
    """They are counted apart, so that they neither hide nor double what the parts report."""
    config = cfg(train_cfg__max_iters=1, evaluation=None)
    parts = {'a': dict(config.structurer), 'b': {'type': 'PriorStructurer'}}
    config.structurer = {'type': 'CombinedStructurer', 'parts': parts, 'combine': 'product'}
    runner = build_runner(config)
    runner.components.structurer._parts['b'] = lambda pixels, grid: torch.zeros(len(pixels), 1, *grid)
    runner.train()
    (record,) = history(runner)
    assert record['map/vanished_products'] == 1
    assert record['map/constant_frames'] == 0


def test_schedule_of_the_floor_follows_the_run(cfg, collected):
    config = cfg(train_cfg__max_iters=3, evaluation=None)
    inner = dict(config.structurer)
    config.structurer = {'type': 'BlendedStructurer', 'structurer': inner, 'floor': 1.0, 'end': 0.0}
    run(config)
    spread = [samples.allocation.std().item() for samples in collected]
    assert spread[0] == 0
    assert 0 < spread[1] < spread[2]


def test_map_on_the_reward_needs_a_map(cfg):
    from vipo.engine.runner import build_runner

    with pytest.raises(ConfigError, match=r"advantage\.map_on='reward' needs a structurer"):
        build_runner(cfg('grpo_tiny_sd3', advantage__map_on='reward'))


def test_map_of_the_reward_is_in_the_gallery(cfg):
    """The end of a run draws maps too, and this one needs the prompts."""
    config = cfg(train_cfg__max_iters=1)
    config.structurer = {'type': 'RewardAttributionStructurer'}
    runner = run(config)
    assert (Path(runner.work_dir) / 'maps.png').exists()


def test_signed_maps_are_logged_in_numbers(cfg):
    runner = run(cfg(train_cfg__max_iters=1, evaluation=None, structurer__normalize='signed'))
    (record,) = history(runner)
    assert record['map/mean'] == pytest.approx(0, abs=1e-4)
    assert 0 < record['map/entropy'] < 1
    assert 0 < record['map/top_decile_mass'] < 1


def test_structurer_that_gives_no_map_stops_the_run_before_its_first_evaluation(cfg):
    runner = build_runner(cfg())
    runner.components.structurer = lambda pixels, grid: torch.ones(len(pixels), *grid)
    wanted = r'lambda.* must return a map \(B, 1, T, H, W\) = \(1, 1, 1, 16, 16\), got \(1, 1, 16, 16\)'
    with pytest.raises(ConfigError, match=wanted):
        runner.train()
    assert not list(Path(runner.work_dir).rglob('*evaluation*'))


def test_trial_of_the_map_changes_nothing(tmp_path, collected, monkeypatch):
    options = {'train_cfg__max_iters': 1, 'evaluation': None}
    one = run(small_config(tmp_path / 'with', **options))
    monkeypatch.setattr('vipo.engine.loop.try_structurer', lambda components, record: None)
    other = run(small_config(tmp_path / 'without', **options))
    assert torch.equal(collected[0].allocation, collected[1].allocation)
    for name, value in weights(one).items():
        assert torch.equal(value, weights(other)[name])


def warnings_of(runner, folder):
    (log,) = folder.rglob('*.log')
    return [line for line in log.read_text().splitlines() if 'the same everywhere' in line]


def test_run_whose_maps_say_nothing_warns_once(cfg):
    runner = run(cfg(evaluation=None, structurer__allocator__sigma=1000.0))
    assert [row['map/constant'] for row in history(runner)] == [1, 1]
    (warning,) = warnings_of(runner, Path(runner.work_dir))
    assert 'iteration 1: 100% of the allocation maps' in warning


@pytest.mark.parametrize('what', ['as it is', 'uniform allocator', 'blended away'])
def test_maps_that_are_even_by_the_config_draw_no_warning(cfg, what):
    config = cfg(evaluation=None)
    inner = dict(config.structurer)
    if what == 'uniform allocator':
        config.structurer.allocator = {'type': 'UniformAllocator'}
    if what == 'blended away':
        config.structurer = {'type': 'BlendedStructurer', 'structurer': inner, 'floor': 1.0}
    runner = run(config)
    assert [row['map/constant'] == 1 for row in history(runner)] == [what != 'as it is'] * 2
    assert warnings_of(runner, Path(runner.work_dir)) == []


@pytest.mark.parametrize(
    ('options', 'match'),
    [
        ({'loss__clip_exponent': 1.0, 'advantage__map_on': 'reward'}, 'clip_exponent needs a map in the loss'),
        ({'loss__scalar_clip_range': 0.1}, 'has no effect here'),
        ({'structurer__allocator__orientation': 'cls_attention'}, r'backbone\.cls_attention=True'),
        ({'generator__init': 'meta'}, 'it cannot be trained'),
        ({'generator__dtype': 'float16'}, 'loses small gradients'),
        (
            {'generator__lora': {'_delete_': True, 'rank': 2}, 'generator__keep_reference': True},
            'keep_reference has no effect',
        ),
        ({'generator__lora': {'_delete_': True, 'targets': 'to_q'}}, 'targets must be a list'),
        ({'generator__lora': {'_delete_': True, 'targets': []}}, 'targets must be a list'),
        ({'offload': 'reward'}, r'offload=\[reward\]'),
    ],
)
def test_settings_that_contradict_each_other(cfg, options, match):
    from vipo.engine.components import build_components

    with pytest.raises(ConfigError, match=match):
        build_components(cfg(**options))


@pytest.mark.parametrize(
    'options',
    [
        {'generator__resolution': 60},
        {'generator__resolutoin': 64},
        {'generator__lora': {'_delete_': True, 'targets': ['attn.to_z']}},
        {'reward__type': 'HSPReward'},
        {'eval_rewards__judge__type': 'SceneJugde'},
        {'structurer__allocator__type': 'PCAAlocator'},
        {'loss__kl_weight': 0.1},
    ],
    ids=str,
)
def test_cheap_mistakes_show_before_anything_is_loaded(cfg, options, monkeypatch):
    from vipo.engine.components import build_components
    from vipo.generators.source import PipelineSource
    from vipo.rewards import HPSReward
    from vipo.structurers.backbones import DINOv2Backbone

    def loaded(*_, **__):
        raise AssertionError('something was loaded')

    for owner, name in ((HPSReward, '__init__'), (DINOv2Backbone, '__init__'), (PipelineSource, 'load')):
        monkeypatch.setattr(owner, name, loaded)
    if 'reward__type' not in options:  # the signature of what stands in for it takes anything
        monkeypatch.setattr('vipo.registry.lookup.check_component', _unless('HPSReward', 'DINOv2Backbone'))
    with pytest.raises(ConfigError):
        build_components(cfg(**options))


def _unless(*names):
    from vipo.registry.build import check_component

    return lambda section, registry, key: section.get('type') in names or check_component(section, registry, key)
