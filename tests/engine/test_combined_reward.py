"""A reward of several parts in the loop: what is logged, and whose advantages are summed."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.engine.conftest import history, run
from vipo.engine.components import build_components
from vipo.engine.loop import PolicyLoop
from vipo.engine.scoring import RunStopped, score
from vipo.registry import ConfigError
from vipo.rewards import FunctionReward, RewardOutput

PARTS = {
    'hps': {'reward': {'type': 'HPSReward', 'checkpoint': 'vipo://tiny-hps'}, 'weight': 2.0},
    'red': {'reward': {'type': 'FunctionReward', 'function': f'{__name__}.redness'}, 'weight': 1.0, 'std': 0.001},
}


def redness(pixels, prompts, metadata):
    """100 times more scattered than the other part, once divided by its std."""
    return (pixels[:, 0] - pixels[:, 1]).mean((1, 2, 3))


@pytest.mark.parametrize('combine', ['rewards', 'advantages'])
def test_advantages_of_parts(cfg, monkeypatch, combine):
    seen = []
    collect = PolicyLoop.collect
    monkeypatch.setattr(PolicyLoop, 'collect', lambda self, batch: seen.append(collect(self, batch)) or seen[-1])
    config = cfg(train_cfg__max_iters=1, advantage__combine=combine, advantage__eps=0.0, evaluation=None)
    config.reward = {'type': 'WeightedReward', 'parts': PARTS}
    runner = run(config)

    (samples,) = seen
    parts = {k: v.double().numpy().reshape(2, 4) for k, v in samples.reward.parts.items()}

    def normed(x):
        return (x - x.mean(1, keepdims=True)) / x.std(1, keepdims=True)

    if combine == 'rewards':
        expected = normed(2 * parts['hps'] + parts['red'])
    else:
        expected = 2 * normed(parts['hps']) + normed(parts['red'])
    ours = samples.advantage.double().numpy().reshape(2, 4)
    np.testing.assert_allclose(ours, expected.clip(-5, 5), atol=2e-3)
    # the two ways differ here, so that the comparison above means something
    assert np.abs(normed(2 * parts['hps'] + parts['red']) - 2 * normed(parts['hps']) - normed(parts['red'])).max() > 0.1
    (record,) = history(runner)
    assert record['reward/red'] == pytest.approx(parts['red'].mean(), rel=1e-3)
    assert record['reward/hps'] == pytest.approx(parts['hps'].mean(), rel=1e-3)


def test_ranks_with_other_parts_stop(monkeypatch):
    from vipo.engine import parallel

    assert parallel.check_same_names(['b', 'a'], 'the parts') == ['a', 'b']
    monkeypatch.setattr(parallel, 'get_world_size', lambda: 2)
    monkeypatch.setattr(parallel, 'all_gather_object', lambda mine: [mine, ['a', 'b']])
    assert parallel.check_same_names(['b', 'a'], 'the parts') == ['a', 'b']
    with pytest.raises(RunStopped, match=r"the parts on rank 1 are \['a', 'b'\], and on rank 0 \['a'\]"):
        parallel.check_same_names(['a'], 'the parts')


def test_a_sampler_that_deals_other_prompts_to_each_rank_is_refused(cfg, monkeypatch):
    """As MMEngine's samplers do: the numbers of samples would then name other prompts on each rank."""
    from vipo.engine import parallel
    from vipo.engine.runner import build_runner

    loop = build_runner(cfg(evaluation=None)).build_train_loop({'type': 'PolicyLoop', 'max_iters': 1})
    batch = next(iter(loop.dataloader))
    monkeypatch.setattr(parallel, 'get_world_size', lambda: 2)
    monkeypatch.setattr(parallel, 'all_gather_object', lambda mine: [mine, mine])
    assert len(loop.prepare(batch).prompts) == 8
    monkeypatch.setattr(parallel, 'all_gather_object', lambda mine: [mine, [i + 1 for i in mine]])
    with pytest.raises(RunStopped, match='a sampler has to deal all of them to every rank'):
        loop.prepare(batch)


@pytest.mark.parametrize('fault', ['valid', 'part'])
def test_parts_of_another_length_are_refused(fault):
    def odd(pixels, prompts, metadata):
        output = RewardOutput(torch.zeros(2), parts={'part': torch.zeros(3 if fault == 'part' else 2)})
        if fault == 'valid':
            output.valid = torch.ones(2, 1, dtype=torch.bool)
        return output

    with pytest.raises(RunStopped, match=f'{fault} of 2 samples has shape'):
        score(FunctionReward(odd), 'reward', torch.zeros(2, 3, 1, 4, 4), ['a', 'b'])


def test_name_of_the_trained_reward_is_taken(cfg):
    config = cfg(eval_rewards={'_delete_': True, 'reward': {'type': 'RednessReward'}})
    with pytest.raises(ConfigError, match="the name 'reward' is that of the trained reward"):
        build_components(config)


def test_parts_of_invalid_samples_do_not_enter_the_evaluation(cfg, capfd):
    """Some of the held-out prompts have no score: they are counted, and what stands in their parts is not averaged."""
    reward = {'_delete_': True, 'type': 'FunctionReward', 'function': f'{__name__}.half'}
    runner = run(cfg(train_cfg__max_iters=1, reward=reward, train_cfg__max_invalid_fraction=1.0))
    summary = json.loads((Path(runner.work_dir) / 'summary.json').read_text())
    assert summary['parts_before']['reward/odd'] == summary['parts_after']['reward/odd'] == 1.0
    assert 'without a score' in capfd.readouterr().out


def half(pixels, prompts, metadata):
    scores = pixels.mean((1, 2, 3, 4))
    valid = torch.tensor(['circle' not in p for p in prompts])
    return RewardOutput(scores, parts={'odd': torch.where(valid, 1.0, 100.0)}, valid=valid)
