"""The gradient of the loss goes where the map is."""

import pytest
import torch

from tests.structurers.conftest import Attentive, every_allocator
from vipo.diffusion import DanceKernel
from vipo.losses import PolicyLoss
from vipo.structurers import PerceptualStructurer

#: Variants of one class that make a map in another way.
VARIANTS = [{'type': 'PCAAllocator', 'combine': how} for how in ('average', 'first')]


@pytest.mark.parametrize('allocator', [*({'type': name} for name in every_allocator()), *VARIANTS], ids=str)
def test_gradient_goes_where_the_map_is(pixels, normal, allocator):
    """Through the whole loss: at ratio one the gradient of every velocity is the uniform one times the map."""
    maps = PerceptualStructurer(Attentive(), allocator)(pixels(3, 5, 32, 48), (2, 4, 6))
    shape, kernel, advantage = (3, 4, 2, 4, 6), DanceKernel(0.4), torch.tensor([1.0, -0.5, 2.0])
    x, v, noise = (normal(*shape, seed=seed) for seed in range(3))
    old = kernel.step(x, v, 0.7, 0.5, noise=noise)

    def gradient(allocation):
        leaf = v.clone().requires_grad_()
        new = kernel.step(x, leaf, 0.7, 0.5, x_next=old.x_next)
        loss, _ = PolicyLoss()(new.log_prob, old.log_prob, advantage, allocation)
        return torch.autograd.grad(loss, leaf)[0]

    assert maps.std() > 0.1 or allocator['type'] == 'UniformAllocator'
    torch.testing.assert_close(gradient(maps), gradient(None) * maps, atol=1e-7, rtol=1e-4)
    hole = maps * (torch.arange(6) < 3)
    assert gradient(hole)[..., 3:].abs().max() == 0
