"""The smooth reward of the named objects: by hand, against drawings, and where its gradient is."""

import random

import pytest
import torch

from vipo.scenes.draw import draw, named_masks, object_places
from vipo.scenes.fit import SceneFitReward
from vipo.scenes.grammar import COLORS, parse_prompt, random_scene

PROMPT = 'a large red square at the center on a plain navy background'


def painted(prompt, side=32, color=None):
    """The object at its named place in its middle size, on black."""
    scene = parse_prompt(prompt)
    color = torch.tensor(COLORS[scene.objects[0].color] if color is None else color)
    return (named_masks(scene, side)[:1] * color[:, None, None])[None, :, None]


def test_by_hand():
    """A picture all of the colour: what is inside of the mask counts fully, the rest of the square is too much."""
    scene = parse_prompt(PROMPT)
    mask, inside = named_masks(scene, 32)[0], object_places(scene, 32)
    full = torch.tensor(COLORS['red'])[:, None, None].expand(3, 32, 32)[None, :, None]
    assert SceneFitReward()(full, [PROMPT]).scores.item() == pytest.approx((mask.sum() / inside.sum()).item(), rel=1e-5)
    # off by 0.25 in one channel everywhere: every pixel has exp(-1/2) of the colour
    near = full - torch.tensor([0.25, 0, 0])[None, :, None, None, None]
    s = 0.60653066
    wanted = s * mask.sum() / (s * inside.sum() + mask.sum() - s * mask.sum())
    assert SceneFitReward()(near, [PROMPT]).scores.item() == pytest.approx(wanted.item(), rel=1e-5)


def test_the_right_object_is_best():
    fit = SceneFitReward()
    right = fit(painted(PROMPT), [PROMPT]).scores.item()
    assert right > 0.8  # less than 1 by the pixels of its edge
    for other in ('small red square at the center', 'large red ring at the center', 'large red square at the top'):
        assert fit(painted(f'a {other} on a plain navy background'), [PROMPT]).scores.item() < 0.8 * right
    assert fit(painted(PROMPT, color=COLORS['blue']), [PROMPT]).scores.item() < 0.05


def test_drawings_are_ahead_of_those_of_other_prompts():
    rng = random.Random(0)
    scenes = [random_scene(rng) for _ in range(40)]
    prompts = [scene.prompt for scene in scenes]
    pixels = draw(scenes, seed=2).pixels[:, :, None]
    right, wrong = (SceneFitReward()(pixels, p).scores for p in (prompts, prompts[1:] + prompts[:1]))
    assert 0.5 < right.mean() < 0.7
    assert (right > wrong + 0.2).float().mean() > 0.9


def test_gradient_is_in_the_places_of_the_objects_alone():
    scene = parse_prompt(PROMPT)
    pixels = torch.rand(1, 3, 1, 32, 32, generator=torch.Generator().manual_seed(0)).requires_grad_()
    fit = SceneFitReward()
    scores = fit.differentiable_scores(pixels, [PROMPT])
    torch.testing.assert_close(scores.detach(), fit(pixels, [PROMPT]).scores)
    (gradient,) = torch.autograd.grad(scores.sum(), pixels)
    size = gradient[0, :, 0].abs().sum(0)
    assert (size[object_places(scene, 32)] > 0).all()
    assert (size[~object_places(scene, 32)] == 0).all()


def test_bad_use():
    with pytest.raises(ValueError, match='tolerance'):
        SceneFitReward(tolerance=0)
    with pytest.raises(ValueError, match='not a scene prompt'):
        SceneFitReward()(torch.zeros(1, 3, 1, 8, 8), ['a cat'])
    assert SceneFitReward()(torch.zeros(0, 3, 1, 8, 8), []).scores.shape == (0,)
