import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import CenterCrop, Compose, InterpolationMode, Normalize, Resize
from transformers import CLIPImageProcessorPil

from vipo.rewards.pillow_resize import quantize, resize_as_pillow
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
def test_resize_in_levels_is_that_of_pictures_with_8_bits(size):
    """Pillow's own, through transformers' own processor: every level is the same."""
    array = sharp(*size)
    processor = CLIPImageProcessorPil(size={'shortest_edge': 28}, crop_size={'height': 28, 'width': 28})
    theirs = processor(images=Image.fromarray(array), return_tensors='pt').pixel_values
    pixels = torch.from_numpy(array).permute(2, 0, 1)[None] / 255
    ours = normalize(resize_center_crop(pixels, 28, levels=True, offset='down'), OPENAI_MEAN, OPENAI_STD)
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ('before', 'after'), [((61, 97), (50, 40)), ((30, 41), (90, 17)), ((64, 64), (64, 21)), ((97, 64), (40, 64))]
)
def test_any_size_is_pillows_to_the_last_level(before, after):
    """Where every version of Pillow begins with X."""
    pictures = torch.randint(0, 256, (3, 3, *before), generator=torch.Generator().manual_seed(0)).byte()
    theirs = [Image.fromarray(p.permute(1, 2, 0).numpy()).resize(after[::-1], Image.BICUBIC) for p in pictures]
    ours = (resize_as_pillow(pictures / 255, after) * 255).round().byte()
    assert torch.equal(ours, torch.stack([torch.from_numpy(np.array(t)).permute(2, 0, 1) for t in theirs]))


def test_without_levels_sharp_edges_overshoot():
    pixels = torch.from_numpy(sharp(77, 91)).permute(2, 0, 1)[None] / 255
    assert resize_center_crop(pixels, 28).max() > 1.02
    assert resize_center_crop(pixels, 28, levels=True).max() <= 1


def test_gradient_passes_the_levels(normal):
    x = normal(1, 3, 60, 40).sigmoid().requires_grad_()
    assert torch.equal(quantize(x).detach() * 255, (x * 255).round())
    resize_center_crop(x, 28, levels=True).sum().backward()
    # each new pixel is a weighted mean of the old ones
    assert x.grad.sum().item() == pytest.approx(3 * 28 * 28, rel=1e-4)


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
