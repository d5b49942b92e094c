import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import CenterCrop, Compose, InterpolationMode, Normalize, Resize
from transformers import CLIPImageProcessorPil

from vipo.rewards.preprocess import OPENAI_MEAN, OPENAI_STD, normalize, resize_center_crop, to_pil

#: Sizes whose margins around a square of 28 are 0, 1, 2, 3, 5, 6 and 7, among others.
SIZES = [(28, 28), (56, 56), (77, 31), (30, 91), (20, 13), (29, 28), (28, 31), (28, 33), (34, 28), (28, 35)]


@pytest.mark.parametrize('antialias', [True, False])
@pytest.mark.parametrize('size', SIZES)
def test_resize_and_crop_are_torchvisions(normal, size, antialias):
    x = normal(2, 3, *size).sigmoid()
    theirs = Compose([Resize(28, InterpolationMode.BICUBIC, antialias=antialias), CenterCrop(28)])
    torch.testing.assert_close(resize_center_crop(x, 28, antialias=antialias), theirs(x), atol=1e-5, rtol=0)


def sharp(height, width):
    """Bars and a disc in pure black and white, which a bicubic filter overshoots, and a ramp."""
    y, x = np.mgrid[:height, :width]
    bars, disc = x // 3 % 2 * 255, (np.hypot(y - height / 2, x - width / 2) < height / 3) * 255
    return np.stack([bars, disc, y * 255 // height], axis=-1).astype(np.uint8)


@pytest.mark.parametrize('size', SIZES)
def test_clamped_resize_is_that_of_pictures_with_8_bits(size):
    """Pillow's own, through transformers' own processor: all that is left is Pillow's rounding, once for each axis."""
    array = sharp(*size)
    processor = CLIPImageProcessorPil(size={'shortest_edge': 28}, crop_size={'height': 28, 'width': 28})
    theirs = processor(images=Image.fromarray(array), return_tensors='pt').pixel_values
    pixels = torch.from_numpy(array).permute(2, 0, 1)[None] / 255
    ours = normalize(resize_center_crop(pixels, 28, clamp=True, offset='down'), OPENAI_MEAN, OPENAI_STD)
    level = 1 / 255 / min(OPENAI_STD)
    assert (ours - theirs).abs().max() < 1.2 * level
    assert (ours - theirs).abs().mean() < 0.5 * level


def test_without_the_clamp_sharp_edges_overshoot():
    pixels = torch.from_numpy(sharp(77, 91)).permute(2, 0, 1)[None] / 255
    assert resize_center_crop(pixels, 28, clamp=False).max() > 1.02
    assert resize_center_crop(pixels, 28, clamp=True).max() <= 1


def test_normalize_is_torchvisions(normal):
    x = normal(2, 3, 4, 4)
    torch.testing.assert_close(normalize(x, OPENAI_MEAN, OPENAI_STD), Normalize(OPENAI_MEAN, OPENAI_STD)(x))


def test_pil_pictures_keep_their_places_and_values():
    x = torch.zeros(2, 3, 4, 6)
    x[1, 0, 2, 5], x[1, 1, 2, 5], x[1, 2, 2, 5] = 1.7, 0.5, -0.3
    first, second = to_pil(x)
    assert second.size == (6, 4)
    assert second.mode == 'RGB'
    assert second.getpixel((5, 2)) == (255, 128, 0)
    assert first.getextrema() == ((0, 0), (0, 0), (0, 0))
