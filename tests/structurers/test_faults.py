"""What is constant, not finite or of the wrong shape: counted, or an error that names who made it."""

import pytest
import torch

from tests.structurers.conftest import Brightness, Patches, Tubelets
from vipo.registry import ConfigError
from vipo.structurers import Allocator, PCAAllocator, PerceptualStructurer
from vipo.structurers.allocators import CLSAttentionAllocator, FeatureNormAllocator
from vipo.structurers.backbones import Backbone, DINOv2Backbone, Features
from vipo.structurers.functional import of_one_colour


@pytest.mark.parametrize('value', [0.0, 0.3, 1.0])
def test_constant_picture_becomes_ones(pixels, value):
    batch = pixels(3, 1, 32, 32)
    batch[1] = value
    structurer = PerceptualStructurer(Patches(), PCAAllocator())
    maps = structurer(batch, (1, 8, 8))
    assert torch.equal(maps[1], torch.ones(1, 1, 8, 8))
    assert maps[0].std() > 0.1
    assert structurer.counts == {'frames': 3, 'constant': 1, 'broken': 0}
    structurer(batch, (1, 8, 8))
    assert structurer.counts == {'frames': 6, 'constant': 2, 'broken': 0}


@pytest.mark.parametrize('allocator', [PCAAllocator(), CLSAttentionAllocator(), FeatureNormAllocator()])
def test_picture_of_one_colour_becomes_ones_with_position_embeddings(pixels, allocator):
    """Features of such a picture differ by position, and maps of them would point somewhere."""
    backbone = DINOv2Backbone('vipo://tiny-dinov2', cls_attention=True)
    batch = pixels(5, 1, 64, 64)
    for i, value in enumerate((0.0, 0.3, 1.0), 1):
        batch[i] = value
    batch[4] = torch.tensor([0.9, 0.1, 0.2]).view(3, 1, 1, 1)
    found = backbone(batch[1:, :, 0]).map
    assert found.flatten(2).std(-1).amax() > 0.01, 'without position embeddings this shows nothing'
    structurer = PerceptualStructurer(backbone, allocator)
    maps = structurer(batch, (1, 16, 16))
    assert torch.equal(maps[1:], torch.ones(4, 1, 1, 16, 16))
    assert maps[0].std() > 0.1
    assert structurer.counts == {'frames': 5, 'constant': 4, 'broken': 0}
    faint = batch[1:2].clone()
    faint[..., :32, :32] += 2 / 255
    assert structurer(faint, (1, 16, 16)).std() > 0, 'two steps of 8 bits are a picture'


