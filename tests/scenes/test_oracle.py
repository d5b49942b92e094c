"""Oracle maps: on the named objects, the opposite, and elsewhere."""

import pytest
import torch

from tests.engine.conftest import small_config
from vipo.engine.components import build_components
from vipo.losses import PolicyLoss
from vipo.registry import STRUCTURERS, ConfigError
from vipo.scenes.draw import draw, named_masks
from vipo.scenes.grammar import parse_prompt
from vipo.scenes.oracle import SceneOracleStructurer

GRID = (1, 16, 16)
LEFT = 'a large red square at the left on a plain gray background'
PAIR = 'a small blue circle above a large green ring on a dotted navy background'
#: By hand: the centre of LEFT is at (0.27, 0.5) of 16 cells; a large square is 0.84 * 0.205 = 0.172 of the side from
#: its middle to its edge, so from 1.57 to 7.07 across and from 5.24 to 10.76 down.
INSIDE = (slice(6, 10), slice(2, 7))
EDGES = (slice(5, 11), slice(1, 8))


def pixels(count, seed=0):
    return torch.rand(count, 3, 1, 64, 64, generator=torch.Generator().manual_seed(seed))


def test_map_lies_on_the_cells_of_a_scene_drawn_by_hand():
    (plane,) = SceneOracleStructurer(normalize='minmax')(pixels(1), GRID, [LEFT])[:, 0, 0]
    assert (plane[INSIDE] == 1).all()
    outside = torch.ones(16, 16, dtype=torch.bool)
    outside[EDGES] = False
    assert (plane[outside] == 0).all()
    # what is left is the border: its cells are covered by what the numbers above leave of them
    assert plane[7, 1] == pytest.approx(2 - 1.568, abs=0.13)
    assert plane.sum() == pytest.approx((2 * 0.84 * 0.205 * 16) ** 2, rel=0.03)


def test_masks_are_the_middle_of_many_drawings():
    """The renderer is the independent source: averaged over its jitter, objects lie where the masks say."""
    for prompt in (LEFT, PAIR):
        scene = parse_prompt(prompt)
        mean = draw([scene] * 300, seed=3).masks.mean(0)[: len(scene.objects)]
        masks = named_masks(scene, 64)
        assert masks.shape == mean.shape
        grid = torch.arange(64.0)
        for ours, theirs in zip(masks, mean, strict=True):
            for axis in (0, 1):
                middles = [(m.sum(axis) * grid).sum() / m.sum() for m in (ours, theirs)]
                assert abs(middles[0] - middles[1]) < 0.5
            assert ours.sum() == pytest.approx(theirs.sum().item(), rel=0.05)
            assert theirs[ours > 0.5].mean() > 8 * theirs[ours == 0].mean()


def test_places_hold_every_drawing_and_little_more():
    for prompt in (LEFT, PAIR):
        scene = parse_prompt(prompt)
        (place,) = SceneOracleStructurer('places', normalize='minmax')(pixels(1), (1, 64, 64), [prompt])[:, 0, 0]
        assert place.unique().tolist() == [0, 1]
        drawn = draw([scene] * 300, seed=3).masks[:, : len(scene.objects)].amax((0, 1))
        assert drawn[place == 0].max() == 0
        assert (drawn > 0).sum() < place.sum() < 2 * (drawn > 0).sum()


def test_nothing_is_learned_outside_of_the_objects():
    maps = SceneOracleStructurer()(pixels(2), GRID, [LEFT, PAIR])
    torch.testing.assert_close(maps.mean((1, 2, 3, 4)), torch.ones(2))
    log_prob = torch.zeros(2, *GRID, requires_grad=True)
    PolicyLoss()(log_prob, torch.zeros(2, *GRID), torch.tensor([1.0, -2.0]), maps)[0].backward()
    assert (log_prob.grad[maps[:, 0] == 0] == 0).all()
    assert (log_prob.grad[maps[:, 0] > 0] != 0).all()


def test_the_opposite_and_the_map_make_one_everywhere():
    given = pixels(2), GRID, [LEFT, PAIR]
    plain, opposite = (SceneOracleStructurer(where, normalize='minmax')(*given) for where in ('objects', 'background'))
    torch.testing.assert_close(plain + opposite, torch.ones(2, 1, *GRID))


def test_random_blob_has_the_area_of_the_objects_and_follows_the_picture():
    random, given = SceneOracleStructurer('random', normalize='minmax'), pixels(24)
    maps = random(given, GRID, [LEFT] * 24)
    plain = SceneOracleStructurer(normalize='minmax')(given[:1], GRID, [LEFT])
    for each in maps:
        torch.testing.assert_close(each.flatten().sort().values, plain.flatten().sort().values)
    # smooth: half of the positions beside a covered one are covered too, where scattered ones had 12 %
    inside = maps[:, 0, 0] > 0.5
    assert inside[:, :, 1:][inside[:, :, :-1]].float().mean() > 0.6
    # somewhere else in every picture, and on the objects no more often than by chance
    assert len({tuple(each.flatten().tolist()) for each in maps}) == 24
    share = (inside & (plain[0, 0, 0] > 0.5)).sum() / inside.sum()
    assert share < 0.3
    # stateless: alone as in the batch, and another seed is another blob
    assert torch.equal(random(given[5:6], GRID, [LEFT]), maps[5:6])
    assert not torch.equal(
        SceneOracleStructurer('random', seed=1, normalize='minmax')(given[:1], GRID, [LEFT]), maps[:1]
    )


def test_frames_of_a_clip_are_alike():
    maps = SceneOracleStructurer()(torch.rand(1, 3, 5, 64, 64), (2, 16, 16), [LEFT])
    assert maps.shape == (1, 1, 2, 16, 16)
    assert torch.equal(maps[:, :, 0], maps[:, :, 1])


def test_mistakes_say_what_to_do():
    assert isinstance(STRUCTURERS.build({'type': 'SceneOracleStructurer'}), SceneOracleStructurer)
    with pytest.raises(ConfigError, match='scene prompts'):
        SceneOracleStructurer()(pixels(1), GRID, ['a cat on a sofa'])
    with pytest.raises(ConfigError, match='64 x 32'):
        SceneOracleStructurer()(torch.rand(1, 3, 1, 32, 64), GRID, [LEFT])
    with pytest.raises(ValueError, match='where'):
        SceneOracleStructurer('elsewhere')


def test_shipped_config_builds(tmp_path):
    structurer = build_components(small_config(tmp_path, 'oracle_tiny_sd3')).structurer
    assert (structurer.where, structurer.normalize) == ('objects', 'mean')
