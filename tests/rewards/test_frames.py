import pytest
import torch

from vipo.registry import REWARDS, ConfigError
from vipo.rewards import FrameReward, FunctionReward, HPSReward, RewardOutput


@pytest.fixture
def seen():
    """A reward that gives the first pixel of each still as its score, and notes what it was shown."""
    calls = []

    def function(pixels, prompts, metadata):
        calls.append((tuple(pixels.shape), list(prompts), metadata))
        first = pixels[:, 0, 0, 0, 0]
        return RewardOutput(first, parts={'twice': 2 * first})

    return FunctionReward(function), calls


@pytest.fixture
def clips():
    """Two clips of five frames whose pixels are 0, 4, 1, 3, 2 and one more."""
    values = torch.tensor([[0.0, 4, 1, 3, 2], [1, 5, 2, 4, 3]])
    return values[:, None, :, None, None].expand(2, 3, 5, 4, 6).contiguous()


@pytest.mark.parametrize(
    ('options', 'expected'),
    [
        ({}, [2, 3]),
        ({'aggregate': 'min'}, [0, 1]),
        ({'aggregate': 'max'}, [4, 5]),
        ({'frames': 1}, [0, 1]),
        ({'frames': 3}, [1, 2]),
        ({'frames': 2, 'aggregate': 'max'}, [2, 3]),
        ({'frames': 99}, [2, 3]),
    ],
)
def test_by_hand(seen, clips, options, expected):
    out = FrameReward(seen[0], **options)(clips, ['a', 'b'])
    assert out.scores.tolist() == expected
    assert out.parts['twice'].tolist() == [2 * e for e in expected]


def test_all_frames_are_one_batch(seen, clips):
    reward, calls = seen
    FrameReward(reward, frames=3)(clips, ['a', 'b'], [{'n': 1}, {'n': 2}])
    assert calls == [((6, 3, 1, 4, 6), ['a'] * 3 + ['b'] * 3, [{'n': 1}] * 3 + [{'n': 2}] * 3)]


def test_one_bad_frame_spoils_the_clip(seen, clips):
    clips[0, :, 3] = float('nan')
    assert FrameReward(seen[0])(clips, ['a', 'b']).valid.tolist() == [False, True]


def test_picture_reward_over_frames(normal):
    hps = HPSReward(checkpoint='vipo://tiny-hps')
    clips = normal(2, 3, 4, 40, 50).sigmoid()
    out = FrameReward(hps)(clips, ['a red ring', 'a blue square']).scores
    alone = torch.stack([hps(clips[:, :, f : f + 1], ['a red ring', 'a blue square']).scores for f in range(4)])
    torch.testing.assert_close(out, alone.mean(0), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ('options', 'match'),
    [
        ({'aggregate': 'median'}, 'must be one of'),
        ({'frames': 0}, 'at least 1'),
        ({'reward': {'type': 'HSPReward'}}, r'reward\.reward.*HPSReward'),
    ],
)
def test_mistakes_are_explained(seen, options, match):
    with pytest.raises(ConfigError, match=match):
        REWARDS.build({'type': 'FrameReward', 'reward': seen[0], **options}, at='reward')


def test_gradient_is_that_of_the_frames(normal):
    hps = HPSReward(checkpoint='vipo://tiny-hps')
    clips = normal(2, 3, 3, 32, 32).sigmoid().requires_grad_()
    reward = FrameReward(hps, frames=2)
    assert reward.differentiable
    scores = reward.differentiable_scores(clips, ['a red ring', 'a blue square'])
    torch.testing.assert_close(scores.detach(), reward(clips.detach(), ['a red ring', 'a blue square']).scores)
    scores.sum().backward()
    assert (clips.grad.abs().amax((0, 1, 3, 4)) > 0).tolist() == [True, False, True]
    assert not FrameReward(FunctionReward(len)).differentiable
