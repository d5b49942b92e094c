import pytest
import torch
from scipy.ndimage import gaussian_filter

from vipo.registry import ALLOCATORS, ConfigError
from vipo.structurers import CLSAttentionAllocator, FeatureNormAllocator, MotionAllocator, PerceptualStructurer
from vipo.structurers.backbones import Backbone, Features


def stretched(x):
    return (x - x.min()) / (x.max() - x.min())


@pytest.mark.parametrize('sigma', [0.0, 1.0])
def test_attention_and_norm_are_smoothed_and_scaled_in_each_frame(normal, sigma):
    features, attention = normal(2, 3, 5, 6, 8), normal(2, 3, 6, 8, seed=1).exp()
    ours = {
        'attention': CLSAttentionAllocator(sigma)(features, attention),
        'norm': FeatureNormAllocator(sigma)(features),
    }
    raw = {'attention': attention, 'norm': features.square().sum(2).sqrt()}
    for name, maps in ours.items():
        for i in range(2):
            for frame in range(3):
                plane = raw[name][i, frame].double().numpy()
                smooth = gaussian_filter(plane, sigma, mode='reflect') if sigma else plane
                torch.testing.assert_close(
                    maps[i, frame].double(), torch.from_numpy(stretched(smooth)), atol=1e-5, rtol=0
                )


def test_motion_by_hand():
    """One position changes by 1 between frames 1 and 2 of four, another by 2 between 2 and 3."""
    features = torch.zeros(1, 4, 3, 2, 2)
    features[:, 2:, 0, 0, 0] = 1
    features[:, 3:, 1, 1, 1] = 2
    maps = MotionAllocator(sigma=0.0)(features)[0]
    # energies: frame 1: 1/2 at the first; frame 2: 1/2 and 4/2; frame 3: 4 at the second, which is the most
    assert maps[:, 0, 0].tolist() == [0, 0.125, 0.125, 0]
    assert maps[:, 1, 1].tolist() == [0, 0, 0.5, 1]
    assert maps[:, 0, 1].abs().max() == 0


def test_motion_follows_the_moving_patch(normal):
    """A bright square walks over a textured ground; the map is highest where it was or is."""

    class Patches(Backbone):
        def __call__(self, pixels):
            return Features(torch.nn.functional.avg_pool2d(pixels, 4))

    ground = normal(1, 3, 1, 32, 32).sigmoid() * 0.3
    clip = ground.repeat(1, 1, 5, 1, 1)
    for t in range(5):
        clip[:, :, t, 12:16, 4 * t : 4 * t + 4] = 1
    maps = PerceptualStructurer(Patches(), MotionAllocator(sigma=0.0))(clip, (5, 8, 8))[0, 0]
    for t in range(5):
        y, x = divmod(maps[t].flatten().argmax().item(), 8)
        assert y == 3
        assert abs(x - t) <= 1
    still = PerceptualStructurer(Patches(), MotionAllocator())(ground.repeat(1, 1, 5, 1, 1), (5, 8, 8))
    assert torch.equal(still, torch.ones_like(still))
    half = torch.cat([ground.repeat(1, 1, 4, 1, 1), clip[:, :, :2]], 2)
    some = PerceptualStructurer(Patches(), MotionAllocator(sigma=0.0))(half, (6, 8, 8))[0, 0]
    assert some[:3].abs().max() == 0, 'frames in which nothing moves get nothing where others move'
    assert some[4].max() > 0
    with pytest.raises(ConfigError, match='MotionAllocator compares the frames of clips, and these are pictures'):
        PerceptualStructurer(Patches(), MotionAllocator())(ground, (1, 8, 8))


def test_attention_that_is_not_there():
    with pytest.raises(ValueError, match=r'backbone\.cls_attention=True'):
        CLSAttentionAllocator()(torch.zeros(1, 1, 2, 3, 3))


@pytest.mark.parametrize('kind', ['CLSAttentionAllocator', 'FeatureNormAllocator', 'MotionAllocator'])
def test_negative_sigma_is_refused(kind):
    with pytest.raises(ConfigError, match='sigma must not be negative'):
        ALLOCATORS.build({'type': kind, 'sigma': -1.0}, at='allocator')
