"""What does not change a map, allocator by allocator, and what moves it."""

import pytest
import torch
import torch.nn.functional as F

from tests.structurers.conftest import every_allocator
from vipo.registry import ALLOCATORS
from vipo.structurers import PerceptualStructurer
from vipo.structurers.allocators import MotionAllocator
from vipo.structurers.backbones import Backbone, Features

#: What may be done to the features without a change of the map. Every allocator has to be listed.
PROMISES = {
    'CLSAttentionAllocator': {'constant', 'scale'},
    'FeatureNormAllocator': {'scale'},
    'MotionAllocator': {'constant', 'scale'},
    'PCAAllocator': {'constant', 'scale'},
    'UniformAllocator': {'constant', 'scale'},
}
#: Options under which a map does not depend on where in the picture something is.
PLACELESS = {'PCAAllocator': {'orientation': 'minority'}}


def test_every_allocator_says_what_it_promises():
    assert sorted(PROMISES) == every_allocator()


@pytest.fixture
def features(normal):
    """A clip of a few strong directions in noise, and an attention."""
    strength = torch.linspace(4, 0.5, 24).reshape(24, 1, 1)
    return normal(2, 5, 24, 6, 9) * strength + 2, normal(2, 5, 6, 9, seed=1).exp()


@pytest.mark.parametrize(('name', 'change'), [(name, c) for name in PROMISES for c in ('constant', 'scale')])
def test_constant_or_factor_in_the_features(features, normal, name, change):
    """Nothing changes where it is promised, and something does where it is not."""
    x, attention = features
    moved = x + 10 * normal(24, 1, 1, seed=2) if change == 'constant' else 7 * x
    allocator = ALLOCATORS.build({'type': name})
    difference = (allocator(moved, attention) - allocator(x, attention)).abs().max()
    assert (difference < 1e-4) == (change in PROMISES[name])


def test_motion_is_seen_beside_a_channel_that_is_always_large(features):
    """Some transformers have one: it says nothing, and must not make everything else look like rounding."""
    x, _ = features
    large = x.clone()
    large[:, :, 0] += 3000 * x.std()
    allocator = MotionAllocator()
    torch.testing.assert_close(allocator(large), allocator(x), atol=1e-2, rtol=0)


class Shifted(Backbone):
    """Mean colours of 8 x 8 patches and of their surroundings; what leaves the picture comes in on the other side."""

    has_cls_attention = True

    def __call__(self, pixels):
        patches = F.avg_pool2d(pixels, 8)
        around = torch.cat([patches, patches.roll(1, 2), patches.roll(1, 3)], dim=1)
        return Features(around, patches[:, 0] + patches[:, 1].roll(1, 1))


@pytest.mark.parametrize('shift', [(8, 0), (0, -16), (24, 32)], ids=str)
@pytest.mark.parametrize('name', every_allocator())
def test_moving_the_picture_by_whole_patches_moves_the_map(pixels, name, shift):
    clip = pixels(2, 5, 64, 64) ** 4
    options = {} if name == 'UniformAllocator' else {'sigma': 0.0}  # the Gaussian ends at the border
    structurer = PerceptualStructurer(Shifted(), {'type': name, **options, **PLACELESS.get(name, {})})
    maps = structurer(clip, (2, 8, 8))
    moved = structurer(clip.roll(shift, (3, 4)), (2, 8, 8))
    torch.testing.assert_close(moved, maps.roll((shift[0] // 8, shift[1] // 8), (3, 4)), atol=1e-4, rtol=1e-4)
    assert maps.std() > 0.1 or name == 'UniformAllocator'
