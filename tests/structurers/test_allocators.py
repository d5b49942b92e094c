import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from sklearn.decomposition import PCA

from vipo.structurers import PCAAllocator, UniformAllocator

COMBINATIONS = ('variance', 'average', 'first')
#: Wider than the number of patches and narrower; square, wide and tall grids.
SHAPES = [(64, 6, 6), (16, 6, 9), (24, 9, 4)]


@pytest.fixture
def features(normal):
    """``features(B, F, D, h, w)``: a few strong directions in noise, as in a real backbone."""

    def make(batch, frames, width, height, length, seed=0):
        strength = torch.linspace(4, 0.5, width).reshape(width, 1, 1)
        return normal(batch, frames, width, height, length, seed=seed) * strength + 2

    return make


def stretched(x):
    return (x - x.min()) / (x.max() - x.min())


def recipe(frames, combine, count=3, sigma=1.0):
    """The paper's recipe for ``(F, D, h, w)`` with scikit-learn and scipy, one frame and one component at a time.

    The first frame has the signs of scikit-learn; each later one has those that agree with the frame before.
    """
    _, width, height, length = frames.shape
    maps, before = [], None
    for frame in frames.double().numpy():
        patches = frame.reshape(width, height * length).T
        pca = PCA(1 if combine == 'first' else count, svd_solver='full').fit(patches)
        signs = np.ones(pca.n_components_) if before is None else np.sign((pca.components_ * before).sum(1))
        before = pca.components_ * signs[:, None]
        scores = pca.transform(patches) * signs
        weights = pca.explained_variance_ratio_ if combine == 'variance' else np.ones(pca.n_components_)
        total = sum(w * stretched(s) for w, s in zip(weights, scores.T, strict=True))
        maps.append(stretched(gaussian_filter(total.reshape(height, length), sigma, mode='reflect', truncate=4)))
    return np.stack(maps)


@pytest.mark.parametrize('shape', SHAPES, ids=str)
@pytest.mark.parametrize('combine', COMBINATIONS)
def test_recipe_of_the_paper(features, combine, shape):
    x = features(3, 4, *shape)
    ours = PCAAllocator(combine=combine, orientation='as_computed')(x)
    assert ours.shape == (3, 4, *shape[1:])
    for clip, maps in zip(x, ours, strict=True):
        np.testing.assert_allclose(maps.numpy(), recipe(clip, combine), atol=1e-4)


@pytest.mark.parametrize(('count', 'sigma'), [(1, 1.0), (5, 2.0), (2, 0.4)])
def test_options_reach_the_recipe(features, count, sigma):
    x = features(1, 2, *SHAPES[1])
    ours = PCAAllocator(components=count, sigma=sigma, orientation='as_computed')(x)
    np.testing.assert_allclose(ours[0].numpy(), recipe(x[0], 'variance', count, sigma), atol=1e-4)


def test_no_blur():
    x = torch.zeros(1, 1, 4, 4, 4)
    x[0, 0, :, 1, 2] = torch.tensor([1.0, 2.0, 3.0, 4.0])
    wanted = torch.zeros(4, 4)
    wanted[1, 2] = 1
    torch.testing.assert_close(PCAAllocator(1, sigma=0, orientation='as_computed')(x)[0, 0], wanted)


@pytest.mark.parametrize('combine', COMBINATIONS)
def test_shift_and_scale_of_the_features_do_not_matter(features, normal, combine):
    x = features(2, 2, *SHAPES[0])
    allocator = PCAAllocator(combine=combine, orientation='as_computed')
    moved = 7 * x + 10 * normal(64, 1, 1, seed=1)
    torch.testing.assert_close(allocator(moved), allocator(x), atol=1e-4, rtol=0)


@pytest.mark.parametrize('orientation', ['center', 'feature_norm', 'minority'])
def test_rotation_of_the_feature_space_does_not_matter_once_oriented(features, normal, orientation):
    x = features(2, 3, *SHAPES[1])
    rotation = torch.linalg.qr(normal(16, 16, seed=1)).Q
    turned = torch.einsum('ij,bfjhw->bfihw', rotation, x)
    allocator = PCAAllocator(orientation=orientation)
    torch.testing.assert_close(allocator(turned), allocator(x), atol=1e-4, rtol=0)


def test_map_uses_the_whole_unit_interval_in_every_frame(features):
    maps = PCAAllocator()(features(2, 3, *SHAPES[0]))
    assert torch.equal(maps.amin((2, 3)), torch.zeros(2, 3))
    assert torch.equal(maps.amax((2, 3)), torch.ones(2, 3))


def test_clips_do_not_see_each_other(features):
    x = features(3, 2, *SHAPES[0])
    allocator = PCAAllocator()
    torch.testing.assert_close(torch.cat([allocator(clip[None]) for clip in x]), allocator(x), atol=1e-5, rtol=0)


def test_constant_frame_has_a_constant_map():
    maps = PCAAllocator()(torch.full((1, 2, 8, 4, 4), 0.3))
    assert maps.isfinite().all()
    assert maps.amax() == maps.amin()


def test_uniform_is_ones(features):
    assert torch.equal(UniformAllocator()(features(2, 3, *SHAPES[0])), torch.ones(2, 3, 6, 6))


@pytest.mark.parametrize(
    ('options', 'match'),
    [
        ({'combine': 'max'}, r'allocator\.combine'),
        ({'orientation': 'up'}, r'allocator\.orientation'),
        ({'components': 0}, 'components'),
        ({'sigma': -1.0}, 'sigma'),
    ],
)
def test_bad_options(options, match):
    with pytest.raises(ValueError, match=match):
        PCAAllocator(**options)


def test_more_components_than_features():
    with pytest.raises(ValueError, match='cannot take 5 principal components'):
        PCAAllocator(components=5)(torch.rand(1, 1, 4, 8, 8))
