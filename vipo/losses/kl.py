"""Divergences from the reference policy, by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from vipo.diffusion.kernels import Transition


@dataclass
class KLInput:
    """What a divergence may use: the same transition under the trained and the reference policy.

    Attributes:
        policy, reference: transitions from the same state, with equal std.
        velocity, reference_velocity: ``(B, C, T, H, W)``.
        delta: ``sigma_next - sigma``, negative.
    """

    policy: Transition
    reference: Transition
    velocity: Tensor
    reference_velocity: Tensor
    delta: float


def gaussian(x: KLInput) -> Tensor:
    """Exact KL of the two Gaussian transitions, summed over channels: ``|mean - mean_ref|^2 / (2 std^2)``."""
    return (x.policy.mean - x.reference.mean).square().sum(1) / (2 * x.policy.std**2)


def no_dt(x: KLInput) -> Tensor:
    """Flow-GRPO's published variant (arXiv 2505.05470): the diffusion without its ``sqrt(|D|)`` in the denominator,
    averaged over channels."""
    return (x.policy.mean - x.reference.mean).square().mean(1) * -x.delta / (2 * x.policy.std**2)


def velocity_mse(x: KLInput) -> Tensor:
    """``|v - v_ref|^2`` averaged over channels: no weighting by the noise level at all."""
    return (x.velocity.float() - x.reference_velocity.float()).square().mean(1)


#: Name -> per-position divergence ``(B, T, H, W)``.
KL_FORMS: dict[str, Callable[[KLInput], Tensor]] = {
    'gaussian': gaussian,
    'no_dt': no_dt,
    'velocity_mse': velocity_mse,
}
