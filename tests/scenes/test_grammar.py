import random
from collections import Counter

import pytest

from vipo.scenes.grammar import (
    BACKGROUNDS,
    COLORS,
    POSITIONS,
    RELATIONS,
    SHAPES,
    SIZES,
    TEXTURES,
    Scene,
    SceneObject,
    parse_prompt,
    random_scene,
    words,
)

RED, BLUE = SceneObject('small', 'red', 'circle'), SceneObject('large', 'blue', 'ring')


def scenes(count, **options):
    rng = random.Random(0)
    return [random_scene(rng, **options) for _ in range(count)]


def test_prompt_by_hand():
    one, two = Scene((RED,), 'left', 'striped', 'gray'), Scene((BLUE, RED), 'above', 'plain', 'navy')
    assert one.prompt == 'a small red circle at the left on a striped gray background'
    assert two.prompt == 'a large blue ring above a small red circle on a plain navy background'


def test_round_trip():
    for scene in scenes(1000):
        assert parse_prompt(scene.prompt) == scene


def test_every_single_object_scene_has_its_own_prompt():
    found = {
        parse_prompt(Scene((SceneObject(size, color, shape),), place, texture, ground).prompt)
        for size in SIZES
        for color in COLORS
        for shape in SHAPES
        for place in POSITIONS
        for texture in TEXTURES[:2]
        for ground in list(BACKGROUNDS)[:2]
    }
    assert len(found) == 2 * 7 * 6 * 5 * 2 * 2


def test_case_and_spaces_do_not_matter():
    scene = Scene((BLUE, RED), 'left of', 'plain', 'navy')
    assert parse_prompt('  ' + scene.prompt.upper().replace(' ', ' \t ')) == scene


@pytest.mark.parametrize(
    'prompt',
    [
        '',
        'a photo of a cat',
        'a small pink circle at the left on a striped gray background',
        'a small red circle at the left on a striped red background',
        'a small red circle above on a striped gray background',
        'a small red circle at the left on a striped gray background, please',
        'a small red circle left of a large blue ring at the left on a striped gray background',
    ],
)
def test_other_sentences_are_refused(prompt):
    with pytest.raises(ValueError, match='is not a scene prompt'):
        parse_prompt(prompt)


@pytest.mark.parametrize(
    ('relation', 'opposite'), [('left of', 'right of'), ('right of', 'left of'), ('above', 'below'), ('below', 'above')]
)
def test_mirrored(relation, opposite):
    scene = Scene((BLUE, RED), relation, 'plain', 'navy')
    assert scene.mirrored() == Scene((BLUE, RED), opposite, 'plain', 'navy')
    assert Scene((RED,), 'left', 'plain', 'navy').mirrored() == Scene((RED,), 'left', 'plain', 'navy')


def test_random_scenes_are_seeded_and_use_the_whole_grammar():
    assert scenes(50) == scenes(50)
    many = scenes(2000)
    assert sum(len(s.objects) == 2 for s in many) == pytest.approx(800, abs=90)
    assert {s.placement for s in many} == {*POSITIONS, *RELATIONS}
    shapes = Counter(thing.shape for s in many for thing in s.objects)
    assert set(shapes) == set(SHAPES)
    assert min(shapes.values()) > 0.8 * max(shapes.values())
    assert all(s.objects[0].color != s.objects[1].color for s in many if len(s.objects) == 2)


@pytest.mark.parametrize(('share', 'count'), [(0.0, 1), (1.0, 2)])
def test_share_of_pairs(share, count):
    assert {len(s.objects) for s in scenes(100, two_objects=share)} == {count}


def test_vocabulary_is_exactly_the_words_in_use():
    assert set(words()) == {word for s in scenes(3000) for word in s.prompt.split()}
    assert words() == sorted(set(words()))
