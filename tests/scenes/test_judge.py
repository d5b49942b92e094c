import random
from dataclasses import replace

import pytest
import torch

from vipo.scenes.draw import draw
from vipo.scenes.grammar import COLORS, POSITIONS, RELATIONS, SHAPES, SIZES, Scene, SceneObject, random_scene
from vipo.scenes.judge import SceneJudge

PARTS = ('color', 'shape', 'size', 'position', 'count')


@pytest.fixture(scope='module')
def judge():
    return SceneJudge()


@pytest.fixture(scope='module')
def judged(judge):
    """``judged(drawn, named)``: parts of the scores of scenes, each under the prompt of another one."""

    def score(drawn, named, seed=1):
        out = judge(draw(drawn, seed).pixels[:, :, None], [s.prompt for s in named])
        table = torch.stack([out.parts[p] for p in PARTS], dim=1)
        torch.testing.assert_close(out.scores, table.mean(1))
        assert torch.equal(out.parts['all'], (table == 1).all(1).float())
        return table

    return score


def scenes(count, pairs):
    rng = random.Random(count)
    return [random_scene(rng, two_objects=float(pairs)) for _ in range(count)]


def edited(scene, rng, name):
    """The scene with one attribute of its first object changed."""
    choices = {
        'color': [c for c in COLORS if c not in {o.color for o in scene.objects}],
        'shape': SHAPES,
        'size': SIZES,
    }
    first, *rest = scene.objects
    if name == 'position':
        if rest:
            return scene.mirrored()
        return replace(scene, placement=rng.choice([p for p in POSITIONS if p != scene.placement]))
    value = rng.choice([c for c in choices[name] if c != getattr(first, name)])
    return replace(scene, objects=(replace(first, **{name: value}), *rest))


@pytest.mark.parametrize('pairs', [False, True])
def test_true_drawings_score_one(judged, pairs):
    truth = scenes(150, pairs)
    assert (judged(truth, truth) == 1).all()


@pytest.mark.parametrize('pairs', [False, True])
@pytest.mark.parametrize('name', ['shape', 'size', 'position'])
def test_edit_lowers_its_own_part_and_no_other(judged, name, pairs):
    rng = random.Random(0)
    truth = scenes(60, pairs)
    table = judged(truth, [edited(s, rng, name) for s in truth])
    wanted = torch.ones(5)
    wanted[PARTS.index(name)] = 0.5 if pairs and name != 'position' else 0.0
    assert torch.equal(table, wanted.expand(60, 5))


@pytest.mark.parametrize(('pairs', 'rest'), [(False, 0.0), (True, 0.5)])
def test_wrong_colour_means_the_object_is_not_there(judged, pairs, rest):
    rng = random.Random(0)
    truth = scenes(60, pairs)
    table = judged(truth, [edited(s, rng, 'color') for s in truth])
    assert torch.equal(table, torch.tensor([rest, rest, rest, 0.0, 1.0]).expand(60, 5))


def test_background_is_not_judged(judged):
    truth = scenes(40, False)
    other = [replace(s, texture='plain' if s.texture != 'plain' else 'dotted', background='navy') for s in truth]
    assert (judged(truth, other) == 1).all()


def test_extra_object_lowers_the_count_alone(judged):
    drawn = scenes(40, True)
    places = {'left of': 'left', 'right of': 'right', 'above': 'top', 'below': 'bottom'}
    named = [replace(s, objects=s.objects[:1], placement=places[s.placement]) for s in drawn]
    assert torch.equal(judged(drawn, named), torch.tensor([1.0, 1, 1, 1, 0]).expand(40, 5))


def test_missing_object_halves_what_it_is_asked_for(judged):
    named = scenes(40, True)
    drawn = [replace(s, objects=s.objects[:1], placement='center') for s in named]
    assert torch.equal(judged(drawn, named), torch.tensor([0.5, 0.5, 0.5, 0, 0]).expand(40, 5))


@pytest.mark.parametrize('value', [0.0, 0.5, 1.0])
def test_blank_picture_scores_nothing(judge, value):
    out = judge(torch.full((1, 3, 1, 64, 64), value), [scenes(1, False)[0].prompt])
    assert out.scores.item() == 0
    assert out.valid.item()


def test_scores_of_a_batch_are_those_of_its_samples(judge):
    truth = scenes(6, True)
    pixels, prompts = draw(truth, 0).pixels[:, :, None], [s.prompt for s in truth][::-1]
    alone = torch.cat([judge(pixels[i : i + 1], prompts[i : i + 1]).scores for i in range(6)])
    assert torch.equal(judge(pixels, prompts).scores, alone)
    assert 0 < alone.mean() < 1


def test_larger_pictures_are_judged_alike(judge):
    truth = scenes(30, True)
    out = judge(draw(truth, 3, side=128).pixels[:, :, None], [s.prompt for s in truth])
    assert (out.scores == 1).all()


def test_specks_are_no_objects(judge):
    truth = [Scene((SceneObject('large', 'red', 'square'),), 'center', 'plain', 'gray')]
    pixels = draw(truth, 0).pixels[:, :, None]
    blue = torch.tensor(COLORS['blue']).reshape(3, 1, 1, 1)
    pixels[0, :, :, 2:6, 2:6] = blue
    assert judge(pixels, [truth[0].prompt]).scores.item() == 1
    pixels[0, :, :, 2:8, 2:8] = blue
    assert judge(pixels, [truth[0].prompt]).parts['count'].item() == 0


def painted(*squares):
    """A gray picture with squares of 20 pixels, ``(color, x, y)`` of their centres."""
    pixels = torch.full((1, 3, 1, 64, 64), 0.55)
    for color, x, y in squares:
        pixels[0, :, 0, y - 10 : y + 10, x - 10 : x + 10] = torch.tensor(COLORS[color]).reshape(3, 1, 1)
    return pixels


@pytest.mark.parametrize(
    ('x', 'y', 'place'),
    [(32, 32, 'center'), (16, 32, 'left'), (48, 36, 'right'), (28, 16, 'top'), (32, 50, 'bottom'), (22, 12, 'top')],
)
def test_position_by_hand(judge, x, y, place):
    """A picture has one position at most; towards a corner the larger offset decides."""
    prompts = [f'a small red square at the {p} on a plain gray background' for p in POSITIONS]
    position = judge(painted(('red', x, y)).expand(5, -1, -1, -1, -1), prompts).parts['position']
    assert [p for p, holds in zip(POSITIONS, position, strict=True) if holds] == [place]


@pytest.mark.parametrize(
    ('red', 'blue', 'relation'),
    [
        ((16, 32), (48, 32), 'left of'),
        ((50, 36), (16, 20), 'right of'),
        ((32, 12), (40, 52), 'above'),
        ((32, 52), (24, 12), 'below'),
        ((32, 32), (32, 32), None),
    ],
)
def test_relation_by_hand(judge, red, blue, relation):
    prompts = [f'a small red square {r} a small blue square on a plain gray background' for r in RELATIONS]
    picture = painted(('red', *red), ('blue', *blue)).expand(4, -1, -1, -1, -1)
    position = judge(picture, prompts).parts['position']
    assert [r for r, holds in zip(RELATIONS, position, strict=True) if holds] == ([relation] if relation else [])


def test_other_prompts_are_refused(judge):
    with pytest.raises(ValueError, match='is not a scene prompt'):
        judge(torch.zeros(1, 3, 1, 64, 64), ['a cat'])
