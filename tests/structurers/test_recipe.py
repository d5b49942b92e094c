"""The paper's whole recipe, from features to the latent grid, as scikit-learn, SciPy and PIL compute it."""

import pytest
import torch

from tools.benchmarks.structurer import plain_map
from vipo.structurers import PCAAllocator, PerceptualStructurer
from vipo.structurers.backbones import Backbone, Features


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
def test_recipe_of_the_paper_whole(normal, frames, patches, grid):
    """Features of DINOv2-small's width: strong directions in noise, some of which drift in the course of the clip."""
    height, width, depth = *patches, 384
    strength = torch.tensor([9.0, 7.0, 5.0, 2.0, 1.5, 1.0])
    directions = torch.linalg.qr(normal(depth, 6)).Q * strength
    weights = (
        normal(height * width, 6, seed=1) + 0.3 * normal(frames, height * width, 6, seed=2).cumsum(0) / frames**0.5
    )
    tokens = weights @ directions.mT + 0.3 * normal(frames, height * width, depth, seed=3) + 3
    features = tokens.mT.unflatten(2, patches).contiguous()
    structurer = PerceptualStructurer(
        Ready(features), PCAAllocator(orientation='as_computed'), normalize='minmax', frames_per_batch=64
    )
    ours = structurer(normal(1, 3, frames, 8, 8).sigmoid(), grid)[0, 0]
    theirs = plain_map([frame.permute(1, 2, 0).numpy() for frame in features], grid)
    torch.testing.assert_close(ours, torch.from_numpy(theirs), atol=1e-4, rtol=0)
