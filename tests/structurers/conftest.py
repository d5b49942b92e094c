"""Backbones and allocators that anyone can write, whose maps can be worked out by hand."""

import pytest
import torch
import torch.nn.functional as F

from vipo.registry import ALLOCATORS
from vipo.structurers import Allocator
from vipo.structurers.backbones import Backbone, Features


class Patches(Backbone):
    """Mean and spread of each 4 x 4 patch: a backbone that anyone can write."""

    def __init__(self):
        self.batches = []

    def __call__(self, pixels):
        self.batches.append(len(pixels))
        return Features(torch.cat([F.avg_pool2d(pixels, 4), F.avg_pool2d(pixels**2, 4)], dim=1))


class Tubelets(Backbone):
    """Patches of the mean of two frames; the first frame of an odd number stands alone."""

    clips = True

    def __init__(self):
        self.batches = []

    def __call__(self, pixels):
        self.batches.append(tuple(pixels.shape[:3]))
        odd = pixels.shape[2] % 2
        later = pixels[:, :, odd:].unflatten(2, (-1, 2)).mean(3)
        frames = torch.cat([pixels[:, :, :odd], later], dim=2).transpose(1, 2)
        maps = F.avg_pool2d(frames.flatten(0, 1), 4).unflatten(0, frames.shape[:2])
        return Features(maps, spans=(1,) * odd + (2,) * later.shape[2])


class Brightness(Allocator):
    """The first channel itself: a map that can be worked out by hand."""

    def __call__(self, features, cls_attention=None):
        return features[:, :, 0]


@pytest.fixture
def pixels(normal):
    """``pixels(B, F, Y, X)``"""
    return lambda batch, frames, height, width: normal(batch, 3, frames, height, width).sigmoid()


class Attentive(Patches):
    """With a CLS attention: the brightness of each patch."""

    has_cls_attention = True

    def __call__(self, pixels):
        features = super().__call__(pixels)
        return Features(features.map, features.map[:, 0])


def every_allocator():
    """Names of all of ViPO's own allocators, those to come included."""
    return sorted(name for name, kind in ALLOCATORS.module_dict.items() if kind.__module__.startswith('vipo.'))
