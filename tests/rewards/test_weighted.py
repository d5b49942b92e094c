import pytest
import torch

from vipo.engine.scoring import RewardFailure, score
from vipo.registry import REWARDS, ConfigError
from vipo.rewards import FunctionReward, HPSReward, Reward, RewardOutput, WeightedReward

PIXELS = torch.zeros(3, 3, 1, 4, 4)
PROMPTS = ['a', 'b', 'c']


def fixed(*values, **parts):
    def function(pixels, prompts, metadata):
        return RewardOutput(torch.tensor(values), parts={k: torch.tensor(v) for k, v in parts.items()})

    return FunctionReward(function)


class Sum(Reward):
    """A reward that is a weighted sum of its own."""

    def __init__(self):
        self.weights = {'x': 1.0, 'y': 2.0}

    def __call__(self, pixels, prompts, metadata=None):
        x, y = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([0.0, 1.0, 0.0])
        return RewardOutput(x + 2 * y, parts={'x': x, 'y': y})


def test_sum_by_hand():
    reward = WeightedReward(
        {
            'a': {'reward': fixed(1.0, 2.0, 3.0), 'weight': 2.0},
            'b': {'reward': fixed(10.0, 30.0, 20.0, raw=[7.0, 8.0, 9.0]), 'weight': -1.0, 'mean': 20.0, 'std': 10.0},
        }
    )
    out = reward(PIXELS, PROMPTS)
    assert out.scores.tolist() == pytest.approx([2 + 1, 4 - 1, 6])
    assert {k: v.tolist() for k, v in out.parts.items()} == {'a': [1, 2, 3], 'b': [-1, 1, 0], 'b/raw': [7, 8, 9]}
    assert reward.weights == {'a': 2.0, 'b': -1.0}


def test_score_is_the_sum_of_the_weighted_parts():
    reward = WeightedReward(
        {
            'own': {'reward': Sum(), 'weight': 3.0},
            'scaled': {'reward': Sum(), 'mean': 1.0, 'std': 2.0},
            'watched': {'reward': fixed(9.0, 9.0, 9.0), 'weight': 0.0},
        }
    )
    assert reward.weights == {'own/x': 3.0, 'own/y': 6.0, 'scaled': 1.0}
    out = reward(PIXELS, PROMPTS)
    again = sum(w * out.parts[k] for k, w in reward.weights.items())
    torch.testing.assert_close(out.scores, again)
    assert 'watched' in out.parts


def test_sample_is_valid_where_all_parts_are():
    reward = WeightedReward({'a': {'reward': fixed(1.0, float('nan'), 3.0)}, 'b': {'reward': fixed(1.0, 2.0, 3.0)}})
    assert reward(PIXELS, PROMPTS).valid.tolist() == [True, False, True]


def test_failure_names_the_part():
    def broken(*_):
        raise KeyError('no such thing')

    reward = WeightedReward({'good': {'reward': fixed(1.0, 2.0, 3.0)}, 'bad': {'reward': FunctionReward(broken)}})
    with pytest.raises(RuntimeError, match=r"part 'bad' \(FunctionReward\): KeyError: 'no such thing'"):
        reward(PIXELS, PROMPTS)


@pytest.mark.parametrize(
    ('parts', 'match'),
    [
        ({}, r"config key 'reward': parts is empty"),
        ({'a': {'reward': fixed(1.0), 'weight': 0.0}}, 'every weight is 0'),
        ({'a': {'reward': fixed(1.0), 'std': 0.0}}, r'parts\.a\.std must be positive'),
        ({'a': {'reward': fixed(1.0), 'wieght': 2.0}}, r"parts\.a.*'wieght'.*Did you mean 'weight'"),
        ({'a': {'reward': {'type': 'HSPReward'}}}, r"parts\.a\.reward.*Did you mean 'HPSReward'"),
        ({'a': {'weight': 2.0}}, r'reward\.parts\.a.*reward'),
    ],
)
def test_mistakes_name_the_key(parts, match):
    with pytest.raises(ConfigError, match=match):
        REWARDS.build({'type': 'WeightedReward', 'parts': parts}, at='reward')


def test_from_config():
    tiny = {'type': 'HPSReward', 'checkpoint': 'vipo://tiny-hps'}
    config = {'type': 'WeightedReward', 'parts': {'hps': {'reward': tiny, 'weight': 2.0}}}
    pixels = torch.rand(3, 3, 1, 32, 32)
    whole, alone = REWARDS.build(config)(pixels, PROMPTS), REWARDS.build(tiny)(pixels, PROMPTS)
    torch.testing.assert_close(whole.scores, 2 * alone.scores)


def test_gradient_is_the_weighted_sum_of_gradients():
    hps = HPSReward(checkpoint='vipo://tiny-hps')
    options = {'weight': 3.0, 'mean': 0.2, 'std': 0.5}
    reward = WeightedReward({'a': {'reward': hps, **options}, 'watched': {'reward': fixed(1.0), 'weight': 0.0}})
    assert reward.differentiable
    assert not WeightedReward({'a': {'reward': fixed(1.0)}}).differentiable
    x = torch.rand(2, 3, 1, 32, 32, requires_grad=True)
    reward.differentiable_scores(x, ['a ring', 'a square']).sum().backward()
    ours, x.grad = x.grad, None
    hps.differentiable_scores(x, ['a ring', 'a square']).sum().backward()
    torch.testing.assert_close(ours, 6 * x.grad)


def test_part_that_is_only_watched_decides_nothing():
    watched = {'reward': fixed(float('nan'), 1.0, 2.0), 'weight': 0.0}
    out = WeightedReward({'a': {'reward': fixed(1.0, 2.0, 3.0)}, 'watched': watched})(PIXELS, PROMPTS)
    assert out.valid.all()
    assert out.scores.tolist() == [1, 2, 3]
    assert out.parts['watched'][1:].tolist() == [1, 2]


@pytest.mark.parametrize('sample', [None, 2])
def test_what_an_error_says_of_the_sample_at_fault_is_kept(sample):
    """A server that is down is no sample's fault: nobody has to be tried one by one."""
    error, calls = ConnectionError('no route'), []
    error.sample = sample

    def down(pixels, prompts, metadata):
        calls.append(len(prompts))
        raise error

    reward = WeightedReward({'far': {'reward': FunctionReward(down)}})
    with pytest.raises(RuntimeError, match=r"part 'far' .*no route") as raised:
        reward(PIXELS, PROMPTS)
    assert raised.value.sample == sample
    if sample is None:
        with pytest.raises(RewardFailure, match='by no fault of theirs'):
            score(reward, 'reward', PIXELS, PROMPTS)
        assert calls == [3, 3]


def test_mistakes_inside_eval_rewards_name_their_own_key():
    config = {'type': 'WeightedReward', 'parts': {'a': {'reward': {'type': 'FunctionReward', 'function': 'no.such'}}}}
    with pytest.raises(ConfigError, match=r'eval_rewards\.mine\.parts\.a\.reward\.function'):
        REWARDS.build(config, at='eval_rewards.mine')
