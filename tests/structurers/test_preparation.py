import json
import math

import pytest
import torch
from torchvision.transforms import InterpolationMode, Normalize, Resize

from vipo.structurers.backbones.preparation import IMAGENET, Preparation, published_colours, whole_patches


@pytest.mark.parametrize(
    ('size', 'patch', 'options', 'wanted'),
    [
        # By hand: 240/14 = 17.1 and 416/14 = 29.7.
        ((240, 416), 14, {}, (17, 30)),
        # To 224 the scale is 14/15: 16 and 27.7 patches.
        ((240, 416), 14, {'input_size': 224}, (16, 28)),
        ((100, 50), 8, {'input_size': 16}, (4, 2)),
        ((3, 500), 14, {}, (1, 36)),
        # 37 x 37 patches shrink to 16 x 16.
        ((512, 512), 14, {'max_patches': 256}, (16, 16)),
        ((512, 512), 14, {'max_patches': 255}, (15, 15)),
        # Smaller pictures stay as they are.
        ((240, 416), 14, {'max_patches': 510}, (17, 30)),
        ((240, 416), 14, {'max_patches': 509}, (17, 29)),
        ((500, 2), 5, {'max_patches': 7}, (7, 1)),
        ((500, 500), 5, {'max_patches': 1}, (1, 1)),
    ],
)
def test_size_by_hand(size, patch, options, wanted):
    assert whole_patches(*size, patch, **options) == wanted


@pytest.mark.parametrize('size', [(240, 416), (416, 240), (512, 512), (333, 777), (64, 1000)])
@pytest.mark.parametrize('budget', [1, 2, 7, 100, 256, 1000])
def test_budget_takes_the_largest_scale_that_fits(size, budget):
    """Found by trying a hundred thousand scales."""
    scales = torch.arange(1, 100_001, dtype=torch.float64) / 100_000
    rows, columns = ((side * scales / 14).round().clamp(min=1) for side in size)
    best = int((rows * columns <= budget).nonzero().max())
    wanted = int(rows[best]), int(columns[best])
    found = whole_patches(*size, 14, max_patches=budget)
    assert math.prod(found) <= budget
    assert found == wanted


def test_pixels_are_those_of_torchvision(normal):
    x = (normal(2, 3, 50, 83) > 0).float()  # between black and white a bicubic filter leaves [0, 1]
    mean, std = (0.5, 0.4, 0.3), (0.2, 0.3, 0.4)
    prepared = Preparation(8, mean, std)(x, torch.zeros(1))
    resized = Resize((48, 80), InterpolationMode.BICUBIC, antialias=True)(x).clamp(0, 1)
    torch.testing.assert_close(prepared, Normalize(mean, std)(resized), atol=1e-5, rtol=1e-5)
    whole = normal(1, 3, 16, 24).sigmoid()
    assert torch.equal(Preparation(8, (0, 0, 0), (1, 1, 1))(whole, torch.zeros(1)), whole), 'nothing to resize'


def test_dtype_is_that_of_the_weights(normal):
    assert Preparation(8)(normal(1, 3, 16, 16).half(), torch.zeros(1, dtype=torch.bfloat16)).dtype == torch.bfloat16


def test_budget_counts_feature_positions_and_not_patches():
    """A network of stride 32 with features at stride 8 has 16 positions in each of its 32 x 32 pixels."""
    prepare = Preparation(32, positions=4, max_tokens=16 * 6)
    assert prepare.size(64, 96) == (64, 96)
    assert prepare.size(96, 96) == (64, 64)


@pytest.mark.parametrize(
    ('options', 'words'),
    [
        ({'input_size': 224, 'max_tokens': 256}, 'both say how large'),
        ({'input_size': 0}, r'backbone\.input_size must be at least 1'),
        ({'max_tokens': 0}, r'backbone\.max_tokens=0 is less than the 1 feature positions'),
        ({'max_tokens': 15, 'positions': 4}, r'backbone\.max_tokens=15 is less than the 16'),
    ],
)
def test_sizes_that_cannot_be(options, words):
    with pytest.raises(ValueError, match=words):
        Preparation(32, **options)


@pytest.mark.parametrize('name', ['preprocessor_config.json', 'video_preprocessor_config.json'])
def test_colours_are_the_checkpoints_own(tmp_path, name):
    assert published_colours(str(tmp_path), IMAGENET) == IMAGENET
    (tmp_path / name).write_text(json.dumps({'image_mean': [0.4, 0.5, 0.6], 'image_std': [0.1, 0.2, 0.3]}))
    assert published_colours(str(tmp_path), IMAGENET) == ((0.4, 0.5, 0.6), (0.1, 0.2, 0.3))
    (tmp_path / name).write_text(json.dumps({'do_normalize': False}))
    assert published_colours(str(tmp_path), IMAGENET) == IMAGENET
