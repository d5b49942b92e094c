import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.ndimage import gaussian_filter

from vipo.structurers.functional import (
    align_in_time,
    entropy,
    gaussian_blur,
    minmax,
    resize_to_grid,
)


@pytest.mark.parametrize('size', [(16, 16), (7, 12), (3, 2), (1, 5), (1, 1)])
@pytest.mark.parametrize('sigma', [0.5, 1.0, 2.3])
def test_gaussian_blur_is_scipys(normal, size, sigma):
    """Grids smaller than the kernel's radius too: there the border is mirrored more than once."""
    maps = normal(2, 3, *size)
    ours = gaussian_blur(maps, sigma)
    for i in np.ndindex(2, 3):
        theirs = gaussian_filter(maps[i].double().numpy(), sigma, mode='reflect', truncate=4)
        np.testing.assert_allclose(ours[i].numpy(), theirs, atol=1e-5)


def test_gaussian_blur_of_sigma_zero_is_nothing(normal):
    maps = normal(2, 4, 4)
    assert torch.equal(gaussian_blur(maps, 0), maps)


def test_minmax_by_hand():
    maps = torch.tensor([[[1.0, 3.0], [2.0, 5.0]], [[-4.0, 0.0], [-1.0, -2.0]]])
    wanted = torch.tensor([[[0, 0.5], [0.25, 1]], [[0, 1], [0.75, 0.5]]])
    torch.testing.assert_close(minmax(maps, (-2, -1)), wanted)
    torch.testing.assert_close(minmax(maps, (0, 1, 2)), (maps + 4) / 9)


@pytest.mark.parametrize('value', [0.0, 0.3, -1e6])
def test_minmax_does_not_stretch_rounding_noise(value):
    maps = torch.full((1, 4, 4), value)
    maps[0, 0, 0] += abs(value) * 1e-7
    assert not minmax(maps, (-2, -1)).any()
    tiny = torch.tensor([1e-12, 3e-12])
    torch.testing.assert_close(minmax(tiny, (0,)), torch.tensor([0.0, 1.0]))


def test_resize_by_hand():
    ramp = torch.arange(4.0).expand(1, 1, 4, 4)
    up = resize_to_grid(ramp, 4, 8)[0, 0, 0]
    torch.testing.assert_close(up, torch.tensor([0, 0.25, 0.75, 1.25, 1.75, 2.25, 2.75, 3]))
    assert resize_to_grid(ramp, 4, 4) is ramp
    assert resize_to_grid(ramp, 2, 3).shape == (1, 1, 2, 3)


@pytest.mark.parametrize('target', [(17, 30), (30, 52), (9, 100), (1, 1), (34, 15)], ids=str)
def test_resize_is_torchs_with_antialias(normal, target):
    maps = normal(2, 3, 17, 30)
    theirs = F.interpolate(maps, size=target, mode='bilinear', antialias=True, align_corners=False)
    torch.testing.assert_close(resize_to_grid(maps, *target), theirs, atol=1e-5, rtol=0)


@pytest.mark.parametrize('target', [(8, 8), (14, 12), (4, 4)], ids=str)
def test_resize_of_positions_that_are_off(target):
    """A ramp says where it was read: positions that lie 0.3 cells to the left have the values of those places."""
    ramp = torch.arange(8) + 0.5 - 0.3
    found = resize_to_grid((ramp[:, None] * 10 + ramp).expand(1, 1, 8, 8), *target, offset=-0.3)[0, 0]
    rows, columns = ((torch.arange(n) + 0.5) * 8 / n for n in target)
    wanted = rows[:, None] * 10 + columns
    torch.testing.assert_close(found[1:-1, 1:-1], wanted[1:-1, 1:-1], atol=1e-4, rtol=0)


def test_shrinking_loses_no_patch():
    """Every patch of a fine grid counts in a coarse one; sampling points would miss these single patches."""
    maps = torch.zeros(1, 1, 32, 32)
    maps[..., 3::8, 3::8] = 64.0
    small = resize_to_grid(maps, 4, 4)
    torch.testing.assert_close(small[..., 1:3, 1:3], torch.ones(1, 1, 2, 2))
    assert small.min() > 0.9


def test_align_in_time_by_hand():
    maps = torch.arange(9.0).reshape(1, 9, 1, 1)
    assert align_in_time(maps, 3).flatten().tolist() == [0, 2.5, 6.5]
    assert align_in_time(maps, 5).flatten().tolist() == [0, 1.5, 3.5, 5.5, 7.5]
    assert align_in_time(maps, 2).flatten().tolist() == [0, 4.5]
    assert align_in_time(maps, 9) is maps
    assert align_in_time(maps.expand(2, 9, 3, 4), 3).shape == (2, 3, 3, 4)


@pytest.mark.parametrize(('frames', 'latents'), [(8, 3), (9, 4), (9, 1), (2, 3), (1, 2), (9, 10)])
def test_frames_that_no_causal_autoencoder_makes(frames, latents):
    with pytest.raises(ValueError, match=f'{frames} pixel frames do not belong to {latents} latent frames'):
        align_in_time(torch.zeros(1, frames, 2, 2), latents)


def test_entropy_by_hand():
    point = torch.zeros(1, 1, 1, 2, 2)
    point[..., 0, 0] = 3
    half = torch.tensor([1.0, 1.0, 0.0, 0.0]).reshape(1, 1, 1, 2, 2)
    skewed = torch.tensor([4.0, 2.0, 1.0, 1.0]).reshape(1, 1, 1, 2, 2)
    maps = torch.cat([point, half, torch.ones_like(half), skewed])
    torch.testing.assert_close(entropy(maps), torch.tensor([0, 0.5, 1, 1.75 / math.log2(4)]))
