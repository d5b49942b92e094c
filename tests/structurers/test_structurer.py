import pytest
import torch
import torch.nn.functional as F
from scipy.ndimage import gaussian_filter1d

from vipo.diffusion import DanceKernel
from vipo.losses import PolicyLoss
from vipo.registry import STRUCTURERS, ConfigError
from vipo.structurers import (
    Allocator,
    CLSAttentionAllocator,
    FeatureNormAllocator,
    MotionAllocator,
    PCAAllocator,
    PerceptualStructurer,
    UniformAllocator,
)
from vipo.structurers.backbones import Backbone, Features
from vipo.structurers.base import bind_reward, uses_reward


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


def test_plain_objects_are_enough(pixels):
    maps = PerceptualStructurer(Patches(), PCAAllocator())(pixels(3, 1, 32, 32), (1, 16, 16))
    assert maps.shape == (3, 1, 1, 16, 16)
    assert maps.dtype == torch.float32
    assert not maps.requires_grad


@pytest.mark.parametrize('grid', [(3, 16, 16), (9, 5, 3), (2, 8, 6)])
@pytest.mark.parametrize('normalize', ['mean', 'minmax'])
def test_contract(pixels, grid, normalize):
    structurer = PerceptualStructurer(Patches(), PCAAllocator(), normalize=normalize)
    maps = structurer(pixels(2, 9, 32, 24), grid)
    assert maps.shape == (2, 1, *grid)
    assert maps.isfinite().all()
    assert maps.min() >= 0
    assert (maps.amax((1, 2, 3, 4)) > 0).all()
    if normalize == 'mean':
        torch.testing.assert_close(maps.mean((1, 2, 3, 4)), torch.ones(2))
    else:
        assert maps.max() <= 1
        assert maps.mean() < 0.9


@pytest.mark.parametrize('normalize', ['mean', 'minmax'])
def test_map_by_hand(normalize):
    """Nine frames of brightness (t + 1) / 10, whose right half is black, on three latent frames."""
    pixels = torch.zeros(1, 3, 9, 8, 16)
    pixels[..., :8] = torch.arange(1.0, 10.0).reshape(1, 1, 9, 1, 1) / 10
    maps = PerceptualStructurer(Patches(), Brightness(), normalize=normalize)(pixels, (3, 2, 4))
    wanted = torch.tensor([0.1, 0.35, 0.75]).reshape(1, 1, 3, 1, 1) * torch.tensor([1.0, 1, 0, 0])
    if normalize == 'mean':
        wanted = wanted / 0.2
    torch.testing.assert_close(maps, wanted.expand(1, 1, 3, 2, 4))


def test_constant_frame_in_a_clip_gets_the_mean_of_the_others():
    """Frames 0 and 1 have halves of 0.8 and 0.4, frame 2 is black: 'no preference', not 'learn nothing here'."""
    pixels = torch.zeros(1, 3, 3, 8, 16)
    pixels[:, :, 0, :, :8], pixels[:, :, 1, :, :8] = 0.8, 0.4
    structurer = PerceptualStructurer(Patches(), Brightness(), normalize='minmax')
    maps = structurer(pixels, (3, 2, 4))
    torch.testing.assert_close(maps[0, 0, 2], torch.full((2, 4), 0.3))
    torch.testing.assert_close(maps[0, 0, 1], torch.tensor([0.4, 0.4, 0, 0]).expand(2, 4))
    assert structurer.counts == {'frames': 3, 'constant': 1, 'broken': 0}


def test_map_points_at_the_object():
    pixels = torch.full((1, 3, 1, 32, 32), 0.2)
    pixels[..., 8:24, 8:16] = 0.9
    maps = PerceptualStructurer(Patches(), PCAAllocator())(pixels, (1, 8, 8))[0, 0, 0]
    assert maps[2:6, 2:4].min() > 2 * maps[:, 6:].max()


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


def test_uniform_allocator_is_ones(pixels):
    structurer = PerceptualStructurer(Patches(), UniformAllocator())
    assert torch.equal(structurer(pixels(2, 1, 16, 16), (1, 4, 4)), torch.ones(2, 1, 1, 4, 4))


