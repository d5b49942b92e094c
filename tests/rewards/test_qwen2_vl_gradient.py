"""The gradients of HPSv3 and VideoAlign, by value.

The score is a smooth function of the resized frames, and there its gradient is compared with finite differences. The
frames are a step function of the pixels, because they are rounded to 8 bits; what passes there is by definition the
gradient of the resize that rounds nothing, and is compared with that.
"""

import pytest
import torch
import torch.nn.functional as F

from vipo.rewards import HPSv3Reward, VideoAlignReward, qwen2_vl

PROMPTS = ['a cat jumps over a wall', 'waves']


@pytest.fixture(scope='module', params=[HPSv3Reward, VideoAlignReward])
def reward(request, tmp_path_factory):
    return request.param(**request.param.rehearsal({}, tmp_path_factory.mktemp('twin')))


@pytest.fixture
def pixels(reward, normal):
    """Not bright or dark enough for the filter to be cut off anywhere; they shrink."""
    return 0.3 + 0.4 * normal(2, 3, 1 if isinstance(reward, HPSv3Reward) else 5, 60, 100).sigmoid()


def smooth(frames, size, pillow=False):
    """torch's own filter, which is that of Pillow but for the rounding."""
    return F.interpolate(frames, size=size, mode='bicubic', antialias=True, align_corners=False)


def total(reward, pixels):
    return reward.differentiable_scores(pixels, PROMPTS).sum()


def gradient(reward, pixels):
    x = pixels.clone().requires_grad_()
    total(reward, x).backward()
    return x.grad


def slope(reward, pixels, direction, step):
    """Central difference of the score along a direction."""
    with torch.no_grad():
        change = total(reward, pixels + step * direction) - total(reward, pixels - step * direction)
    return change.item() / (2 * step)


def test_finite_differences_without_the_rounding(reward, pixels, normal, monkeypatch):
    """Along random directions, in which the slope is about the norm of the gradient; float32 leaves up to 2 % of it."""
    monkeypatch.setattr(qwen2_vl, 'resize_frames', smooth)
    ours = gradient(reward, pixels)
    for seed in range(3):
        direction = normal(*pixels.shape, seed=seed)
        expected = slope(reward, pixels, direction, 1e-3)
        assert (ours * direction).sum().item() == pytest.approx(expected, abs=0.04 * ours.norm().item())


def test_rounding_is_passed_as_if_it_were_none(reward, pixels, monkeypatch):
    ours, resize_frames, seen = gradient(reward, pixels), qwen2_vl.resize_frames, []

    def stop(frames, size, pillow=False):
        seen.append(resize_frames(frames.detach(), size, pillow).requires_grad_())
        return seen[-1]

    monkeypatch.setattr(qwen2_vl, 'resize_frames', stop)
    total(reward, pixels).backward()
    (levels,) = seen
    x = pixels.clone().requires_grad_()
    # the frames that count: all of a picture, four of five of a clip
    chosen = [0] if pixels.shape[2] == 1 else [0, 1, 3, 4]
    frames = smooth(x[:, :, chosen].transpose(1, 2).flatten(0, 1), levels.shape[-2:])
    frames.backward(levels.grad)
    torch.testing.assert_close(ours, x.grad, atol=1e-5 * ours.abs().max().item(), rtol=1e-4)


def test_finite_differences_with_the_rounding(reward, pixels, normal):
    """With steps of eight levels, up or down for each pixel; the rounding leaves up to 15 % of the norm."""
    ours = gradient(reward, pixels)
    for seed in range(3):
        direction = normal(*pixels.shape, seed=seed).sign()
        expected = slope(reward, pixels, direction, 8 / 255)
        assert (ours * direction).sum().item() == pytest.approx(expected, abs=0.3 * ours.norm().item())
