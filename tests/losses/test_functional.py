import math

import pytest
import torch
from torch.distributions import Normal

from vipo.diffusion import CPSKernel, DanceKernel, FlowKernel
from vipo.losses import clipped_policy_loss, ratio_statistics, scalar_clip_range

SHAPE = (3, 4, 2, 3, 5)
GRID = SHAPE[2:]
ADVANTAGE = torch.tensor([1.5, -0.5, 0.7])
every_kernel = pytest.mark.parametrize('kind', [DanceKernel, FlowKernel, CPSKernel])


@pytest.fixture
def replayed(normal):
    """``replayed(kernel, shift=0)``: a transition sampled at velocity v, and v + shift as a leaf to replay it with."""

    def make(kernel, shift=0.0):
        x, v, noise = (normal(*SHAPE, seed=seed) for seed in range(3))
        old = kernel.step(x, v, 0.6, 0.4, noise=noise)
        leaf = (v + shift * normal(*SHAPE, seed=3)).requires_grad_()
        return old, kernel.step(x, leaf, 0.6, 0.4, x_next=old.x_next), leaf

    return make


def published_grpo(old, new, advantage, clip_range):
    """Scalar GRPO as published: log-densities averaged over everything but the batch, one ratio a sample."""
    log_probs = [Normal(t.mean, t.std).log_prob(old.x_next).mean(dim=(1, 2, 3, 4)) for t in (old, new)]
    ratio = torch.exp(log_probs[1] - log_probs[0].detach())
    return -torch.min(ratio * advantage, ratio.clamp(1 - clip_range, 1 + clip_range) * advantage)


def loss_at(log_ratio, advantage, weight=None, mode='position'):
    """The loss of one sample whose positions have these log-ratios, and its gradient."""
    old = torch.zeros(1, 1, 1, len(log_ratio))
    new = torch.tensor(log_ratio).reshape(1, 1, 1, -1).requires_grad_()
    allocation = None if weight is None else torch.tensor(weight).reshape(1, 1, 1, 1, -1)
    loss, _, _ = clipped_policy_loss(new, old, torch.tensor([advantage]), allocation, clip_range=0.2, mode=mode)
    loss.sum().backward()
    return loss.item(), new.grad.flatten().tolist()


@pytest.mark.parametrize(
    ('ratio', 'advantage', 'loss', 'gradient'),
    [
        (1.5, 2.0, -2.4, 0.0),
        (1.1, 2.0, -2.2, -2.2),
        (0.5, 2.0, -1.0, -1.0),
        (1.5, -2.0, 3.0, 3.0),
        (0.9, -2.0, 1.8, 1.8),
        (0.5, -2.0, 1.6, 0.0),
        (1.5, 0.0, 0.0, 0.0),
    ],
)
def test_clipped_loss_by_hand(ratio, advantage, loss, gradient):
    value, slope = loss_at([math.log(ratio)], advantage)
    assert value == pytest.approx(loss, rel=1e-5)
    assert slope == pytest.approx([gradient], rel=1e-5)


def test_map_weights_each_position_by_hand():
    value, slope = loss_at([math.log(1.1), math.log(1.5), 0.0, 0.0], 2.0, [3.0, 1.0, 0.5, 0.0])
    assert value == pytest.approx(-(1.1 * 6 + 1.2 * 2 + 1 + 0) / 4, rel=1e-5)
    assert slope == pytest.approx([-1.1 * 6 / 4, 0.0, -1 / 4, 0.0], rel=1e-5)


def test_scalar_mode_clips_the_average_by_hand():
    value, slope = loss_at([math.log(1.5), math.log(1 / 1.4)], 2.0, mode='scalar')
    ratio = math.sqrt(1.5 / 1.4)
    assert value == pytest.approx(-2 * ratio, rel=1e-5)
    assert slope == pytest.approx([-ratio, -ratio], rel=1e-5)
    value, slope = loss_at([math.log(1.9), 0.0], 2.0, mode='scalar')
    assert value == pytest.approx(-2.4, rel=1e-5)
    assert slope == [0.0, 0.0]


@every_kernel
def test_map_of_ones_has_the_gradient_of_scalar_grpo_at_ratio_one(replayed, kind):
    old, new, v = replayed(kind(0.7, 'mean'))
    ones = torch.ones(3, 1, *GRID)
    loss, log_ratio, _ = clipped_policy_loss(new.log_prob, old.log_prob, ADVANTAGE, ones, clip_range=0.2)
    assert not log_ratio.any()
    (ours,) = torch.autograd.grad(loss.mean(), v, retain_graph=True)
    (grpo,) = torch.autograd.grad(published_grpo(old, new, ADVANTAGE, 1e-4).mean(), v)
    assert ours.abs().max() > 1e-3
    torch.testing.assert_close(ours, grpo, atol=1e-6, rtol=1e-4)


