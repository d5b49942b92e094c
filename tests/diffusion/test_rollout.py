import pytest
import torch
from torch import nn

from vipo.diffusion import CPSKernel, DanceKernel, FlowKernel, StepPlan, integrate, replay, rollout, sigma_schedule
from vipo.randomness import SampleNoise

SHAPE = (3, 1, 2, 2)
SEEDS = [11, 22, 33, 44]
WINDOW = StepPlan(frozenset({2, 3}), (2, 3))
SIGMAS = sigma_schedule(6)


def velocity(x, sigma):
    """Not linear, and different for every sample and channel, but the same for a sample in any batch."""
    return torch.sin(3 * x) + sigma * x.roll(1, dims=1)


def sample(seeds=SEEDS, kernel=None, plan=WINDOW, **options):
    noise = SampleNoise(seeds, SHAPE)
    return rollout(velocity, noise('initial'), SIGMAS, kernel or FlowKernel(0.7), plan, noise, **options)


def ode(x, first, last):
    for i in range(first, last):
        x = x + velocity(x, SIGMAS[i].item()) * (SIGMAS[i + 1] - SIGMAS[i])
    return x


def test_ode_outside_the_window():
    out = sample()
    start = SampleNoise(SEEDS, SHAPE)('initial')
    torch.testing.assert_close(out.states[0], ode(start, 0, 2), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(out.latents, ode(out.next_states[1], 4, 6), atol=1e-5, rtol=1e-5)
    assert torch.equal(out.states[1], out.next_states[0])
    assert (out.next_states[0] - ode(out.states[0], 2, 3)).abs().mean() > 0.05


def test_noise_is_asked_for_stochastic_steps_only():
    asked = []
    source = SampleNoise(SEEDS, SHAPE)

    def noise(i):
        asked.append(i)
        return source(i)

    plan = StepPlan(frozenset({1, 2, 4}), (1, 4))
    rollout(velocity, source('initial'), SIGMAS, DanceKernel(0.5), plan, noise)
    assert asked == [1, 2, 4]


def test_start_goes_on_from_the_middle():
    """The ODE up to the first stochastic step and the rollout from there are the whole rollout."""
    whole, begun = sample(), integrate(velocity, SampleNoise(SEEDS, SHAPE)('initial'), SIGMAS[:3])
    late = rollout(velocity, begun, SIGMAS, FlowKernel(0.7), WINDOW, SampleNoise(SEEDS, SHAPE), start=2)
    assert late.steps == whole.steps
    for name in ('latents', 'states', 'next_states', 'log_prob'):
        assert torch.equal(getattr(late, name), getattr(whole, name)), name


def test_only_trained_transitions_are_kept():
    out = sample(plan=StepPlan(frozenset(range(5)), (1, 4)))
    assert out.steps == (1, 4)
    assert out.states.shape == out.next_states.shape == (2, 4, *SHAPE)
    assert out.log_prob.shape == (2, 4, 1, 2, 2)
    everything = sample(plan=StepPlan(frozenset(range(5)), tuple(range(5))))
    assert torch.equal(out.latents, everything.latents)
    assert torch.equal(out.states, everything.states[[1, 4]])
    assert torch.equal(out.log_prob, everything.log_prob[[1, 4]])


def test_micro_batches_give_the_same_samples():
    whole = sample()
    parts = [sample(SEEDS[:1]), sample(SEEDS[1:])]
    assert torch.equal(whole.latents, torch.cat([p.latents for p in parts]))
    assert torch.equal(whole.log_prob, torch.cat([p.log_prob for p in parts], dim=1))


def test_order_of_the_batch_does_not_matter():
    assert torch.equal(sample(SEEDS[::-1]).latents.flip(0), sample().latents)


@pytest.mark.parametrize('kind', [DanceKernel, FlowKernel, CPSKernel])
@pytest.mark.parametrize('reduction', ['sum', 'mean'])
def test_first_ratio_is_exactly_one(normal, kind, reduction):
    torch.manual_seed(0)
    network = nn.Conv3d(3, 3, (1, 3, 3), padding=(0, 1, 1))

    def learned(x, sigma):
        return network(x) * (1 + sigma)

    kernel = kind(0.7, reduction)
    plan = StepPlan(frozenset(range(5)), (0, 2, 4))
    start = normal(4, *SHAPE)
    out = rollout(learned, start, SIGMAS, kernel, plan, SampleNoise(SEEDS, SHAPE))
    for k in range(3):
        again = replay(learned, out, k, SIGMAS, kernel)
        assert torch.equal(again.log_prob.detach(), out.log_prob[k])
        network.zero_grad()
        again.log_prob.sum().backward()
        assert network.weight.grad.abs().sum() > 0


def test_replay_uses_the_sigmas_of_its_own_step():
    seen = []

    def spy(x, sigma):
        seen.append(sigma)
        return velocity(x, sigma)

    out = sample(plan=StepPlan(frozenset(range(5)), (1, 4)))
    replay(spy, out, 1, SIGMAS, FlowKernel(0.7))
    assert seen == [SIGMAS[4].item()]


def test_rollout_keeps_no_graph():
    weight = torch.ones((), requires_grad=True)
    noise = SampleNoise(SEEDS, SHAPE)
    out = rollout(lambda x, s: weight * x, noise('initial'), SIGMAS, DanceKernel(0.3), WINDOW, noise)
    assert not (out.latents.requires_grad or out.log_prob.requires_grad)
    assert not integrate(lambda x, s: weight * x, noise('initial'), SIGMAS).requires_grad


def test_half_precision_start_is_integrated_in_float32(normal):
    start = normal(2, *SHAPE).bfloat16()
    out = rollout(velocity, start, SIGMAS, DanceKernel(0.3), WINDOW, SampleNoise([1, 2], SHAPE))
    assert out.states.dtype == out.latents.dtype == out.log_prob.dtype == torch.float32
    assert integrate(velocity, start, SIGMAS).dtype == torch.float32
