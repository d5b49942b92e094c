"""What the embedded reward learns from: each flaw does what its name says and nothing else."""

import random

import pytest
import torch

from tools.tiny.reward import FLAWS, OBJECT_FLAWS, batches, families, flawed
from vipo.scenes.draw import draw
from vipo.scenes.grammar import Scene, SceneObject, parse_prompt
from vipo.scenes.judge import SceneJudge

SQUARE = Scene((SceneObject('large', 'red', 'square'),), 'center', 'dotted', 'gray')
BAR = Scene((SceneObject('large', 'red', 'diamond'),), 'left', 'plain', 'navy')


def judged(pixels, scenes):
    return SceneJudge()(pixels[:, :, None], [s.prompt for s in scenes]).parts


def spoiled(flaw, scenes):
    drawing = draw(scenes, 3)
    return drawing, OBJECT_FLAWS[flaw](drawing, torch.Generator().manual_seed(0))


def test_ground_is_what_lies_outside_the_objects():
    drawing = draw([SQUARE, BAR], 0)
    bare = (drawing.masks.sum(1, keepdim=True) == 0).expand_as(drawing.pixels)
    assert torch.equal(drawing.pixels[bare], drawing.ground[bare])
    covered = (drawing.masks.amax(1, keepdim=True) == 1).expand_as(drawing.pixels)
    assert (drawing.pixels - drawing.ground).abs()[covered].mean() > 0.2


@pytest.mark.parametrize('flaw', OBJECT_FLAWS)
def test_flaws_of_objects_leave_the_rest_alone(flaw):
    drawing, pixels = spoiled(flaw, [SQUARE, BAR] * 20)
    assert pixels.min() > -1e-5
    assert pixels.max() < 1 + 1e-5
    moved = (pixels - drawing.pixels).abs().amax(1) > 0.02
    far = torch.nn.functional.max_pool2d(drawing.masks.amax(1, keepdim=True), 33, 1, 16)[:, 0] == 0
    assert moved.float().mean((1, 2)).max() < 0.25
    if flaw != 'litter':
        assert not moved[far].any()


def test_melted_objects_lose_their_shape_and_nothing_else():
    scenes = [SQUARE, BAR] * 20
    drawing, pixels = spoiled('melt', scenes)
    before, after = judged(drawing.pixels, scenes), judged(pixels, scenes)
    assert before['shape'].mean() == 1
    assert after['shape'].mean() < 0.8
    assert after['color'].mean() == 1


@pytest.mark.parametrize('flaw', ['cut', 'litter'])
def test_cut_objects_and_litter_change_the_count(flaw):
    scenes = [SQUARE] * 40
    drawing, pixels = spoiled(flaw, scenes)
    assert judged(drawing.pixels, scenes)['count'].mean() == 1
    assert judged(pixels, scenes)['count'].mean() < 0.7


def test_family_members_differ_and_are_not_one_scene_in_other_words():
    rng = random.Random(0)
    scenes = families(50, 4, rng)
    for i in range(0, len(scenes), 4):
        family = scenes[i : i + 4]
        meanings = {
            frozenset([s, Scene(s.objects[::-1], s.mirrored().placement, s.texture, s.background)]) for s in family
        }
        assert len(meanings) == 4
        assert len({(s.texture, s.background, *(t.color for t in s.objects)) for s in family}) == 1


@pytest.mark.parametrize('flaw', sorted(set(FLAWS) - {'pixels', 'other'}))
def test_flawed_scene_is_another_scene_of_the_grammar(flaw):
    rng = random.Random(0)
    for scene in families(20, 4, rng):
        wrong = flawed(scene, flaw, rng)
        assert wrong != scene
        assert parse_prompt(wrong.prompt) == wrong


def test_batches_pair_each_rejected_picture_with_its_prompt():
    prompts, good, bad = next(batches(24, 0, flaws={'color': 1}, wear=0.0))
    scenes = [parse_prompt(p) for p in prompts]
    assert (len(prompts), len(good), len(bad)) == (24, 24, 12)
    assert judged(good, scenes)['color'].mean() == 1
    assert judged(bad, scenes[:12])['color'].mean() < 0.7
