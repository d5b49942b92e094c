import math
import random

import pytest
import torch

from vipo.scenes.draw import RADII, draw
from vipo.scenes.grammar import BACKGROUNDS, COLORS, SHAPES, Scene, SceneObject, random_scene

SIDE = 64
#: Area of each shape for a radius of one, by school geometry on its outline.
AREAS = {
    'circle': math.pi,
    'square': 1.68**2,
    'diamond': 2 * 1.12**2,
    'ring': math.pi * (1.01**2 - 0.47**2),
    'cross': 2 * (2 * 0.68) - 0.68**2,
    'triangle': 1.72 * (0.5 + 0.5 * 0.72) / 0.866,
}


def scene(shape='circle', size='large', color='red', place='center', texture='plain', background='gray'):
    return Scene((SceneObject(size, color, shape),), place, texture, background)


@pytest.fixture(scope='module')
def many():
    rng = random.Random(0)
    scenes = [random_scene(rng) for _ in range(200)]
    return scenes, draw(scenes, seed=1)


def centroid(mask):
    """(x, y) as shares of the side."""
    places = (torch.arange(SIDE) + 0.5) / SIDE
    return ((mask.sum(0) * places).sum() / mask.sum()).item(), ((mask.sum(1) * places).sum() / mask.sum()).item()


def test_seed_decides(many):
    scenes, drawing = many
    assert torch.equal(draw(scenes, seed=1).pixels, drawing.pixels)
    assert not torch.equal(draw(scenes, seed=2).pixels, drawing.pixels)
    before = torch.get_rng_state(), random.getstate()
    draw(scenes[:2], seed=3)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert random.getstate() == before[1]


def test_shape_and_range(many):
    scenes, drawing = many
    assert drawing.pixels.shape == (200, 3, SIDE, SIDE)
    assert drawing.masks.shape == (200, 2, SIDE, SIDE)
    for x in (drawing.pixels, drawing.masks):
        assert x.dtype == torch.float32
        assert x.min() >= 0
        assert x.max() <= 1
    assert draw(scenes[:1], seed=0, side=96).pixels.shape == (1, 3, 96, 96)


def test_masks_cover_the_objects_and_nothing_else(many):
    scenes, drawing = many
    for s, pixels, masks in zip(scenes, drawing.pixels, drawing.masks, strict=True):
        visible = torch.stack([masks[0] * (1 - masks[1]), masks[1]])
        for thing, mask in zip(s.objects, visible, strict=False):
            color = torch.tensor(COLORS[thing.color])[:, None]
            assert (pixels[:, mask == 1] - color).norm(dim=0).max() < 0.35
        ground = pixels[:, masks.sum(0) == 0]
        saturation = ground.amax(0) - ground.amin(0)
        assert saturation.mean() < 0.35
        assert (masks[1].sum() > 0) == (len(s.objects) == 2)


@pytest.mark.parametrize('shape', SHAPES)
@pytest.mark.parametrize('size', ['small', 'large'])
def test_area_by_geometry(shape, size):
    masks = draw([scene(shape, size)] * 40, seed=0).masks[:, 0]
    areas = masks.sum((1, 2)) / SIDE**2
    low, high = (AREAS[shape] * radius**2 for radius in RADII[size])
    assert areas.min() > 0.95 * low
    assert areas.max() < 1.05 * high
    assert areas.std() > 0.02 * low


def test_small_and_large_do_not_overlap():
    assert RADII['small'][0] < RADII['small'][1] < RADII['large'][0] < RADII['large'][1]


@pytest.mark.parametrize(
    ('place', 'x', 'y'),
    [('left', 0.27, 0.5), ('right', 0.73, 0.5), ('top', 0.5, 0.27), ('bottom', 0.5, 0.73), ('center', 0.5, 0.5)],
)
def test_object_is_where_the_prompt_says(place, x, y):
    for mask in draw([scene(place=place)] * 20, seed=0).masks[:, 0]:
        assert centroid(mask) == pytest.approx((x, y), abs=0.04)


@pytest.mark.parametrize(
    ('relation', 'direction'), [('left of', (1, 0)), ('right of', (-1, 0)), ('above', (0, 1)), ('below', (0, -1))]
)
def test_second_object_is_on_the_other_side(relation, direction):
    pair = Scene(
        (SceneObject('large', 'red', 'circle'), SceneObject('small', 'blue', 'square')), relation, 'plain', 'gray'
    )
    for masks in draw([pair] * 20, seed=0).masks:
        (x0, y0), (x1, y1) = centroid(masks[0]), centroid(masks[1])
        assert (x1 - x0, y1 - y0) == pytest.approx([0.46 * d for d in direction], abs=0.08)


@pytest.mark.parametrize('background', BACKGROUNDS)
def test_background_is_its_colour_and_only_a_texture_makes_it_vary(background):
    plain, *others = (
        draw([scene(texture=texture, background=background)] * 20, seed=0)
        for texture in ('plain', 'striped', 'checkered', 'dotted')
    )
    outside = plain.masks.sum(1) == 0
    spread = torch.stack([p[:, o].std(dim=1).mean() for p, o in zip(plain.pixels, outside, strict=True)])
    mean = torch.stack([p[:, o].mean(dim=1) for p, o in zip(plain.pixels, outside, strict=True)]).mean(0)
    assert spread.max() < 0.02
    torch.testing.assert_close(mean, torch.tensor(BACKGROUNDS[background]), atol=0.03, rtol=0)
    for other in others:
        assert min(p[:, o].std(dim=1).mean() for p, o in zip(other.pixels, outside, strict=True)) > 0.02


def test_triangle_points_up():
    mask = draw([scene('triangle')], seed=0).masks[0, 0]
    rows = mask.sum(1)[mask.sum(1) > 0]
    assert rows[-3] > 3 * rows[2]
    assert (rows[1:-1].diff() > -1).all()