@every_kernel
@pytest.mark.parametrize('shift', [0.0, 0.05])
def test_map_of_zeros_outside_a_region_has_exactly_no_gradient_there(replayed, normal, kind, shift):
    old, new, v = replayed(kind(0.7), shift)
    allocation = normal(3, 1, *GRID).abs() + 0.1
    allocation[..., 1:, :2] = 0
    loss, _, _ = clipped_policy_loss(new.log_prob, old.log_prob, ADVANTAGE, allocation, clip_range=0.5)
    loss.mean().backward()
    outside = (allocation == 0).expand_as(v)
    assert torch.equal(v.grad[outside], torch.zeros(int(outside.sum())))
    inside = v.grad[~outside]
    assert (inside != 0).float().mean() > (0.99 if shift == 0 else 0.5)


@pytest.mark.parametrize('shift', [0.0, 0.05])
def test_scalar_mode_collapses(replayed, normal, shift):
    """A map in scalar mode is GRPO weighted by mean(map): where the map points is lost."""
    old, new, v = replayed(FlowKernel(0.7, 'mean'), shift)
    allocation = normal(3, 1, *GRID).abs()
    elsewhere = allocation.flip(-1, -2)
    grpo = published_grpo(old, new, ADVANTAGE, 0.05) * allocation.mean(dim=(1, 2, 3, 4))
    (wanted,) = torch.autograd.grad(grpo.mean(), v, retain_graph=True)
    assert wanted.abs().max() > 1e-3
    for pointing in (allocation, elsewhere):
        loss, _, _ = clipped_policy_loss(
            new.log_prob, old.log_prob, ADVANTAGE, pointing, clip_range=0.05, mode='scalar'
        )
        torch.testing.assert_close(loss, grpo, atol=1e-5, rtol=1e-4)
        (gradient,) = torch.autograd.grad(loss.mean(), v, retain_graph=True)
        torch.testing.assert_close(gradient, wanted, atol=1e-6, rtol=1e-3)
    loss, _, _ = clipped_policy_loss(new.log_prob, old.log_prob, ADVANTAGE, allocation, clip_range=0.05)
    (credit,) = torch.autograd.grad(loss.mean(), v)
    assert (credit - wanted).abs().max() > 0.1 * wanted.abs().max()


def test_ratio_statistics_by_hand():
    ratios = torch.tensor([[1.5, 0.5, 1.1, 0.9], [1.5, 0.5, 0.7, 1.0], [2.0, 0.1, 1.0, 1.0]])
    signed = torch.tensor([1.0, -1.0, 0.0]).reshape(3, 1, 1, 1)
    stats = ratio_statistics(ratios.log().reshape(3, 1, 2, 2), signed, 0.2)
    assert stats['clipped_fraction'].item() == pytest.approx(3 / 12)
    assert stats['ratio_deviation'].item() == pytest.approx(1.0, rel=1e-5)
    kl = sum(r - 1 - math.log(r) for r in ratios.double().flatten().tolist()) / 12
    assert stats['approx_kl'].item() == pytest.approx(kl, rel=1e-5)


def test_clipped_fraction_is_the_share_of_positions_without_gradient(replayed):
    old, new, _ = replayed(FlowKernel(0.7), 0.2)
    new_log_prob = new.log_prob.detach().requires_grad_()
    loss, log_ratio, signed = clipped_policy_loss(new_log_prob, old.log_prob, ADVANTAGE, clip_range=0.2)
    loss.sum().backward()
    still = (new_log_prob.grad == 0).float().mean()
    assert 0.1 < still < 0.9
    torch.testing.assert_close(ratio_statistics(log_ratio, signed, 0.2)['clipped_fraction'], still)


def test_scalar_clip_range_by_hand():
    assert scalar_clip_range(0.2, 1) == pytest.approx(0.2)
    assert scalar_clip_range(0.2, 256) == pytest.approx(0.0125)


def test_scalar_clip_range_binds_about_as_often(normal):
    log_ratio = 0.1 * normal(20_000, 1, 8, 8)
    advantage = torch.ones(20_000, 1, 1, 1)
    each = ratio_statistics(log_ratio, advantage, 0.1)['clipped_fraction'].item()
    average = log_ratio.mean(dim=(1, 2, 3), keepdim=True)
    scalar = ratio_statistics(average, advantage, scalar_clip_range(0.1, 64))['clipped_fraction'].item()
    assert 0.1 < each < 0.3
    assert scalar == pytest.approx(each, abs=0.02)