@pytest.mark.parametrize('size', [(1, 1), (3, 5), (16, 16), (33, 70)], ids=str)
def test_one_other_pixel_anywhere_is_no_single_colour(size):
    """Frame k of the second clip has one at place k, in one channel; its last frame and the first clip have none."""
    height, width = size
    rows, columns = {0, 1 % height, height // 2, height - 1}, {0, 3 % width, width // 2, width - 1}
    places = [(y, x) for y in rows for x in columns]
    pixels = torch.full((2, 3, len(places) + 1, height, width), 0.5)
    for k, (y, x) in enumerate(places):
        pixels[1, k % 3, k, y, x] += 1 / 255
    flat = of_one_colour(pixels)
    assert flat[0].all()
    assert flat[1, -1]
    assert flat[1].sum() == (2 if size == (1, 1) else 1)


def test_constant_frame_in_a_clip_gets_the_mean_of_the_others():
    """Frames 0 and 1 have halves of 0.8 and 0.4, frame 2 is black: 'no preference', not 'learn nothing here'."""
    pixels = torch.zeros(1, 3, 3, 8, 16)
    pixels[:, :, 0, :, :8], pixels[:, :, 1, :, :8] = 0.8, 0.4
    structurer = PerceptualStructurer(Patches(), Brightness(), normalize='minmax')
    maps = structurer(pixels, (3, 2, 4))
    torch.testing.assert_close(maps[0, 0, 2], torch.full((2, 4), 0.3))
    torch.testing.assert_close(maps[0, 0, 1], torch.tensor([0.4, 0.4, 0, 0]).expand(2, 4))
    assert structurer.counts == {'frames': 3, 'constant': 1, 'broken': 0}


@pytest.mark.parametrize('normalize', ['mean', 'minmax'])
@pytest.mark.parametrize('fault', [torch.nan, torch.inf, -torch.inf])
def test_map_of_a_faulty_allocator_becomes_ones(pixels, fault, normalize):
    class Faulty(Allocator):
        def __call__(self, features, cls_attention=None):
            maps = features[:, :, 0].clone()
            maps[0] = fault
            return maps

    structurer = PerceptualStructurer(Patches(), Faulty(), normalize)
    maps = structurer(pixels(2, 1, 16, 16), (1, 4, 4))
    assert torch.equal(maps[0], torch.ones(1, 1, 4, 4))
    assert maps.isfinite().all()
    assert maps[1].std() > 0
    assert structurer.counts == {'frames': 2, 'constant': 0, 'broken': 1}


@pytest.mark.parametrize(
    ('returned', 'match'),
    [
        (lambda f: f[:, 0, 0], r'got \(2, 4, 4\), a tensor of torch.float32'),
        (lambda f: f, r'got \(2, 1, 6, 4, 4\)'),
        (lambda f: f[:, :, 0].flatten(2), r'got \(2, 1, 16\)'),
        (lambda f: f[:, :, 0, 1:, 1:], r'got \(2, 1, 3, 3\)'),
        (lambda f: f[:, :, 0].numpy(), r'got \(2, 1, 4, 4\), a ndarray'),
        (lambda f: None, 'got None'),
        (lambda f: [f], 'got a list'),
        (lambda f: f[:, :, 0] - 1.0, r'got -0\.\d+ at the lowest; .*minmax'),
        (lambda f: -1 - f[:, :, 0], r'got -[12]\.?\d* at the lowest'),
    ],
)
def test_allocator_that_returns_no_map_is_named(pixels, returned, match):
    class Mine(Allocator):
        def __call__(self, features, cls_attention=None):
            return returned(features)

    wanted = r'^Mine must return a map \(B, F, h, w\) = \(2, 1, 4, 4\), which is not negative; '
    with pytest.raises(ConfigError, match=wanted + match):
        PerceptualStructurer(Patches(), Mine())(pixels(2, 1, 16, 16), (1, 8, 8))


def test_map_of_truth_values_is_a_map(pixels):
    class Above(Allocator):
        def __call__(self, features, cls_attention=None):
            return features[:, :, 0] > features[:, :, 0].mean((-2, -1), keepdim=True)

    maps = PerceptualStructurer(Patches(), Above(), 'minmax')(pixels(2, 1, 16, 16), (1, 4, 4))
    assert set(maps.unique().tolist()) == {0.0, 1.0}


@pytest.mark.parametrize(
    ('returned', 'match'),
    [
        (lambda x: Features(x.numpy()), r'map must be a torch tensor of floats, got \(2, 3, 16, 16\), a ndarray'),
        (lambda x: Features(x.long()), 'map must be a torch tensor of floats, got .*int64'),
        (lambda x: Features(x, x[:, 0].numpy()), 'cls_attention must be a torch tensor of floats'),
        (lambda x: Features(x, x[:, :1]), r'cls_attention must have the positions of the map, \(2, 16, 16\), got'),
        (lambda x: Features(x[..., :0]), r'got \(2, 3, 16, 0\)'),
        (lambda x: Features(torch.rand(2, 4, 4, 384)), r'would be 4 x 384 positions .* channels last\?'),
    ],
)
def test_backbone_that_returns_no_features_is_named(pixels, returned, match):
    class Mine(Backbone):
        def __call__(self, pixels):
            return returned(pixels)

    with pytest.raises(ConfigError, match='^Mine.*' + match):
        PerceptualStructurer(Mine(), PCAAllocator())(pixels(2, 1, 16, 16), (1, 8, 8))


@pytest.mark.parametrize('positions', [(7, 7), (2, 2), (1, 14)])
@pytest.mark.parametrize('size', [(16, 256), (256, 16), (40, 44)])
def test_positions_of_one_shape_for_pictures_of_any_are_features(pixels, positions, size):
    class Square(Backbone):
        def __call__(self, pixels):
            return Features(torch.rand(len(pixels), 64, *positions))

    assert PerceptualStructurer(Square(), PCAAllocator())(pixels(2, 1, *size), (1, 8, 8)).shape == (2, 1, 1, 8, 8)


@pytest.mark.parametrize('fault', [torch.nan, torch.inf])
@pytest.mark.parametrize('of', [Patches, Tubelets])
@pytest.mark.parametrize('where', ['map', 'cls_attention'])
def test_broken_backbone_is_an_error_that_names_it(pixels, fault, of, where):
    class Broken(of):
        def __call__(self, pixels):
            out = super().__call__(pixels)
            out.cls_attention = out.map.mean(-3)
            getattr(out, where).view(-1)[0] = fault
            return out

    with pytest.raises(ValueError, match='Broken returned features that are not finite'):
        PerceptualStructurer(Broken(), PCAAllocator())(pixels(1, 5, 16, 16), (2, 4, 4))


class Powers(PCAAllocator):
    """A call of its own, which would let what is not finite pass; with PCAAllocator's word that it does not."""

    def __call__(self, features, cls_attention=None):
        return features.norm(dim=2).nan_to_num() ** 2


def test_broken_backbone_is_named_for_an_allocator_made_of_another(pixels):
    class Broken(Patches):
        def __call__(self, pixels):
            out = super().__call__(pixels)
            out.map.view(-1)[0] = torch.nan
            return out

    with pytest.raises(ConfigError, match='Broken returned features that are not finite'):
        PerceptualStructurer(Broken(), Powers())(pixels(1, 1, 16, 16), (1, 4, 4))


@pytest.mark.parametrize('fault', [torch.nan, torch.inf])
def test_broken_backbone_of_many_features(fault):
    """Where components are searched for, and not taken from a decomposition."""

    class Broken(Backbone):
        def __call__(self, pixels):
            out = torch.randn(len(pixels), 160, 18, 18)
            out[-1, 7, 17, 3] = fault
            return Features(out)

    with pytest.raises(ConfigError, match='Broken returned features that are not finite'):
        PerceptualStructurer(Broken(), PCAAllocator())(torch.rand(1, 3, 5, 16, 16), (2, 4, 4))


def test_what_an_allocator_raises_itself_is_not_blamed_on_the_backbone(pixels):
    class Careful(Allocator):
        def __call__(self, features, cls_attention=None):
            raise FloatingPointError('underflow encountered in divide')

    with pytest.raises(FloatingPointError, match='underflow'):
        PerceptualStructurer(Patches(), Careful())(pixels(1, 1, 16, 16), (1, 4, 4))


@pytest.mark.parametrize(
    ('change', 'words'),
    [
        ({'spans': (2, 2, 2)}, r'Wrong: the spans \(2, 2, 2\) of 3 feature frames do not make up the 5 frames'),
        ({'spans': (1, 4)}, 'do not make up'),
        ({'spans': None}, 'do not make up'),
        ({'map': torch.zeros(1, 3, 4, 4)}, r'Wrong must return a map \(B, t, D, h, w\) for 1 clips'),
        ({'map': torch.zeros(2, 3, 2, 4, 4)}, 'for 1 clips'),
    ],
)
def test_what_a_backbone_of_clips_must_return(pixels, change, words):
    class Wrong(Tubelets):
        def __call__(self, pixels):
            out = super().__call__(pixels)
            for name, value in change.items():
                setattr(out, name, value)
            return out

    with pytest.raises(ValueError, match=words):
        PerceptualStructurer(Wrong(), PCAAllocator())(pixels(1, 5, 16, 16), (2, 4, 4))
