import pytest
import torch

from vipo.rewards import RednessReward

COLOURS = {
    'red': ((1, 0, 0), 1),
    'cyan': ((0, 1, 1), -1),
    'green': ((0, 1, 0), -0.5),
    'white': ((1, 1, 1), 0),
    'grey': ((0.3, 0.3, 0.3), 0),
    'orange': ((1, 0.5, 0), 0.75),
}


@pytest.mark.parametrize(('colour', 'score'), COLOURS.values(), ids=COLOURS)
def test_plain_colours(colour, score):
    pixels = torch.tensor(colour, dtype=torch.float32).reshape(1, 3, 1, 1, 1).expand(2, 3, 1, 5, 7)
    assert RednessReward()(pixels, ['a', 'b']).scores.tolist() == pytest.approx([score] * 2, abs=1e-6)


def test_mean_runs_over_pixels_and_frames():
    """One of four pixels is red in one frame of two, all of them in the other sample."""
    pixels = torch.zeros(2, 3, 2, 2, 2)
    pixels[0, 0, 1, 0, 1] = 1
    pixels[1, 0] = 1
    assert RednessReward()(pixels, ['a', 'b']).scores.tolist() == [1 / 8, 1]


def test_gradient_is_the_weight_of_each_channel(normal):
    reward, x = RednessReward(), normal(2, 3, 1, 4, 5).sigmoid().requires_grad_()
    assert reward.differentiable
    reward.differentiable_scores(x, ['a', 'b']).sum().backward()
    wanted = torch.tensor([1, -0.5, -0.5]).reshape(3, 1, 1, 1) / 20
    torch.testing.assert_close(x.grad, wanted.expand(2, 3, 1, 4, 5))


def test_pixel_that_is_no_number_is_invalid():
    pixels = torch.zeros(2, 3, 1, 2, 2)
    pixels[1, 2, 0, 0, 0] = float('nan')
    assert RednessReward()(pixels, ['a', 'b']).valid.tolist() == [True, False]


def test_batch_is_checked():
    with pytest.raises(ValueError, match='2 samples but 1 prompts'):
        RednessReward()(torch.zeros(2, 3, 1, 2, 2), ['a'])
