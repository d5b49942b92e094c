"""Distances that are known by hand, and drawings."""

import random

import pytest
import torch

from vipo.scenes.draw import draw, object_places
from vipo.scenes.grammar import BACKGROUNDS, TEXTURES, parse_prompt, random_scene
from vipo.scenes.ground import ground_distance


def scene(texture, color):
    return parse_prompt(f'a small red circle at the left on a {texture} {color} background')


def filled(color, side=16):
    return torch.tensor(color)[:, None, None].expand(3, side, side)


@pytest.mark.parametrize(
    ('texture', 'picture', 'distance'),
    [
        ('plain', (0.55, 0.55, 0.55), 0.0),
        ('plain', (0.55, 0.55, 0.85), 0.3),
        ('plain', (0.65 * 0.55,) * 3, 0.35 * 0.55 * 3**0.5),  # a plain ground has no shade
        ('striped', (0.65 * 0.55,) * 3, 0.0),
        ('striped', (0.8 * 0.55,) * 3, 0.0),
        ('striped', (0.5 * 0.55,) * 3, 0.15 * 0.55 * 3**0.5),
        ('dotted', (0.65, 0.45, 0.55), 0.02**0.5),  # at a right angle
    ],
)
def test_by_hand(texture, picture, distance):
    assert ground_distance(filled(picture)[None], [scene(texture, 'gray')]).item() == pytest.approx(distance, abs=1e-6)


def test_objects_do_not_count():
    plain = scene('plain', 'navy')
    picture = filled(BACKGROUNDS['navy'], 64).clone()
    picture[:, object_places(plain, 64)] = 1.0
    assert ground_distance(picture[None], [plain]).item() == 0


def test_drawings_are_near_their_own_ground_and_far_from_others():
    rng = random.Random(0)
    truth = [random_scene(rng) for _ in range(60)]
    pixels = draw(truth, seed=3).pixels
    assert {s.texture for s in truth} == set(TEXTURES)
    right = ground_distance(pixels, truth)
    assert right.mean() < 0.06
    assert right.max() < 0.2
    other = [random_scene(rng) for _ in range(60)]
    differ = torch.tensor([a.background != b.background for a, b in zip(truth, other, strict=True)])
    assert (ground_distance(pixels, other) - right)[differ].median() > 0.15


def test_of_no_pictures():
    assert ground_distance(torch.zeros(0, 3, 8, 8), []).shape == (0,)
