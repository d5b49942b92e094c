import numpy as np
import pytest
import torch
from PIL import Image

from vipo.rewards import CompressibilityReward

PROMPTS = ['a', 'b', 'c']


@pytest.fixture
def pixels(normal):
    """Plain grey, a ramp, and noise, not square."""
    ramp = torch.linspace(0, 1, 48).expand(3, 32, 48)
    return torch.stack([torch.full((3, 32, 48), 0.5), ramp, normal(3, 32, 48).sigmoid()])[:, :, None]


@pytest.mark.parametrize('quality', [95, 30])
def test_score_is_the_size_of_the_saved_file(pixels, tmp_path, quality):
    sizes = []
    for i, picture in enumerate(pixels[:, :, 0]):
        array = np.rint(picture.numpy().transpose(1, 2, 0) * 255).astype(np.uint8)
        Image.fromarray(array).save(tmp_path / f'{i}.jpg', quality=quality)
        sizes.append((tmp_path / f'{i}.jpg').stat().st_size)
    assert sizes[0] < sizes[1] < sizes[2]
    scores = CompressibilityReward('large', quality=quality)(pixels, PROMPTS).scores
    assert scores.tolist() == pytest.approx([size / 1000 for size in sizes], abs=1e-6)


def test_small_is_preferred_by_default(pixels):
    small, large = CompressibilityReward()(pixels, PROMPTS), CompressibilityReward('large')(pixels, PROMPTS)
    assert torch.equal(small.scores, -large.scores)
    assert small.scores.argmax() == 0
    assert not CompressibilityReward.differentiable


def test_quality_costs_bytes(pixels):
    low, high = (CompressibilityReward('large', quality=q)(pixels, PROMPTS).scores for q in (20, 95))
    assert (low[1:] < high[1:]).all(), 'the plain one has nothing to lose'


def test_pixel_that_is_no_number_is_invalid(pixels):
    pixels[1, 0, 0, 3, 3] = float('nan')
    assert CompressibilityReward()(pixels, PROMPTS).valid.tolist() == [True, False, True]


def test_clips_and_wrong_options_are_refused(pixels):
    with pytest.raises(ValueError, match=r'clips of 2 frames.*FrameReward'):
        CompressibilityReward()(torch.cat([pixels, pixels], dim=2), PROMPTS)
    with pytest.raises(ValueError, match=r'reward\.prefer'):
        CompressibilityReward('tiny')
    with pytest.raises(ValueError, match=r'reward\.quality'):
        CompressibilityReward(quality=0)
