"""Where the map applies, in the loop: on the advantage, on the reward, from the reward, signed."""

import pytest
import torch

from tests.engine.conftest import history, run
from vipo.engine.loop import PolicyLoop
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
