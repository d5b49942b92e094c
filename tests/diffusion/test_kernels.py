import math

import pytest
import torch
from torch.distributions import Normal

from vipo.diffusion import CPSKernel, DanceKernel, FlowKernel, position_log_prob

SHAPE = (2, 4, 2, 3, 5)
KERNELS = (DanceKernel, FlowKernel, CPSKernel)
REDUCTIONS = ('sum', 'mean')
every_kernel = pytest.mark.parametrize('kind', KERNELS)
every_reduction = pytest.mark.parametrize('reduction', REDUCTIONS)


@pytest.fixture
def batch(normal):
    """State, velocity and noise."""
    return tuple(normal(*SHAPE, seed=seed) for seed in range(3))


def published_flow(x, v, sigma, then, eta, noise):
    """Flow-GRPO's step as its authors write it."""
    dt = then - sigma
    std = math.sqrt(sigma / (1 - sigma)) * eta
    mean = x * (1 + std**2 / (2 * sigma) * dt) + v * (1 + std**2 * (1 - sigma) / (2 * sigma)) * dt
    return mean, std * math.sqrt(-dt), mean + std * math.sqrt(-dt) * noise


def published_dance(x, v, sigma, then, eta, noise):
    """DanceGRPO's step as its authors write it."""
    dt = then - sigma
    clean = x - sigma * v
    score = -(x - clean * (1 - sigma)) / sigma**2
    mean = x + dt * v - 0.5 * eta**2 * score * dt
    return mean, eta * math.sqrt(-dt), mean + eta * math.sqrt(-dt) * noise


def published_cps(x, v, sigma, then, eta, noise):
    std = then * math.sin(eta * math.pi / 2)
    mean = (1 - then) * (x - sigma * v) + math.sqrt(then**2 - std**2) * (x + (1 - sigma) * v)
    return mean, std, mean + std * noise