@pytest.mark.parametrize('normalize', ['mean', 'minmax'])
@pytest.mark.parametrize('fault', [torch.nan, torch.inf, -torch.inf, 'negative'])
def test_map_of_a_faulty_allocator_becomes_ones(pixels, fault, normalize):
    class Faulty(Allocator):
        def __call__(self, features, cls_attention=None):
            maps = features[:, :, 0].clone()
            maps[0] = -1 - maps[0] if fault == 'negative' else fault
            return maps

    structurer = PerceptualStructurer(Patches(), Faulty(), normalize)
    maps = structurer(pixels(2, 1, 16, 16), (1, 4, 4))
    assert torch.equal(maps[0], torch.ones(1, 1, 4, 4))
    assert maps.isfinite().all()
    assert maps[1].std() > 0
    # A negative map is cut at 0, and so is constant.
    kind = 'constant' if fault == 'negative' else 'broken'
    assert structurer.counts == {'frames': 2, 'constant': 0, 'broken': 0} | {kind: 1}


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


def test_frames_per_batch_changes_memory_and_not_the_result(pixels):
    batch = pixels(3, 5, 16, 16)
    small, large = Patches(), Patches()
    maps = PerceptualStructurer(small, PCAAllocator(), frames_per_batch=4)(batch, (2, 4, 4))
    torch.testing.assert_close(maps, PerceptualStructurer(large, PCAAllocator())(batch, (2, 4, 4)), atol=1e-6, rtol=0)
    assert small.batches == [4, 4, 4, 3]
    assert large.batches == [15]


def test_samples_do_not_see_each_other(pixels):
    batch, structurer = pixels(3, 5, 16, 16), PerceptualStructurer(Patches(), PCAAllocator())
    alone = torch.cat([structurer(clip[None], (2, 4, 4)) for clip in batch])
    torch.testing.assert_close(structurer(batch, (2, 4, 4)), alone, atol=1e-5, rtol=0)


def test_attention_reaches_the_allocator_in_order(pixels):
    class Attentive(Patches):
        def __call__(self, pixels):
            out = super().__call__(pixels)
            return Features(out.map, out.map[:, 0] * 2)

    seen = {}

    class Spy(Allocator):
        def __call__(self, features, cls_attention=None):
            seen.update(features=features, attention=cls_attention)
            return features[:, :, 0]

    PerceptualStructurer(Attentive(), Spy(), frames_per_batch=4)(pixels(2, 3, 16, 12), (3, 4, 3))
    assert seen['features'].shape == (2, 3, 6, 4, 3)
    assert torch.equal(seen['attention'], seen['features'][:, :, 0] * 2)


def test_clip_of_feature_frames_by_hand():
    """Nine frames of brightness (t + 1) / 10 as feature frames 1 | 2 3 | 4 5 | 6 7 | 8 9, on three latent frames.

    Latent frames are 1 | 2 .. 5 | 6 .. 9, as if every frame had features of its own.
    """
    pixels = torch.zeros(1, 3, 9, 8, 16)
    pixels[..., :8] = torch.arange(1.0, 10.0).reshape(1, 1, 9, 1, 1) / 10
    structurer = PerceptualStructurer(Tubelets(), Brightness(), normalize='minmax')
    wanted = torch.tensor([0.1, 0.35, 0.75]).reshape(1, 1, 3, 1, 1) * torch.tensor([1.0, 1, 0, 0])
    torch.testing.assert_close(structurer(pixels, (3, 2, 4)), wanted.expand(1, 1, 3, 2, 4))
    assert structurer.counts == {'frames': 9, 'constant': 0, 'broken': 0}
    # Four latent frames of nine pixel frames would belong to no causal autoencoder.
    with pytest.raises(ValueError, match='causal'):
        structurer(pixels, (4, 2, 4))


