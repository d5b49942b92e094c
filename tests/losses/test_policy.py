import math

import pytest
import torch

from vipo.diffusion import Transition
from vipo.losses import KLInput, PolicyLoss

OLD = torch.zeros(2, 1, 2, 2)
ADVANTAGE = torch.tensor([2.0, -1.0])


def ratios(*values):
    """Log-probs of two samples, each with one ratio everywhere."""
    return torch.tensor(values).log().reshape(2, 1, 1, 1).expand(2, 1, 2, 2).clone().requires_grad_()


def kl_input(difference):
    """Two policies whose velocities differ by this everywhere, at one std."""
    zero = torch.zeros(2, 3, 1, 2, 2)
    return KLInput(
        policy=Transition(zero, zero + difference, 0.5, None),
        reference=Transition(zero, zero, 0.5, None),
        velocity=zero + 2 * difference,
        reference_velocity=zero,
        delta=-0.25,
    )


def test_loss_is_averaged_over_samples_by_hand():
    loss, logs = PolicyLoss(clip_range=0.2)(ratios(1.5, 1.1), OLD, ADVANTAGE)
    assert loss.item() == pytest.approx((-2.4 + 1.1) / 2, rel=1e-5)
    assert logs['policy_loss'].item() == pytest.approx(loss.item())
    assert logs['clipped_fraction'].item() == 0.5
    assert logs['ratio_deviation'].item() == pytest.approx(0.5, rel=1e-5)
    assert not any(value.requires_grad for value in logs.values())


def test_map_reaches_the_loss():
    allocation = torch.tensor([3.0, 1.0, 0.0, 0.0]).reshape(1, 1, 1, 2, 2).expand(2, -1, -1, -1, -1)
    new = ratios(1.0, 1.0)
    PolicyLoss()(new, OLD, ADVANTAGE, allocation)[0].backward()
    assert new.grad[0].flatten().tolist() == pytest.approx([-0.75, -0.25, 0, 0])
    assert new.grad[1].flatten().tolist() == pytest.approx([0.375, 0.125, 0, 0])


@pytest.mark.parametrize(('given', 'used'), [(None, 0.1), (0.3, 0.3)])
def test_scalar_clip_range_defaults_to_the_square_root_of_the_positions(given, used):
    loss_fn = PolicyLoss(mode='scalar', clip_range=0.2, scalar_clip_range=given)
    loss, logs = loss_fn(ratios(1.5, 1.0), OLD, ADVANTAGE)
    assert loss.item() == pytest.approx((-2 * (1 + used) + 1) / 2, rel=1e-5)
    assert logs['clipped_fraction'].item() == 0.5


@pytest.mark.parametrize(
    ('form', 'value'),
    [('gaussian', 3 * 0.04 / (2 * 0.25)), ('no_dt', 0.04 * 0.25 / (2 * 0.25)), ('velocity_mse', 0.16)],
)
def test_kl_is_added_with_its_weight(form, value):
    new = ratios(1.0, 1.0)
    loss, logs = PolicyLoss(kl_weight=0.5, kl_form=form)(new, OLD, ADVANTAGE, kl_input=kl_input(0.2))
    assert logs['kl'].item() == pytest.approx(value, rel=1e-5)
    assert logs['policy_loss'].item() == pytest.approx(-0.5)
    assert loss.item() == pytest.approx(-0.5 + 0.5 * value, rel=1e-5)


def test_reference_is_needed_only_for_a_kl():
    assert not PolicyLoss().needs_reference
    assert PolicyLoss(kl_weight=0.1).needs_reference
    assert 'kl' not in PolicyLoss()(ratios(1.0, 1.0), OLD, ADVANTAGE)[1]


def test_missing_kl_input():
    with pytest.raises(ValueError, match='kl_input'):
        PolicyLoss(kl_weight=0.1)(ratios(1.0, 1.0), OLD, ADVANTAGE)