@pytest.mark.parametrize(
    ('kernel', 'published'),
    [
        (FlowKernel(0.7), published_flow),
        (DanceKernel(0.7), published_dance),
        (CPSKernel(0.7, reference_steps=None), published_cps),
    ],
    ids=['flow', 'dance', 'cps'],
)
@pytest.mark.parametrize(('sigma', 'then'), [(0.95, 0.9), (0.6, 0.4), (0.1, 0.05)])
def test_step_is_the_published_one(batch, kernel, published, sigma, then):
    x, v, noise = batch
    mean, std, x_next = published(*(t.double() for t in (x, v)), sigma, then, 0.7, noise.double())
    step = kernel.step(x, v, sigma, then, noise=noise)
    assert step.std == pytest.approx(std, rel=1e-6)
    torch.testing.assert_close(step.mean.double(), mean, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(step.x_next.double(), x_next, atol=1e-5, rtol=1e-5)


@every_kernel
def test_eta_zero_is_an_euler_step(batch, kind):
    x, v, noise = batch
    step = kind(0.0).step(x, v, 0.75, 0.5, noise=noise)
    torch.testing.assert_close(step.x_next, x - 0.25 * v, atol=1e-6, rtol=0)
    assert step.std == 0
    assert step.log_prob is None


@every_kernel
def test_last_step_adds_no_noise(batch, kind):
    x, v, noise = batch
    kernel = kind(1.0)
    one, other = kernel.step(x, v, 0.25, 0.0, noise=noise), kernel.step(x, v, 0.25, 0.0, noise=-3 * noise)
    assert torch.equal(one.x_next, other.x_next)
    torch.testing.assert_close(one.x_next, x - 0.25 * v, atol=1e-6, rtol=0)
    assert one.std == 0
    assert one.log_prob is None


@every_kernel
@pytest.mark.parametrize('sigma', [1.0, 0.8, 0.2])
def test_every_other_step_adds_noise(batch, kind, sigma):
    x, v, noise = batch
    kernel = kind(0.5)
    step, other = kernel.step(x, v, sigma, 0.1, noise=noise), kernel.step(x, v, sigma, 0.1, noise=-noise)
    torch.testing.assert_close(step.x_next - other.x_next, 2 * step.std * noise, atol=1e-5, rtol=1e-4)
    assert step.std > 0.01


@every_kernel
@every_reduction
@pytest.mark.parametrize('sigma', [1.0, 0.6])
def test_replay_gives_the_sampled_log_prob_bit_for_bit(batch, kind, reduction, sigma):
    x, v, noise = batch
    kernel = kind(0.8, reduction)
    sampled = kernel.step(x, v, sigma, 0.5, noise=noise)
    replayed = kernel.step(x, v.clone().requires_grad_(), sigma, 0.5, x_next=sampled.x_next)
    assert torch.equal(replayed.log_prob.detach(), sampled.log_prob)
    assert torch.equal(replayed.x_next, sampled.x_next)


@every_kernel
@every_reduction
def test_log_prob_is_the_normal_density_up_to_its_constant(batch, kind, reduction):
    x, v, noise = batch
    step = kind(0.6, reduction).step(x, v, 0.6, 0.5, noise=noise)
    density = Normal(step.mean.double(), step.std).log_prob(step.x_next.double())
    constant = math.log(step.std) + 0.5 * math.log(2 * math.pi)
    channels = SHAPE[1]
    wanted = density.sum(1) + channels * constant
    if reduction == 'mean':
        wanted = wanted / channels
    assert step.log_prob.shape == (2, 2, 3, 5)
    torch.testing.assert_close(step.log_prob.double(), wanted, atol=1e-4, rtol=1e-4)


def test_log_prob_by_hand():
    x_next = torch.tensor([3.0, 1.0]).reshape(1, 2, 1, 1, 1)
    mean = torch.tensor([1.0, 0.0]).reshape(1, 2, 1, 1, 1)
    assert position_log_prob(x_next, mean, 0.5, 'sum').item() == pytest.approx(-(4 + 1) / 0.5)
    assert position_log_prob(x_next, mean, 0.5, 'mean').item() == pytest.approx(-(4 + 1) / 0.5 / 2)


@every_kernel
def test_gradient_of_log_prob_in_closed_form(batch, kind):
    x, v, noise = batch
    v.requires_grad_()
    kernel = kind(0.8)
    x_next = kernel.step(x, v.detach(), 0.6, 0.4, noise=noise).x_next
    step = kernel.step(x, v, 0.6, 0.4, x_next=x_next)
    step.log_prob.sum().backward()
    one = torch.ones(1, 1, 1, 1, 1)
    slope = kernel.step(0 * one, one, 0.6, 0.4, noise=one).mean.item()
    torch.testing.assert_close(v.grad, slope * noise / step.std, atol=1e-3, rtol=1e-3)
    assert abs(slope) > 0.1


@every_kernel
def test_sampled_log_prob_has_a_gradient_too(batch, kind):
    """The sample is held fixed: otherwise it moves with the mean and the gradient vanishes."""
    x, v, noise = batch
    v.requires_grad_()
    kind(0.8).step(x, v, 0.6, 0.4, noise=noise).log_prob.sum().backward()
    assert v.grad.isfinite().all()
    assert v.grad.abs().max() > 0.1


@every_kernel
def test_half_precision_is_computed_in_float32(batch, kind):
    x, v, noise = (t.bfloat16() for t in batch)
    kernel = kind(0.8)
    half = kernel.step(x, v, 0.6, 0.5, noise=noise)
    full = kernel.step(x.float(), v.float(), 0.6, 0.5, noise=noise.float())
    for name in ('x_next', 'mean', 'log_prob'):
        assert getattr(half, name).dtype == torch.float32
        assert torch.equal(getattr(half, name), getattr(full, name))
    assert kernel.step(x, v, 0.6, 0.0).x_next.dtype == torch.float32


@every_kernel
@pytest.mark.parametrize(
    ('sigma', 'then'), [(0.5, 0.5), (0.5, 0.7), (1.1, 0.5), (0.5, -0.1), (math.nan, 0.5), (0.5, math.nan)]
)
def test_bad_sigmas(batch, kind, sigma, then):
    x, v, noise = batch
    with pytest.raises(ValueError, match='sigma'):
        kind(0.5).step(x, v, sigma, then, noise=noise)


@every_kernel
def test_noise_and_x_next_exclude_each_other(batch, kind):
    x, v, noise = batch
    kernel = kind(0.5)
    with pytest.raises(ValueError, match='not both'):
        kernel.step(x, v, 0.6, 0.5)
    with pytest.raises(ValueError, match='not both'):
        kernel.step(x, v, 0.6, 0.5, noise=noise, x_next=x)


@every_kernel
@pytest.mark.parametrize('eta', [-0.1, math.nan, math.inf])
def test_bad_eta(kind, eta):
    with pytest.raises(ValueError, match='eta'):
        kind(eta)


def test_bad_options():
    with pytest.raises(ValueError, match='reduction'):
        FlowKernel(0.5, reduction='max')
    with pytest.raises(ValueError, match=r'\[0, 1\]'):
        CPSKernel(1.1)
    with pytest.raises(ValueError, match='reference_steps'):
        CPSKernel(0.5, reference_steps=0)
