"""What tests of several rewards share."""

import os

import numpy as np
import pytest
import torch
from PIL import Image
from tokenizers import Tokenizer
from torchvision.transforms import functional as TF

from vipo.rewards import AestheticReward, CLIPScoreReward, ImageReward, PickScoreReward

#: Rewards that load a model and have a twin of their own.
MODEL_REWARDS = [PickScoreReward, CLIPScoreReward, AestheticReward, ImageReward]
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


class Bomb:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, place):
        self.place = place

    def __reduce__(self):
        return os.mkdir, (str(self.place),)


@pytest.fixture
def pictures(normal):
    """``pictures(height, width, count=4)``: noise, in which every pixel counts."""
    return lambda height=28, width=28, count=4: normal(count, 3, height, width).sigmoid()


@pytest.fixture(scope='session')
def twin_folder(tmp_path_factory):
    return tmp_path_factory.mktemp('twins')


@pytest.fixture(scope='session')
def twin_options(twin_folder):
    """``twin_options(cls)``: what builds the twin of a reward, written once."""
    known = {}

    def options(cls):
        return dict(known.setdefault(cls, cls.rehearsal({}, twin_folder)))

    for cls in MODEL_REWARDS:
        options(cls)
    return options


def squares(pictures, side, offset):
    """What CLIP sees: Pillow's own resize of the picture as a file has it, in 8 bits, then the central square and the
    published mean and deviation.
    """

    def one(picture):
        height, width = picture.shape[-2:]
        size = {True: (int(side * width / height), side), False: (side, int(side * height / width))}[height <= width]
        image = Image.fromarray((picture * 255).round().byte().permute(1, 2, 0).numpy())
        return torch.from_numpy(np.array(image.resize(size, Image.Resampling.BICUBIC))).permute(2, 0, 1) / 255

    x = torch.stack([one(picture) for picture in pictures])
    if offset == 'round':
        x = TF.center_crop(x, [side, side])
    else:
        top, left = ((length - side) // 2 for length in x.shape[-2:])
        x = x[..., top : top + side, left : left + side]
    return TF.normalize(x, MEAN, STD)


def token_ids(folder, prompts, context, padding=0):
    """Ids of the tokenizer file itself, cut and padded by hand; the last one stays the end token."""
    tokenizer = Tokenizer.from_file(f'{folder}/tokenizer.json')
    tokenizer.no_padding()
    tokenizer.no_truncation()

    def one(prompt):
        ids = tokenizer.encode(prompt).ids
        if len(ids) > context:
            ids = [*ids[: context - 1], ids[-1]]
        return ids + [padding] * (context - len(ids))

    return torch.tensor([one(prompt) for prompt in prompts])


@pytest.fixture(scope='session')
def their_clip(twin_options):
    """``their_clip(pictures, prompts, offset='down')``: transformers' own forward pass on the twin's weights."""
    from transformers import CLIPModel

    folder = twin_options(PickScoreReward)['pretrained']
    model = CLIPModel.from_pretrained(folder).eval()

    @torch.no_grad()
    def forward(pictures, prompts, offset='down'):
        ids = token_ids(folder, prompts, 77)
        return model(input_ids=ids, pixel_values=squares(pictures, 28, offset))

    return forward