@pytest.mark.parametrize(
    ('change', 'match'),
    [
        ({'new_log_prob': torch.zeros(2, 1, 2, 3)}, r'new_log_prob has shape \(2, 1, 2, 3\), expected \(2, 1, 2, 2\)'),
        ({'advantage': torch.zeros(2, 1)}, 'advantage has shape'),
        ({'advantage': torch.zeros(1)}, 'advantage has shape'),
        ({'allocation': torch.ones(2, 1, 2, 2)}, 'allocation has shape'),
        ({'allocation': torch.ones(1, 1, 1, 2, 2)}, 'allocation has shape'),
        ({'allocation': torch.ones(2, 3, 1, 2, 2)}, 'allocation has shape'),
        ({'new_log_prob': torch.zeros(2, 4), 'old_log_prob': torch.zeros(2, 4)}, r'\(B, T, H, W\)'),
    ],
)
def test_shapes_that_would_broadcast_are_refused(change, match):
    arguments = {'new_log_prob': OLD, 'old_log_prob': OLD, 'advantage': ADVANTAGE, **change}
    with pytest.raises(ValueError, match=match):
        PolicyLoss()(**arguments)


@pytest.mark.parametrize(
    'options',
    [
        {'mode': 'pixel'},
        {'kl_form': 'reverse'},
        {'clip_range': 0.0},
        {'clip_range': math.nan},
        {'scalar_clip_range': -1.0},
        {'kl_weight': -0.1},
    ],
)
def test_bad_options_name_the_config_key(options):
    (name,) = options
    with pytest.raises(ValueError, match=rf'loss\.{name}'):
        PolicyLoss(**options)


def test_clip_range_is_as_wide_for_a_map_of_either_sign():
    """A range of 0.4 at -1 and at 1, where a ratio of 1.3 is not clipped."""
    allocation = torch.tensor([1.0, -1.0, 1.0, -1.0]).reshape(1, 1, 1, 2, 2)
    _, logs = PolicyLoss(clip_range=0.4, clip_exponent=1.0)(
        torch.full((1, 1, 2, 2), 1.3).log(), OLD[:1], ADVANTAGE[:1], allocation
    )
    assert logs['clipped_fraction'] == 0
    _, logs = PolicyLoss(clip_range=0.4, clip_exponent=1.0)(
        torch.tensor([1.3, 0.7, 1.3, 0.7]).log().reshape(1, 1, 2, 2), OLD[:1], ADVANTAGE[:1], allocation
    )
    assert logs['clipped_fraction'] == 0


@pytest.mark.parametrize(('exponent', 'clipped'), [(0.0, [1, 1]), (1.0, [0, 1]), (-1.0, [1, 0])])
def test_clip_range_follows_the_map(exponent, clipped):
    """A ratio of 1.5 everywhere, a range of 0.4 and a map of 2 and 1/2: 0.8 and 0.2 with exponent 1."""
    allocation = torch.tensor([2.0, 2.0, 0.5, 0.5]).reshape(1, 1, 1, 2, 2)
    new = torch.full((1, 1, 2, 2), 1.5).log().requires_grad_()
    _, logs = (loss := PolicyLoss(clip_range=0.4, clip_exponent=exponent))(new, OLD[:1], ADVANTAGE[:1], allocation)
    assert [logs['clipped_inside'].item(), logs['clipped_outside'].item()] == clipped
    unmapped, _ = loss(new, OLD[:1], ADVANTAGE[:1])
    assert unmapped.item() == pytest.approx(-1.4 * 2)


def test_clip_exponent_needs_positions():
    with pytest.raises(ValueError, match=r'clip_exponent needs a ratio per position'):
        PolicyLoss(mode='scalar', clip_exponent=1.0)


def test_advantage_of_each_position_reaches_the_loss():
    advantage = torch.tensor([3.0, 1.0, 0.0, -1.0]).reshape(1, 1, 2, 2).expand(2, -1, -1, -1)
    new = ratios(1.0, 1.0)
    PolicyLoss()(new, OLD, advantage)[0].backward()
    assert new.grad[0].flatten().tolist() == pytest.approx([-3 / 8, -1 / 8, 0, 1 / 8])
    with pytest.raises(ValueError, match='advantage has shape'):
        PolicyLoss()(new, OLD, advantage[:, :, :1])
