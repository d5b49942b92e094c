import pytest
import torch

from tests.structurers.conftest import Patches
from vipo.registry import STRUCTURERS, ConfigError
from vipo.structurers import (
    BlendedStructurer,
    CombinedStructurer,
    PCAAllocator,
    PerceptualStructurer,
    PriorStructurer,
    Structurer,
    UniformAllocator,
)
from vipo.structurers.base import bind_reward, counters, is_uniform, normalized, set_progress, uses_reward

PIXELS, GRID = torch.zeros(2, 3, 1, 8, 8), (1, 2, 2)


class Fixed(Structurer):
    """A map that is given; it notes the prompts, the reward and the progress."""

    def __init__(self, values, needs_prompts=False):
        self.values = torch.tensor(values).reshape(1, 1, 1, 2, 2)
        self.needs_prompts = needs_prompts
        self.seen = []

    def bind(self, reward):
        self.seen.append(reward)

    def set_progress(self, iteration, total):
        self.seen.append((iteration, total))

    def __call__(self, pixels, grid, prompts=None, metadata=None):
        self.seen += [prompts, metadata]
        return self.values.expand(len(pixels), 1, *grid).float()


LEFT, TOP = [2.0, 0.0, 2.0, 0.0], [1.5, 1.5, 0.5, 0.5]


@pytest.mark.parametrize(
    ('options', 'expected'),
    [
        ({}, [1.75, 0.75, 1.25, 0.25]),
        ({'weights': {'left': 3.0}}, [1.875, 0.375, 1.625, 0.125]),
        ({'combine': 'product'}, [3, 0, 1, 0]),
        ({'combine': 'product', 'weights': {'top': 2.0}}, [3.6, 0, 0.4, 0]),
        ({'normalize': 'signed'}, [0.75, -0.25, 0.25, -0.75]),
        ({'combine': 'product', 'normalize': 'minmax'}, [3, 0, 1, 0]),
    ],
)
def test_combination_by_hand(options, expected):
    maps = CombinedStructurer({'left': Fixed(LEFT), 'top': Fixed(TOP)}, **options)(PIXELS, GRID)
    assert maps.shape == (2, 1, *GRID)
    torch.testing.assert_close(maps[1].flatten(), torch.tensor(expected).float())


def test_product_of_maps_that_exclude_each_other_is_ones():
    structurer = CombinedStructurer({'a': Fixed([4.0, 0, 0, 0]), 'b': Fixed([0.0, 4, 0, 0])}, combine='product')
    maps = structurer(PIXELS, GRID)
    assert torch.equal(maps, torch.ones_like(maps))
    assert structurer.counts == {'products': len(PIXELS), 'vanished': len(PIXELS)}
    assert list(counters(structurer)) == [structurer.counts]


@pytest.mark.parametrize('combine', ['mean', 'product'])
@pytest.mark.parametrize('fault', [torch.nan, torch.inf])
def test_part_that_is_not_finite_is_named(combine, fault):
    broken = Fixed([1.0, fault, 1.0, 1.0])
    with pytest.raises(ConfigError, match=r'structurer\.parts\.b gave a map that is not finite'):
        CombinedStructurer({'a': Fixed(LEFT), 'b': broken}, combine=combine)(PIXELS, GRID)
    with pytest.raises(ConfigError, match=r'structurer\.structurer gave a map that is not finite'):
        BlendedStructurer(broken)(PIXELS, GRID)


@pytest.mark.parametrize('how', ['mean', 'minmax', 'signed'])
def test_silent_maps_become_ones(how):
    maps = torch.zeros(2, 1, 1, 2, 2)
    maps[1] = 3.0
    out = normalized(maps, how)
    assert torch.equal(out[0], torch.ones(1, 1, 2, 2))
    assert torch.equal(out[1], torch.full((1, 1, 2, 2), 3.0 if how == 'minmax' else 1.0))


def test_floor_and_its_schedule():
    structurer = BlendedStructurer(Fixed(LEFT), floor=1.0, end=0.25, schedule=(0.0, 0.5))
    floors = []
    for iteration in range(5):
        set_progress(structurer, iteration, 5)
        floors.append(structurer.floor)
        expected = structurer.floor + (1 - structurer.floor) * torch.tensor(LEFT)
        torch.testing.assert_close(structurer(PIXELS, GRID)[0].flatten(), expected)
    assert floors == pytest.approx([1, 0.625, 0.25, 0.25, 0.25])


def test_parts_are_reached_through_others():
    inner = Fixed(LEFT, needs_prompts=True)
    structurer = CombinedStructurer({'a': BlendedStructurer(inner, floor=0.5), 'b': PriorStructurer()})
    assert structurer.needs_prompts
    assert uses_reward(structurer)
    assert not uses_reward(BlendedStructurer(PriorStructurer()))
    bind_reward(structurer, 'the reward')
    set_progress(structurer, 3, 10)
    structurer(PIXELS, GRID, ['x', 'y'], [{'fps': 8}, {}])
    assert inner.seen == ['the reward', (3, 10), ['x', 'y'], [{'fps': 8}, {}]]
    with pytest.raises(ValueError, match='needs the prompts'):
        structurer(PIXELS, GRID)
    assert list(counters(structurer)) == [structurer.counts]


