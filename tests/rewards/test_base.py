import pytest
import torch

from vipo.rewards import RewardOutput
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