@pytest.mark.parametrize('frames', [1, 5, 53])
def test_still_clip_gives_a_still_map(pixels, frames):
    clip = pixels(2, 1, 16, 24).expand(-1, -1, frames, -1, -1)
    for backbone in (Patches(), Tubelets()):
        maps = PerceptualStructurer(backbone, PCAAllocator())(clip, ((frames - 1) // 4 + 1, 4, 6))
        torch.testing.assert_close(maps, maps[:, :, :1].expand_as(maps), atol=1e-5, rtol=1e-5)
        assert maps.std() > 0.1


def test_clips_go_whole_and_as_many_as_their_frames_allow(pixels):
    backbone, batch = Tubelets(), pixels(5, 4, 16, 16)
    maps = PerceptualStructurer(backbone, PCAAllocator(), frames_per_batch=9)(batch, (4, 4, 4))
    assert backbone.batches == [(2, 3, 4), (2, 3, 4), (1, 3, 4)]
    alone = PerceptualStructurer(Tubelets(), PCAAllocator(), frames_per_batch=1)(batch, (4, 4, 4))
    torch.testing.assert_close(maps, alone, atol=1e-5, rtol=0)


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


def test_reward_reaches_the_parts_that_want_it():
    class Bound(Patches):
        def bind(self, reward):
            self.reward = reward

    class BoundAllocator(Brightness):
        def bind(self, reward):
            self.reward = reward

    reward = object()
    for backbone, allocator in [(Bound(), Brightness()), (Patches(), BoundAllocator())]:
        structurer = PerceptualStructurer(backbone, allocator)
        bind_reward(structurer, reward)
        assert [getattr(part, 'reward', None) for part in (backbone, allocator)].count(reward) == 1
        assert uses_reward(structurer)
    assert not uses_reward(PerceptualStructurer(Patches(), Brightness()))


def test_frames_that_do_not_fit_the_latents(pixels):
    with pytest.raises(ValueError, match='causal'):
        PerceptualStructurer(Patches(), PCAAllocator())(pixels(1, 8, 16, 16), (3, 4, 4))


def test_built_from_a_config(pixels):
    config = {
        'type': 'PerceptualStructurer',
        'backbone': {'type': 'DINOv2Backbone', 'pretrained': 'vipo://tiny-dinov2'},
        'allocator': {'type': 'PCAAllocator', 'components': 2, 'orientation': 'feature_norm'},
        'normalize': 'minmax',
    }
    structurer = STRUCTURERS.build(config)
    assert structurer.allocator.components == 2
    maps = structurer(pixels(2, 1, 32, 32), (1, 8, 8))
    assert maps.shape == (2, 1, 1, 8, 8)
    assert maps.max() <= 1


def test_unknown_normalization():
    with pytest.raises(ValueError, match=r'structurer\.normalize'):
        PerceptualStructurer(Patches(), PCAAllocator(), normalize='softmax')


def test_one_frame_per_latent_frame(pixels):
    """The backbone sees frames 0, 4 and 8 of nine, and the map is theirs."""
    backbone, clip = Patches(), pixels(2, 9, 32, 24)
    few = PerceptualStructurer(backbone, PCAAllocator(), frames='latent')(clip, (3, 8, 6))
    assert backbone.batches == [6]
    chosen = PerceptualStructurer(Patches(), PCAAllocator())(clip[:, :, [0, 4, 8]], (3, 8, 6))
    torch.testing.assert_close(few, chosen)
    picture = pixels(1, 1, 32, 24)
    same = [PerceptualStructurer(Patches(), PCAAllocator(), frames=f)(picture, (1, 8, 6)) for f in ('all', 'latent')]
    assert torch.equal(*same)
    with pytest.raises(ValueError, match='do not belong'):
        PerceptualStructurer(Patches(), PCAAllocator(), frames='latent')(clip, (4, 8, 6))


@pytest.mark.parametrize('sigma', [0.5, 2.0])
def test_smoothing_in_time_is_scipys(pixels, sigma):
    clip = pixels(1, 9, 32, 24)
    raw = PerceptualStructurer(Patches(), Brightness(), normalize='minmax')(clip, (9, 8, 6))
    smooth = PerceptualStructurer(Patches(), Brightness(), normalize='minmax', temporal_sigma=sigma)(clip, (9, 8, 6))
    expected = gaussian_filter1d(raw[0, 0].double().numpy(), sigma, axis=0, mode='reflect')
    torch.testing.assert_close(smooth[0, 0].double(), torch.from_numpy(expected), atol=1e-5, rtol=0)


def test_still_clip_has_a_map_that_does_not_change(pixels):
    clip = pixels(2, 1, 32, 24).repeat(1, 1, 9, 1, 1)
    for options in ({}, {'frames': 'latent'}, {'temporal_sigma': 1.0}):
        maps = PerceptualStructurer(Patches(), PCAAllocator(), **options)(clip, (3, 8, 6))
        torch.testing.assert_close(maps, maps[:, :, :1].expand_as(maps), atol=1e-5, rtol=0)


def test_signed_map_is_the_mean_one_map_less_one(pixels):
    clip = pixels(2, 3, 32, 24)
    mean, signed = (
        PerceptualStructurer(Patches(), PCAAllocator(), normalize=n)(clip, (3, 8, 6)) for n in ('mean', 'signed')
    )
    torch.testing.assert_close(signed, mean - 1)
    assert signed.min() < 0


@pytest.mark.parametrize(
    ('options', 'match'),
    [
        ({'frames': 'some'}, 'frames must be one of'),
        ({'temporal_sigma': -1.0}, 'temporal_sigma >= 0'),
        ({'frames_per_batch': 0}, 'frames_per_batch >= 1'),
        ({'normalize': 'max'}, 'normalize must be one of'),
    ],
)
def test_options_are_checked(options, match):
    with pytest.raises(ValueError, match=match):
        PerceptualStructurer(Patches(), PCAAllocator(), **options)


class Shifted(Backbone):
    """Mean colours of 8 x 8 patches and of their surroundings; what leaves the picture comes in on the other side."""

    def __call__(self, pixels):
        patches = F.avg_pool2d(pixels, 8)
        return Features(torch.cat([patches, patches.roll(1, 2), patches.roll(1, 3)], dim=1))


@pytest.mark.parametrize('shift', [(8, 0), (0, -16), (24, 32)])
@pytest.mark.parametrize(
    'allocator', [PCAAllocator(sigma=0.0, orientation='minority'), FeatureNormAllocator(sigma=0.0)], ids=['pca', 'norm']
)
def test_moving_the_picture_by_whole_patches_moves_the_map(pixels, allocator, shift):
    clip = pixels(2, 1, 64, 64) ** 4
    structurer = PerceptualStructurer(Shifted(), allocator)
    moved = structurer(clip.roll(shift, (3, 4)), (1, 8, 8))
    expected = structurer(clip, (1, 8, 8)).roll((shift[0] // 8, shift[1] // 8), (3, 4))
    torch.testing.assert_close(moved, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    'allocator',
    [PCAAllocator(), PCAAllocator(combine='first'), CLSAttentionAllocator(), FeatureNormAllocator(), MotionAllocator()],
    ids=lambda a: type(a).__name__,
)
def test_gradient_goes_where_the_map_is(pixels, normal, allocator):
    """Through the whole loss: at ratio one the gradient of every velocity is the uniform one times the map."""

    class WithAttention(Patches):
        has_cls_attention = True

        def __call__(self, pixels):
            features = super().__call__(pixels)
            return Features(features.map, features.map[:, 0].exp())

    maps = PerceptualStructurer(WithAttention(), allocator)(pixels(3, 5, 32, 48), (2, 4, 6))
    shape, kernel, advantage = (3, 4, 2, 4, 6), DanceKernel(0.4), torch.tensor([1.0, -0.5, 2.0])
    x, v, noise = (normal(*shape, seed=seed) for seed in range(3))
    old = kernel.step(x, v, 0.7, 0.5, noise=noise)

    def gradient(allocation):
        leaf = v.clone().requires_grad_()
        new = kernel.step(x, leaf, 0.7, 0.5, x_next=old.x_next)
        loss, _ = PolicyLoss()(new.log_prob, old.log_prob, advantage, allocation)
        return torch.autograd.grad(loss, leaf)[0]

    assert maps.std() > 0.1
    torch.testing.assert_close(gradient(maps), gradient(None) * maps, atol=1e-7, rtol=1e-4)
    hole = maps * (torch.arange(6) < 3)
    assert gradient(hole)[..., 3:].abs().max() == 0


@pytest.mark.parametrize('allocator', [CLSAttentionAllocator(), PCAAllocator(orientation='cls_attention')])
def test_attention_that_the_backbone_does_not_give_is_missed_at_once(allocator):
    with pytest.raises(ConfigError, match=r'structurer\.backbone\.cls_attention=True'):
        PerceptualStructurer(Patches(), allocator)
