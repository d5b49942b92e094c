import pytest
import torch

from tests.structurers.conftest import Attentive, Brightness, Patches
from vipo.registry import STRUCTURERS, ConfigError
from vipo.structurers import Allocator, CLSAttentionAllocator, PCAAllocator, PerceptualStructurer, UniformAllocator
from vipo.structurers.base import bind_reward, uses_reward


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


def test_map_points_at_the_object():
    pixels = torch.full((1, 3, 1, 32, 32), 0.2)
    pixels[..., 8:24, 8:16] = 0.9
    maps = PerceptualStructurer(Patches(), PCAAllocator())(pixels, (1, 8, 8))[0, 0, 0]
    assert maps[2:6, 2:4].min() > 2 * maps[:, 6:].max()


def test_uniform_allocator_is_ones(pixels):
    structurer = PerceptualStructurer(Patches(), UniformAllocator())
    assert torch.equal(structurer(pixels(2, 1, 16, 16), (1, 4, 4)), torch.ones(2, 1, 1, 4, 4))


def test_signed_map_is_the_mean_one_map_less_one(pixels):
    clip = pixels(2, 3, 32, 24)
    mean, signed = (
        PerceptualStructurer(Patches(), PCAAllocator(), normalize=n)(clip, (3, 8, 6)) for n in ('mean', 'signed')
    )
    torch.testing.assert_close(signed, mean - 1)
    assert signed.min() < 0


def test_samples_do_not_see_each_other(pixels):
    batch, structurer = pixels(3, 5, 16, 16), PerceptualStructurer(Patches(), PCAAllocator())
    alone = torch.cat([structurer(clip[None], (2, 4, 4)) for clip in batch])
    torch.testing.assert_close(structurer(batch, (2, 4, 4)), alone, atol=1e-5, rtol=0)


def test_attention_reaches_the_allocator_in_order(pixels):
    seen = {}

    class Spy(Allocator):
        def __call__(self, features, cls_attention=None):
            seen.update(features=features, attention=cls_attention)
            return features[:, :, 0]

    PerceptualStructurer(Attentive(), Spy(), frames_per_batch=6)(pixels(2, 3, 16, 12), (3, 4, 3))
    assert seen['features'].shape == (2, 3, 6, 4, 3)
    assert torch.equal(seen['attention'], seen['features'][:, :, 0])


@pytest.mark.parametrize('allocator', [CLSAttentionAllocator(), PCAAllocator(orientation='cls_attention')])
def test_attention_that_the_backbone_does_not_give_is_missed_at_once(allocator):
    with pytest.raises(ConfigError, match=r'structurer\.backbone\.cls_attention=True'):
        PerceptualStructurer(Patches(), allocator)


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
