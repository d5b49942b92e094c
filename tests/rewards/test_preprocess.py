import pytest
import torch
from torchvision.transforms import CenterCrop, Compose, InterpolationMode, Normalize, Resize

from vipo.rewards.preprocess import OPENAI_MEAN, OPENAI_STD, normalize, resize_center_crop


@pytest.mark.parametrize('antialias', [True, False])
@pytest.mark.parametrize('size', [(28, 28), (56, 56), (77, 31), (30, 91), (20, 13), (29, 28), (28, 31)])
def test_resize_and_crop_are_torchvisions(normal, size, antialias):
    x = normal(2, 3, *size).sigmoid()
    theirs = Compose([Resize(28, InterpolationMode.BICUBIC, antialias=antialias), CenterCrop(28)])
    torch.testing.assert_close(resize_center_crop(x, 28, antialias=antialias), theirs(x), atol=1e-5, rtol=0)


def test_normalize_is_torchvisions(normal):
    x = normal(2, 3, 4, 4)
    torch.testing.assert_close(normalize(x, OPENAI_MEAN, OPENAI_STD), Normalize(OPENAI_MEAN, OPENAI_STD)(x))
