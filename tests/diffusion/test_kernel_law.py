"""Kernels judged by their law: for Gaussian data the velocity is known, and the samples must be the data's."""

import itertools
import math

import pytest
import torch

from vipo.diffusion import CPSKernel, DanceKernel, FlowKernel, StepPlan, rollout, sigma_schedule

MEAN, STD = 1.5, 0.5
ETAS = (0.3, 0.7, 1.0)
KERNELS = (DanceKernel, FlowKernel, CPSKernel)
every_kernel = pytest.mark.parametrize('kind', KERNELS)
every_eta = pytest.mark.parametrize('eta', ETAS)


def exact_moments(kernel, velocity, sigmas):
    """Mean and std of the samples without sampling: a kernel is affine in x where the velocity is."""
    mean, variance = 0.0, 1.0
    levels = sigmas.tolist()
    probe = torch.tensor([0.0, 1.0]).reshape(2, 1, 1, 1, 1)
    for now, then in itertools.pairwise(levels):
        step = kernel.step(probe, velocity(probe, now), now, then, noise=torch.zeros_like(probe))
        offset, end = step.mean.flatten().tolist()
        mean = (end - offset) * mean + offset
        variance = (end - offset) ** 2 * variance + step.std**2
    return mean, math.sqrt(variance)


@every_kernel
@every_eta
@pytest.mark.parametrize(('shift', 'at_160', 'at_640'), [(1.0, 0.035, 0.01), (3.0, 0.07, 0.02)])
def test_moments_reach_the_data_as_steps_grow(gaussian_velocity, kind, eta, shift, at_160, at_640):
    results = [
        exact_moments(kind(eta), gaussian_velocity(MEAN, STD), sigma_schedule(steps, shift))
        for steps in (10, 40, 160, 640)
    ]
    assert all(abs(mean - MEAN) < 1e-4 for mean, _ in results)
    errors = [abs(std / STD - 1) for _, std in results]
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] < at_160
    assert errors[3] < at_640


@every_kernel
@every_eta
def test_sampled_moments_are_the_data(gaussian_velocity, kind, eta):
    count, steps = 10_000, 160
    generator = torch.Generator().manual_seed(0)

    def draw(_=None):
        return torch.randn(count, 1, 1, 1, 1, generator=generator)

    plan = StepPlan(frozenset(range(steps - 1)), (0,))
    out = rollout(gaussian_velocity(MEAN, STD), draw(), sigma_schedule(steps), kind(eta), plan, draw)
    assert out.latents.mean().item() == pytest.approx(MEAN, abs=4 * STD / math.sqrt(count))
    assert out.latents.std().item() == pytest.approx(STD, rel=0.05)


@every_eta
def test_published_cps_loses_spread(gaussian_velocity, eta):
    limit = math.cos(eta * math.pi / 4)
    kernel = CPSKernel(eta, reference_steps=None)
    stds = [exact_moments(kernel, gaussian_velocity(MEAN, STD), sigma_schedule(steps))[1] for steps in (40, 160, 640)]
    errors = [abs(std / STD - limit) for std in stds]
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] < 0.006


@every_eta
def test_default_cps_is_the_published_one_up_to_ten_steps(gaussian_velocity, eta):
    for steps in (4, 10):
        ours, theirs = (
            exact_moments(kernel, gaussian_velocity(MEAN, STD), sigma_schedule(steps))
            for kernel in (CPSKernel(eta), CPSKernel(eta, reference_steps=None))
        )
        assert ours == pytest.approx(theirs, rel=1e-5)


def test_cps_angle_shrinks_with_the_step():
    x = torch.zeros(1, 1, 1, 1, 1)
    step = CPSKernel(0.8, reference_steps=10).step(x, x, 0.525, 0.5, noise=x)
    assert step.std == pytest.approx(0.5 * math.sin(0.8 * math.pi / 2 / 2), rel=1e-5)


@every_kernel
def test_small_eta_tends_to_the_ode(normal, kind):
    x, v = normal(2, 3, 1, 2, 2), normal(2, 3, 1, 2, 2, seed=1)
    step = kind(1e-3).step(x, v, 0.7, 0.6, noise=torch.zeros_like(x))
    torch.testing.assert_close(step.mean, x - 0.1 * v, atol=1e-5, rtol=0)
    assert 0 < step.std < 2e-3


@pytest.mark.parametrize('then', [0.9, 0.6, 0.3])
@pytest.mark.parametrize(('kernel', 'now'), [(FlowKernel(0.5), 1.0), (CPSKernel(0.5), 1.0), (CPSKernel(0.5), 0.95)])
def test_noise_level_of_the_marginal_is_kept(kernel, now, then):
    """Given x0 the next state must be N((1 - s) x0, s^2): the new noise makes up exactly for the old noise removed."""
    data, noise = torch.tensor([2.0, 0.0]), torch.tensor([0.0, 1.0])
    x = ((1 - now) * data + now * noise).reshape(2, 1, 1, 1, 1)
    step = kernel.step(x, (noise - data).reshape(2, 1, 1, 1, 1), now, then, noise=torch.zeros_like(x))
    of_data, of_noise = step.mean.flatten().tolist()
    assert of_data == pytest.approx(2 * (1 - then), rel=1e-5)
    assert of_noise**2 + step.std**2 == pytest.approx(then**2, rel=1e-5)
    assert step.std > 0


def test_flow_at_sigma_one_adds_eta_but_never_more_than_the_marginal():
    x = torch.zeros(1, 1, 1, 1, 1)
    assert FlowKernel(0.7).step(x, x, 1.0, 0.9, noise=x).std == pytest.approx(0.7)
    assert FlowKernel(1.0).step(x, x, 1.0, 0.9, noise=x).std == pytest.approx(0.9)
