import pytest
import torch

from vipo.structurers import PCAAllocator
from vipo.structurers.orientation import ORIENTATIONS

GRID = (8, 8)


def region(rows, columns):
    """One inside the block, zero outside."""
    out = torch.zeros(GRID)
    out[rows, columns] = 1
    return out


CENTER, CORNER = region(slice(2, 6), slice(2, 6)), region(slice(5, 8), slice(5, 8))
LEFT = region(slice(0, 8), slice(0, 4))


def evidence(name, component, norm=None, attention=None):
    """Of the component and of its negative, in a clip of two equal frames."""
    pair = torch.stack([component, -component])[None, None].expand(1, 2, -1, -1, -1)
    norm = torch.ones(GRID) if norm is None else norm
    features = torch.stack([0.6 * norm, -0.8 * norm]).expand(1, 2, 2, *GRID)  # as long as the norm
    attention = None if attention is None else attention.expand(1, 2, *GRID)
    return ORIENTATIONS[name](pair, features, attention)[0].tolist()


@pytest.mark.parametrize(
    ('name', 'component', 'guides'),
    [
        ('center', CENTER, {}),
        ('minority', CORNER, {}),
        ('feature_norm', LEFT, {'norm': LEFT + 3}),
        ('cls_attention', CORNER, {'attention': CORNER * 0.1}),
    ],
)
def test_wrong_end_is_turned_over(name, component, guides):
    keep, turn = evidence(name, component + 5, **guides)
    assert keep > 0 > turn


def test_guides_are_not_mixed_up():
    """A component on the left: what decides is the strategy's own guide, not the other one."""
    assert evidence('feature_norm', LEFT, norm=1 - LEFT, attention=LEFT)[0] < 0
    assert evidence('cls_attention', LEFT, norm=1 - LEFT, attention=LEFT)[0] > 0


def test_as_computed_never_turns_and_reversed_always():
    assert min(evidence('as_computed', LEFT)) > 0
    assert max(evidence('reversed', LEFT)) < 0


@pytest.mark.parametrize('combine', ['variance', 'average', 'first'])
def test_reversed_is_the_mirror_of_as_computed(normal, combine):
    features = normal(2, 3, 12, 6, 7)
    one, other = (PCAAllocator(combine=combine, orientation=name)(features) for name in ('as_computed', 'reversed'))
    torch.testing.assert_close(other, 1 - one, atol=1e-5, rtol=0)


@pytest.mark.parametrize('sign', [1.0, -1.0])
@pytest.mark.parametrize('name', ['center', 'minority', 'feature_norm', 'cls_attention'])
def test_object_is_bright_whatever_sign_its_features_have(normal, name, sign):
    direction = sign * normal(10).reshape(10, 1, 1)
    features = (1 + 3 * CENTER) * direction + 0.01 * normal(10, *GRID, seed=1)
    maps = PCAAllocator(sigma=0, orientation=name)(features[None, None], CENTER[None, None])[0, 0]
    assert maps[CENTER == 1].min() > 0.8
    assert maps[CENTER == 0].max() < 0.2


def test_object_in_a_corner_is_figure_by_its_size_and_ground_by_its_place(normal):
    features = (1 + 3 * CORNER) * normal(10).reshape(10, 1, 1) + 0.01 * normal(10, *GRID, seed=1)
    minority, center = (
        PCAAllocator(sigma=0, orientation=name)(features[None, None])[0, 0] for name in ('minority', 'center')
    )
    assert minority[CORNER == 1].min() > 0.8
    assert center[CORNER == 1].max() < 0.2


def test_cls_attention_without_attention(normal):
    with pytest.raises(ValueError, match='cls_attention=True'):
        PCAAllocator(orientation='cls_attention')(normal(1, 1, 8, 4, 4))


@pytest.mark.parametrize('name', ['as_computed', 'reversed', 'center', 'feature_norm', 'minority'])
def test_still_clip_has_a_still_map(normal, name):
    features = normal(2, 1, 8, 6, 6).expand(-1, 4, -1, -1, -1)
    maps = PCAAllocator(orientation=name)(features)
    torch.testing.assert_close(maps, maps[:, :1].expand_as(maps), atol=1e-6, rtol=0)


def test_axis_that_changes_its_computed_sign_does_not_flip_the_map():
    """The largest axis entry is +1 in one frame and -1 in the next, though the axis has hardly moved."""
    axes = torch.tensor([[1.0, -0.99], [0.99, -1.0], [1.0, -0.99]])
    clip = axes[None, :, :, None, None] * CORNER
    allocator = PCAAllocator(1, orientation='as_computed')
    alone = torch.cat([allocator(frame[:, None]) for frame in clip.unbind(1)], dim=1)
    torch.testing.assert_close(alone[0, 1], 1 - alone[0, 0], atol=1e-3, rtol=0)
    together = allocator(clip)
    torch.testing.assert_close(together, together[:, :1].expand_as(together), atol=1e-3, rtol=0)


def test_one_decision_for_the_whole_clip(normal):
    """An object that leaves the centre stays bright, though in the last frame alone the border would win."""
    border = region(slice(0, 2), slice(0, 8))
    direction = normal(6).reshape(6, 1, 1)
    clip = torch.stack([place * direction for place in (CENTER, CENTER, border)])[None]
    allocator = PCAAllocator(1, sigma=0, orientation='center')
    assert allocator(clip[:, 2:])[0, 0][border == 1].max() < 0.1
    maps = allocator(clip)[0]
    for frame, place in zip(maps, (CENTER, CENTER, border), strict=True):
        assert frame[place == 1].min() > 0.9
        assert frame[place == 0].max() < 0.1
