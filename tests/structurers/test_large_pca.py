"""Principal components of many patches with many features: the quick way, when it is taken, and the whole recipe."""

import pytest
import torch
from sklearn.decomposition import PCA

from tools.benchmarks.structurer import plain_map
from vipo.structurers import PCAAllocator, PerceptualStructurer, functional
from vipo.structurers.backbones import Backbone, Features
from vipo.structurers.functional import principal_components


@pytest.fixture
def exact_calls(monkeypatch):
    """How many items went through the exact decomposition, call by call."""
    calls, exact = [], functional._exact
    monkeypatch.setattr(functional, '_exact', lambda x, *rest: calls.append(len(x)) or exact(x, *rest))
    return calls


@pytest.fixture
def tokens(normal):
    """``tokens(items, N, D, strengths)``: noise with as many strong directions."""

    def make(items, n, d, strengths, seed=0):
        noise = normal(items, n, d, seed=seed)
        directions = torch.linalg.qr(normal(items, d, len(strengths), seed=seed + 1)).Q
        weights = normal(items, n, len(strengths), seed=seed + 2) * torch.tensor(strengths)
        return noise + weights @ directions.mT + 3

    return make


@pytest.mark.parametrize(('n', 'd'), [(300, 160), (160, 300)])
def test_quick_way_is_sklearns(tokens, exact_calls, n, d):
    x = tokens(4, n, d, [40.0, 25.0, 15.0])
    projected, axes, ratio = principal_components(x, 3)
    assert exact_calls == [], 'the quick way was not taken'
    for i in range(4):
        pca = PCA(3, svd_solver='full').fit(x[i].double().numpy())
        theirs = torch.from_numpy(pca.components_)
        theirs *= torch.where(theirs.gather(1, theirs.abs().argmax(1, keepdim=True)) < 0, -1.0, 1.0)
        torch.testing.assert_close(axes[i].double(), theirs, atol=1e-4, rtol=0)
        scale = projected[i].abs().max().item()
        expected = (x[i].double() - torch.from_numpy(pca.mean_)) @ theirs.mT
        torch.testing.assert_close(projected[i].double(), expected, atol=1e-4 * scale, rtol=0)
        torch.testing.assert_close(
            ratio[i].double(), torch.from_numpy(pca.explained_variance_ratio_), atol=1e-6, rtol=0
        )


def test_spectrum_without_gaps_is_decomposed_exactly(tokens, exact_calls):
    """The third and fourth direction are equally strong in one item of three: that one alone takes the slow way."""
    clear, even = tokens(2, 300, 160, [20.0, 12.0, 8.0]), tokens(1, 300, 160, [20.0, 12.0], seed=7)
    x = torch.cat([clear[:1], even, clear[1:]])
    _, axes, ratio = principal_components(x, 3)
    assert exact_calls == [1]
    pca = PCA(3, svd_solver='full').fit(x[1].double().numpy())
    theirs = torch.from_numpy(pca.components_)
    assert ((axes[1].double() * theirs).sum(1).abs() > 1 - 1e-4).all()
    torch.testing.assert_close(ratio[1].double(), torch.from_numpy(pca.explained_variance_ratio_), atol=1e-6, rtol=0)


def test_large_mean_does_not_matter(tokens, exact_calls):
    x = tokens(2, 300, 160, [20.0, 12.0, 8.0])
    plain, shifted = principal_components(x, 3), principal_components(x + 1000, 3)
    for ours, theirs in zip(shifted, plain, strict=True):
        torch.testing.assert_close(ours, theirs, atol=5e-3, rtol=0)
    assert exact_calls == []


def test_constant_item_is_finite(tokens):
    x = torch.cat([tokens(1, 300, 160, [20.0, 12.0, 8.0]), torch.full((1, 300, 160), 0.7)])
    projected, axes, ratio = principal_components(x, 3)
    assert all(part.isfinite().all() for part in (projected, axes, ratio))
    assert projected[1].abs().max() < 1e-3
    assert ratio[1].tolist() == [0, 0, 0]


class Ready(Backbone):
    """Features that are given."""

    def __init__(self, features):
        self.features = features

    def __call__(self, pixels):
        return Features(self.features)


@pytest.mark.parametrize(
    ('frames', 'patches', 'grid'),
    [
        (53, (17, 30), (14, 30, 52)),  # a clip of 240 x 416 under DINOv2
        (1, (36, 36), (1, 64, 64)),  # a picture of 512 x 512
        (1, (34, 60), (1, 30, 52)),  # more patches than latent positions
    ],
)
def test_recipe_of_the_paper_whole(tokens, frames, patches, grid):
    """scikit-learn, SciPy and PIL, frame by frame, from the same features to the latent grid."""
    height, width = patches
    x = tokens(1, height * width, 96, [9.0, 6.0, 4.0]).expand(frames, -1, -1)
    drift = tokens(frames, height * width, 96, [], seed=5) - 3
    features = (x + 0.3 * drift).mT.unflatten(2, patches).contiguous()
    structurer = PerceptualStructurer(
        Ready(features), PCAAllocator(orientation='as_computed'), normalize='minmax', frames_per_batch=64
    )
    ours = structurer(torch.zeros(1, 3, frames, 8, 8), grid)[0, 0]
    theirs = plain_map([frame.permute(1, 2, 0).numpy() for frame in features], grid)
    torch.testing.assert_close(ours, torch.from_numpy(theirs), atol=1e-4, rtol=0)
