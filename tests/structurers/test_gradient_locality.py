"""The gradient of the loss goes where the map is."""

import pytest
import torch

from tests.structurers.conftest import Attentive, every_allocator
from vipo.diffusion import DanceKernel
from vipo.losses import PolicyLoss
from vipo.registry import STRUCTURERS
from vipo.rewards import HPSReward
from vipo.structurers import PerceptualStructurer
from vipo.structurers.base import bind_reward, call_structurer

#: Variants of one class that make a map in another way.
VARIANTS = [{'type': 'PCAAllocator', 'combine': how} for how in ('average', 'first')]
_PCA = {'type': 'PerceptualStructurer', 'backbone': Attentive(), 'allocator': {'type': 'PCAAllocator'}}
_CENTER = {'type': 'PriorStructurer', 'prior': 'center'}
#: Every structurer, and ways of one that make another map.
STRUCTURED = [
    _PCA | {'normalize': 'minmax'},
    _PCA | {'normalize': 'signed'},
    _CENTER,
    {'type': 'CombinedStructurer', 'parts': {'a': _PCA, 'b': _CENTER}},
    {'type': 'CombinedStructurer', 'parts': {'a': _PCA, 'b': _CENTER}, 'combine': 'product'},
    {'type': 'BlendedStructurer', 'structurer': _PCA, 'floor': 0.25},
    {'type': 'RewardAttributionStructurer'},
    {'type': 'SceneOracleStructurer'},
    {'type': 'SceneOracleStructurer', 'where': 'background'},
]


@pytest.mark.parametrize('allocator', [*({'type': name} for name in every_allocator()), *VARIANTS], ids=str)
def test_gradient_goes_where_the_map_is(pixels, normal, allocator):
    maps = PerceptualStructurer(Attentive(), allocator)(pixels(3, 5, 32, 48), (2, 4, 6))
    assert maps.std() > 0.1 or allocator['type'] == 'UniformAllocator'
    check_locality(maps, normal)


@pytest.mark.parametrize('config', STRUCTURED, ids=[f'{i}-{c["type"]}' for i, c in enumerate(STRUCTURED)])
def test_gradient_goes_where_the_map_of_any_structurer_is(pixels, normal, config):
    structurer = STRUCTURERS.build(config, at='structurer')
    bind_reward(structurer, HPSReward(checkpoint='vipo://tiny-hps'))
    prompts = ['a large blue circle at the left on a plain gray background'] * 3
    maps = call_structurer(structurer, pixels(3, 1, 64, 64), (1, 8, 8), prompts)
    assert maps.shape == (3, 1, 1, 8, 8)
    assert maps.std() > 0.05
    check_locality(maps, normal)


def test_every_structurer_is_tried():
    own = {name for name, cls in STRUCTURERS.module_dict.items() if cls.__module__.startswith('vipo.')}
    assert {config['type'] for config in STRUCTURED} == own


def check_locality(maps, normal):
    """Through the whole loss: at ratio one the gradient of every velocity is the uniform one times the map."""
    count, _, frames, height, width = maps.shape
    shape, kernel, advantage = (count, 4, frames, height, width), DanceKernel(0.4), torch.tensor([1.0, -0.5, 2.0])
    x, v, noise = (normal(*shape, seed=seed) for seed in range(3))
    old = kernel.step(x, v, 0.7, 0.5, noise=noise)

    def gradient(allocation):
        leaf = v.clone().requires_grad_()
        new = kernel.step(x, leaf, 0.7, 0.5, x_next=old.x_next)
        loss, _ = PolicyLoss()(new.log_prob, old.log_prob, advantage, allocation)
        return torch.autograd.grad(loss, leaf)[0]

    torch.testing.assert_close(gradient(maps), gradient(None) * maps, atol=1e-7, rtol=1e-4)
    half = width // 2
    hole = maps * (torch.arange(width) < half)
    assert gradient(hole)[..., half:].abs().max() == 0
    assert gradient(hole)[..., :half].abs().max() > 0
