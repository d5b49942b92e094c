import numpy as np
import pytest
import torch

from vipo.distances import FRAMES, dense_features, feature_distance, mean_pairwise, pixel_distance
from vipo.scenes.draw import draw, object_places
from vipo.scenes.grammar import parse_prompt, random_scene
from vipo.structurers.backbones.base import Backbone, Features


class Mean(Backbone):
    """The colour of a frame, at one position."""

    def __call__(self, pixels):
        return Features(map=pixels.mean((2, 3), keepdim=True))


def test_feature_distance_by_hand():
    a = torch.zeros(1, 1, 2, 1, 2)
    b = a.clone()
    a[0, 0, 0], b[0, 0, 0, 0, 0], b[0, 0, 1, 0, 1] = 3.0, 5.0, 2.0  # along each other; at right angles
    assert feature_distance(a, b).item() == pytest.approx(0.5)
    assert feature_distance(a, -a).item() == pytest.approx(2.0)
    unit = torch.nn.functional.normalize
    x, y = torch.randn(2, 4, 1, 8, 3, 3)
    assert feature_distance(x, y) == pytest.approx(
        (unit(x, dim=2) - unit(y, dim=2)).square().sum(2).mean((1, 2, 3)) / 2
    )


def test_pixel_distance_by_hand():
    black, white = torch.zeros(1, 3, 2, 4, 4), torch.ones(1, 3, 2, 4, 4)
    assert pixel_distance(black, white).item() == 1.0
    half = white.clone()
    half[..., :2] = 0
    assert pixel_distance(black, half).item() == pytest.approx(0.5**0.5)
    left = torch.zeros(1, 1, 1, 4, 4)
    left[..., :2] = 1
    assert pixel_distance(black, half, left).item() == 0.0
    assert pixel_distance(black, half, 1 - left).item() == 1.0
    assert pixel_distance(black, half, 0 * left).isnan().all()


def test_diversity_by_hand():
    values = [torch.full((2, 3, 1, 2, 2), v) for v in (0.0, 0.5, 1.0)]
    values[2][1] = 0.0  # the second prompt: 0, 0.5, 0
    assert mean_pairwise(values, pixel_distance).tolist() == pytest.approx([2 / 3, 1 / 3])


def test_a_clip_is_seen_in_some_of_its_frames():
    clip = torch.linspace(0, 1, 33)[None, None, :, None, None].expand(2, 3, -1, 4, 4)
    features = dense_features(Mean(), clip)
    assert features.shape == (2, FRAMES, 3, 1, 1)
    assert features[0, [0, -1], 0, 0, 0].tolist() == [0.0, 1.0]


def test_every_drawing_lies_in_its_places():
    import random

    rng = random.Random(0)
    scenes = [random_scene(rng) for _ in range(200)]
    masks = draw(scenes, seed=1).masks.amax(1) > 0
    places = torch.stack([object_places(scene, 64) for scene in scenes])
    assert not (masks & ~places).any()
    share = places.float().mean((1, 2)).numpy()
    assert np.median(share) < 0.4, 'most of a picture is background'


def test_places_by_hand():
    places = object_places(parse_prompt('a small red circle at the left on a plain gray background'), 100)
    columns, rows = np.flatnonzero(places.any(0)), np.flatnonzero(places.any(1))
    # centre 0.27 and 0.5; reach 0.135 * 1.12 + 0.035 = 0.186
    assert (columns.min(), columns.max()) == (8, 45)
    assert (rows.min(), rows.max()) == (31, 68)
