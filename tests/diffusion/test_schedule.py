import math

import numpy as np
import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler

from vipo.diffusion import CPSKernel, StepPlan, exponential_shift, integrate, rollout, sigma_schedule


def euler(**options):
    return FlowMatchEulerDiscreteScheduler(**options)


def uniform(steps):
    return np.linspace(1, 1 / steps, steps)


def test_static_shift_by_hand():
    textbook = [1, 0.9643, 0.9231, 0.875, 0.8182, 0.75, 0.6667, 0.5625, 0.4286, 0.25, 0]
    torch.testing.assert_close(sigma_schedule(10, shift=3.0), torch.tensor(textbook), atol=5e-5, rtol=0)


@pytest.mark.parametrize('shift', [1.0, 3.0, 0.5])
@pytest.mark.parametrize('steps', [1, 4, 28])
def test_static_shift_is_that_of_diffusers(steps, shift):
    scheduler = euler(shift=shift)
    scheduler.set_timesteps(sigmas=uniform(steps))
    torch.testing.assert_close(sigma_schedule(steps, shift), scheduler.sigmas, atol=1e-6, rtol=0)


@pytest.mark.parametrize('mu', [0.0, 0.63, 1.15])
def test_dynamic_shift_is_that_of_diffusers(mu):
    scheduler = euler(use_dynamic_shifting=True)
    scheduler.set_timesteps(sigmas=uniform(12), mu=mu)
    torch.testing.assert_close(exponential_shift(sigma_schedule(12), mu), scheduler.sigmas, atol=1e-6, rtol=0)


def test_dynamic_shift_equals_the_static_one():
    torch.testing.assert_close(
        exponential_shift(sigma_schedule(7), math.log(3)), sigma_schedule(7, 3.0), atol=1e-6, rtol=0
    )


def test_ends_are_exact_and_sigmas_descend():
    """A first sigma of 0.9999999 would put FlowKernel beside its pole, one of 1.0000001 is refused by every kernel."""
    shifted = [exponential_shift(sigma_schedule(5), mu / 100) for mu in range(-200, 200)]
    for sigmas in [*shifted, *(sigma_schedule(5, shift / 10) for shift in range(1, 100))]:
        assert sigmas[0].item() == 1.0
        assert sigmas[-1].item() == 0.0
        assert (sigmas.diff() < 0).all()
        assert sigmas.dtype == torch.float32


def test_ode_is_diffusers_own_euler(normal):
    def velocity(x, sigma):
        return torch.tanh(x) * (1 + sigma) - 0.3

    initial, sigmas = normal(2, 3, 1, 4, 4), sigma_schedule(9, 3.0)
    scheduler = euler(shift=3.0)
    scheduler.set_timesteps(sigmas=uniform(9))
    x = initial
    for timestep in scheduler.timesteps:
        x = scheduler.step(velocity(x, timestep.item() / 1000), timestep, x, return_dict=False)[0]
    torch.testing.assert_close(integrate(velocity, initial, sigmas), x, atol=1e-5, rtol=1e-5)
    nearly_still = CPSKernel(1e-6)
    plan = StepPlan(frozenset(range(8)), (3,))
    sampled = rollout(velocity, initial, sigmas, nearly_still, plan, lambda i: torch.zeros_like(initial))
    torch.testing.assert_close(sampled.latents, x, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(('steps', 'shift'), [(0, 1.0), (-1, 1.0), (4, 0.0), (4, -1.0)])
def test_bad_arguments(steps, shift):
    with pytest.raises(ValueError, match='must be'):
        sigma_schedule(steps, shift)
