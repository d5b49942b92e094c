import pytest
import torch

from vipo.registry import REWARDS, ConfigError
from vipo.rewards import FrameReward, Reward, RewardOutput, WeightedReward
from vipo.rewards.base import check_batch

NAN, INF = float('nan'), float('inf')


def test_scores_that_are_not_finite_are_invalid():
    assert RewardOutput(torch.tensor([1.0, NAN, INF, -INF])).valid.tolist() == [True, False, False, False]


def test_invalid_stays_invalid_and_a_reward_cannot_vouch_for_a_nan():
    out = RewardOutput(torch.tensor([1.0, 2.0, NAN]), valid=torch.tensor([True, False, True]))
    assert out.valid.tolist() == [True, False, False]


def test_scores_become_detached_float32():
    out = RewardOutput(torch.tensor([1.0, 2.0], dtype=torch.bfloat16, requires_grad=True) * 2)
    assert out.scores.dtype == torch.float32
    assert not out.scores.requires_grad
    assert out.scores.tolist() == [2, 4]


@pytest.mark.parametrize(
    'pixels',
    [torch.zeros(2, 3, 8, 8), torch.zeros(2, 4, 1, 8, 8), torch.zeros(2, 3, 1, 8, 8, dtype=torch.uint8)],
    ids=['image batch', 'four channels', 'uint8'],
)
def test_what_is_no_batch_of_pictures_is_refused(pixels):
    with pytest.raises(ValueError, match=r'floats \(B, 3, F, Y, X\)'):
        check_batch(pixels, ['a', 'b'])


def test_one_prompt_for_each_sample():
    pixels = torch.zeros(2, 3, 1, 8, 8)
    check_batch(pixels, ['a', 'b'])
    with pytest.raises(ValueError, match='2 samples but 1 prompts'):
        check_batch(pixels, ['a'])


class Weighty(Reward):
    """Notes where it is moved."""

    def __init__(self, device=None):
        self.places = []
        self.place(device)

    def __call__(self, pixels, prompts, metadata=None):
        raise NotImplementedError

    def move(self, device):
        self.places.append(device)


def test_weights_follow_the_run_unless_they_have_a_device_of_their_own():
    free, pinned = Weighty(), Weighty('cuda:1')
    for reward in (free, pinned):
        assert reward.to('cuda').to('cpu') is reward
    assert free.places == ['cuda', 'cpu']
    assert pinned.places == ['cuda:1']


def test_device_of_a_part_is_its_own():
    reward = WeightedReward({'free': {'reward': Weighty()}, 'pinned': {'reward': Weighty('cuda:1')}})
    FrameReward(reward).to('cuda')
    assert [part.reward.places for part in reward.parts.values()] == [['cuda'], ['cuda:1']]


@pytest.mark.parametrize('size', [0, -1])
def test_batches_of_nothing_are_refused_at_once(size):
    with pytest.raises(ConfigError, match=r"config key 'reward': batch_size must be at least 1"):
        REWARDS.build({'type': 'HPSReward', 'checkpoint': 'vipo://tiny-hps', 'batch_size': size}, at='reward')
