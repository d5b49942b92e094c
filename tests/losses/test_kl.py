import math

import pytest
import torch
from torch.distributions import Normal, kl_divergence

from vipo.diffusion import CPSKernel, DanceKernel, FlowKernel
from vipo.losses import KL_FORMS, KLInput

SIGMA, THEN, ETA = 0.6, 0.4, 0.7
SHAPE = (2, 4, 1, 3, 3)


@pytest.fixture
def both(normal):
    """``both(kernel)``: one transition under two velocities, and the trained velocity."""

    def make(kernel):
        x, v, other, noise = (normal(*SHAPE, seed=seed) for seed in range(4))
        v.requires_grad_()
        policy = kernel.step(x, v, SIGMA, THEN, noise=noise)
        reference = kernel.step(x, other, SIGMA, THEN, x_next=policy.x_next)
        return KLInput(policy, reference, v, other, THEN - SIGMA), v

    return make


@pytest.mark.parametrize('kind', [DanceKernel, FlowKernel, CPSKernel])
def test_gaussian_is_the_kl_of_the_transitions(both, kind):
    x, _ = both(kind(ETA))
    std = x.policy.std
    exact = kl_divergence(Normal(x.policy.mean, std), Normal(x.reference.mean, std)).sum(1)
    torch.testing.assert_close(KL_FORMS['gaussian'](x), exact, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ('kind', 'std_dev_t'), [(FlowKernel, ETA * math.sqrt(SIGMA / (1 - SIGMA))), (DanceKernel, ETA)]
)
def test_no_dt_is_the_published_one(both, kind, std_dev_t):
    x, _ = both(kind(ETA))
    published = ((x.policy.mean - x.reference.mean) ** 2 / (2 * std_dev_t**2)).mean(1)
    torch.testing.assert_close(KL_FORMS['no_dt'](x), published, atol=1e-6, rtol=1e-4)


def test_velocity_mse_by_hand(both):
    x, v = both(FlowKernel(ETA))
    wanted = sum((v[:, c] - x.reference_velocity[:, c]) ** 2 for c in range(4)) / 4
    torch.testing.assert_close(KL_FORMS['velocity_mse'](x), wanted)


@pytest.mark.parametrize('form', KL_FORMS)
@pytest.mark.parametrize('kind', [DanceKernel, FlowKernel, CPSKernel])
def test_every_form_pulls_towards_the_reference(both, kind, form):
    x, v = both(kind(ETA))
    divergence = KL_FORMS[form](x)
    assert divergence.shape == (2, 1, 3, 3)
    divergence.sum().backward()
    away = v.detach() - x.reference_velocity
    assert v.grad.abs().max() > 1e-3
    assert (v.grad * away >= 0).all()


@pytest.mark.parametrize('form', KL_FORMS)
def test_every_form_is_zero_at_the_reference(both, form):
    x, _ = both(FlowKernel(ETA))
    same = KLInput(x.policy, x.policy, x.velocity, x.velocity, x.delta)
    assert not KL_FORMS[form](same).any()