def test_unknown_mode():
    with pytest.raises(ValueError, match='mode'):
        loss_at([0.0], 1.0, mode='pixel')


def test_clipped_inside_and_outside_the_map_by_hand():
    """Two positions are inside (above the map's mean of 1); one of them is clipped, and two of six outside."""
    ratios = torch.tensor([1.5, 1.0, 1.3, 1.3, 1.0, 1.0, 1.0, 1.0]).reshape(1, 2, 2, 2)
    maps = torch.tensor([3.0, 2.0, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5]).reshape(1, 1, 2, 2, 2)
    stats = ratio_statistics(ratios.log(), torch.ones(1, 1, 1, 1), 0.2, maps)
    assert stats['clipped_inside'].item() == pytest.approx(1 / 2)
    assert stats['clipped_outside'].item() == pytest.approx(2 / 6)


def test_micro_batches_clip_as_much_inside_and_outside_as_the_whole(normal):
    """Their means are weighted by samples. The last map is constant, so that it has neither place."""
    ratios, signed = (0.3 * normal(5, 2, 3, 4)).exp(), normal(5, 1, 1, 1, seed=1)
    maps = normal(5, 1, 2, 3, 4, seed=2).exp()
    maps[4] = 1
    whole = ratio_statistics(ratios.log(), signed, 0.2, maps)
    pieces = (slice(0, 2), slice(2, 4), slice(4, 5))
    parts = [ratio_statistics(ratios[p].log(), signed[p], 0.2, maps[p]) for p in pieces]
    for name in ('clipped_fraction', 'clipped_inside', 'clipped_outside'):
        assert whole[name] > 0.1
        together = sum(part[name] * n for part, n in zip(parts, (2, 2, 1), strict=True)) / 5
        assert together.item() == pytest.approx(whole[name].item(), rel=1e-5)
    assert parts[2]['clipped_inside'] == parts[2]['clipped_outside'] == parts[2]['clipped_fraction']


def test_clip_range_of_each_position():
    """A ratio of 1.5 is clipped where the range is 0.4 and not where it is 0.6."""
    old, ratio = torch.zeros(1, 1, 1, 2), torch.full((1, 1, 1, 2), 1.5)
    new = ratio.log().requires_grad_()
    ranges = torch.tensor([0.4, 0.6]).reshape(1, 1, 1, 2)
    loss, log_ratio, signed = clipped_policy_loss(new, old, torch.tensor([2.0]), clip_range=ranges)
    loss.sum().backward()
    assert loss.item() == pytest.approx(-(1.4 * 2 + 1.5 * 2) / 2)
    assert new.grad.flatten().tolist() == pytest.approx([0, -1.5])
    assert ratio_statistics(log_ratio, signed, ranges)['clipped_fraction'].item() == 0.5


def test_advantage_of_each_position(replayed):
    """A map on the advantage is the same as the advantages A M of each position."""
    old, new, _ = replayed(FlowKernel(0.7), 0.2)
    maps = torch.rand(3, 1, *GRID)
    whole, _, _ = clipped_policy_loss(new.log_prob, old.log_prob, ADVANTAGE, maps, clip_range=0.1)
    positional = ADVANTAGE[:, None, None, None] * maps.squeeze(1)
    each, _, _ = clipped_policy_loss(new.log_prob, old.log_prob, positional, clip_range=0.1)
    torch.testing.assert_close(each, whole)
    with pytest.raises(ValueError, match='one advantage per sample'):
        clipped_policy_loss(new.log_prob, old.log_prob, positional, clip_range=0.1, mode='scalar')


def test_signed_map_pushes_the_background_the_other_way(replayed):
    old, new, v = replayed(DanceKernel(0.5))
    maps = torch.where(torch.arange(GRID[2]) < 2, 1.0, -0.5).expand(3, 1, *GRID)
    loss, _, _ = clipped_policy_loss(new.log_prob, old.log_prob, ADVANTAGE, maps, clip_range=0.2)
    (signed,) = torch.autograd.grad(loss.sum(), v, retain_graph=True)
    plain, _, _ = clipped_policy_loss(new.log_prob, old.log_prob, ADVANTAGE, clip_range=0.2)
    (even,) = torch.autograd.grad(plain.sum(), v)
    torch.testing.assert_close(signed, even * maps)