def test_what_is_the_same_everywhere_by_the_config():
    even, left = PriorStructurer(), Fixed(LEFT)
    assert is_uniform(even)
    assert is_uniform(PerceptualStructurer(Patches(), UniformAllocator()))
    assert is_uniform(CombinedStructurer({'a': even, 'b': BlendedStructurer(left, floor=1.0)}))
    assert is_uniform(BlendedStructurer(left, floor=0.0, end=1.0))
    assert is_uniform(BlendedStructurer(even, floor=0.5))
    for other in (
        left,
        PriorStructurer('center'),
        PerceptualStructurer(Patches(), PCAAllocator()),
        CombinedStructurer({'a': even, 'b': left}),
        BlendedStructurer(left, floor=0.5),
    ):
        assert not is_uniform(other)


def test_signed_parts_are_refused():
    signed = CombinedStructurer({'a': Fixed(LEFT)}, normalize='signed')
    with pytest.raises(ValueError, match=r'parts\.s is signed'):
        CombinedStructurer({'s': signed, 't': Fixed(TOP)})(PIXELS, GRID)


@pytest.mark.parametrize(
    ('config', 'match'),
    [
        ({'type': 'CombinedStructurer', 'parts': {}}, 'parts must give every part a name'),
        ({'type': 'CombinedStructurer', 'parts': [Fixed(LEFT)]}, r'every part a name.*, got \['),
        ({'type': 'CombinedStructurer', 'parts': {'a': Fixed(LEFT)}, 'combine': 'max'}, 'must be one of'),
        ({'type': 'CombinedStructurer', 'parts': {'a': Fixed(LEFT)}, 'weights': {'b': 1.0}}, "'b' must be one of"),
        ({'type': 'CombinedStructurer', 'parts': {'a': Fixed(LEFT)}, 'weights': {'a': 0.0}}, 'positive'),
        ({'type': 'CombinedStructurer', 'parts': {'a': Fixed(LEFT)}, 'normalize': 'max'}, 'normalize must be one of'),
        ({'type': 'CombinedStructurer', 'parts': {'a': {'type': 'PriorStructure'}}}, r'structurer\.parts\.a.*Prior'),
        ({'type': 'BlendedStructurer', 'structurer': Fixed(LEFT), 'floor': 1.5}, r'floor must lie in \[0, 1\]'),
        ({'type': 'BlendedStructurer', 'structurer': Fixed(LEFT), 'end': -1.0}, r'end must lie in \[0, 1\]'),
        (
            {'type': 'BlendedStructurer', 'structurer': Fixed(LEFT), 'end': 0.0, 'schedule': (0.5, 0.5)},
            'two increasing',
        ),
        (
            {'type': 'BlendedStructurer', 'structurer': Fixed(LEFT), 'schedule': (0, 0.5)},
            'no effect without structurer.end',
        ),
        ({'type': 'PriorStructurer', 'prior': 'middle'}, 'prior must be one of'),
        ({'type': 'PriorStructurer', 'width': 0.0}, 'width must be positive'),
    ],
)
def test_mistakes_are_explained(config, match):
    with pytest.raises(ConfigError, match=match):
        STRUCTURERS.build(config, at='structurer')


def test_priors():
    ones = PriorStructurer()(torch.zeros(2, 3, 5, 8, 12), (2, 4, 6))
    assert torch.equal(ones, torch.ones(2, 1, 2, 4, 6))
    maps = PriorStructurer('center', width=0.5)(torch.zeros(1, 3, 1, 8, 8), (1, 4, 4))[0, 0, 0]
    # middles of cells at 0.25 and 0.75 of half a side: exp(-0.125) and exp(-1.125)
    assert (maps[1, 1] / maps[0, 0]).item() == pytest.approx(2.718281828**2, rel=1e-5)
    assert maps.mean().item() == pytest.approx(1)
    torch.testing.assert_close(maps, maps.flip(0).flip(1))


def test_narrow_prior_is_the_positions_in_the_middle():
    maps = PriorStructurer('center', width=1e-3)(torch.zeros(1, 3, 1, 8, 8), (1, 4, 6))[0, 0, 0]
    assert maps.nonzero().tolist() == [[1, 2], [1, 3], [2, 2], [2, 3]]
    torch.testing.assert_close(maps[1:3, 2:4], torch.full((2, 2), 24 / 4))


def test_power_of_a_narrow_map_is_finite():
    """289 to the power of 16 is beyond float32."""
    parts = {'a': {'type': 'PriorStructurer', 'prior': 'center', 'width': 0.01}, 'b': {'type': 'PriorStructurer'}}
    structurer = CombinedStructurer(parts, 'product', weights={'a': 16.0})
    maps = structurer(torch.zeros(1, 3, 1, 17, 17), (1, 17, 17))
    assert maps.dtype == torch.float32
    assert maps.nonzero().tolist() == [[0, 0, 0, 8, 8]]
    assert maps.max().item() == pytest.approx(17**2)
