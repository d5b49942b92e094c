r"""Transition kernels: the stochastic policies p(x_next | x) that a flow model is turned into.

Convention of the whole project: ``x_sigma = (1 - sigma) x0 + sigma noise`` and ``v = noise - x0``, hence
``x0_hat = x - sigma v``, ``x1_hat = x + (1 - sigma) v`` and ``score = -x1_hat / sigma``.

Dance and Flow are Euler steps of one family of SDEs that share the marginals of the flow ODE
(Song et al. 2021, arXiv 2011.13456, section 4.3; Albergo et al. 2023, arXiv 2303.08797), with
``D = sigma_next - sigma < 0``::

    mean = x + v D - (g^2 / 2) score D          std = g sqrt(|D|)
    Dance (arXiv 2505.07818): g = eta           Flow (arXiv 2505.05470): g = eta sqrt(sigma / (1 - sigma))

CPS, coefficient-preserving sampling (arXiv 2509.05952), keeps the noise level of the marginal exactly::

    std = sigma_next sin(eta pi / 2)
    mean = (1 - sigma_next) x0_hat + sqrt(sigma_next^2 - std^2) x1_hat

with an angle that shrinks with the step by default, see :class:`CPSKernel` for the reason.

The step to ``sigma_next = 0`` is deterministic in every kernel: noise added there would stay in the picture that is
scored. ``eta = 0`` is the flow ODE.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

from torch import Tensor

from vipo.registry import KERNELS

REDUCTIONS = ('sum', 'mean')


@dataclass
class Transition:
    """One step of the policy.

    Attributes:
        x_next: ``(B, C, T, H, W)`` float32, the sampled or replayed state.
        mean: ``(B, C, T, H, W)`` float32.
        std: noise scale of the step; 0 for a deterministic one.
        log_prob: ``(B, T, H, W)`` float32 up to a constant, or None for a deterministic step, which has no density.
    """

    x_next: Tensor
    mean: Tensor
    std: float
    log_prob: Tensor | None


def position_log_prob(x_next: Tensor, mean: Tensor, std: float, reduction: str) -> Tensor:
    """Log-density of each position up to a constant: ``reduce_c[-(x_next - mean)^2 / (2 std^2)]``.

    Args:
        x_next, mean: ``(B, C, T, H, W)``.
        std: positive.
        reduction: over channels; ``'sum'`` is the local likelihood, ``'mean'`` the scale of scalar GRPO.

    Returns:
        ``(B, T, H, W)``.
    """
    squared = (x_next - mean).square() / (-2 * std * std)
    return squared.sum(dim=1) if reduction == 'sum' else squared.mean(dim=1)


class Kernel(ABC):
    """A family of transitions with noise level ``eta``.

    Args:
        eta: 0 gives the ODE.
        reduction: of the per-position log-prob over channels, see :func:`position_log_prob`.

    Raises:
        ValueError: eta is negative or not finite, or the reduction is unknown.
    """

    def __init__(self, eta: float, reduction: str = 'sum') -> None:
        if not (math.isfinite(eta) and eta >= 0):
            raise ValueError(f'eta must be finite and not negative, got {eta}')
        if reduction not in REDUCTIONS:
            raise ValueError(f'reduction must be one of {REDUCTIONS}, got {reduction!r}')
        self.eta = eta
        self.reduction = reduction

    @abstractmethod
    def moments(self, x: Tensor, v: Tensor, sigma: float, sigma_next: float) -> tuple[Tensor, float]:
        """Mean ``(B, C, T, H, W)`` and std of the transition, for ``eta > 0`` and ``sigma_next > 0``."""

    def step(
        self,
        x: Tensor,
        v: Tensor,
        sigma: float,
        sigma_next: float,
        noise: Tensor | None = None,
        x_next: Tensor | None = None,
    ) -> Transition:
        """Sample a transition (``noise`` given) or replay one (``x_next`` given); the same arithmetic does both.

        Args:
            x, v: state and velocity, ``(B, C, T, H, W)``; computed in float32 whatever comes in.
            sigma, sigma_next: noise levels, ``1 >= sigma > sigma_next >= 0``.

        Raises:
            ValueError: sigmas out of order, or not exactly one of ``noise`` and ``x_next`` for a stochastic step.
        """
        if not 1 >= sigma > sigma_next >= 0:
            raise ValueError(f'a step needs 1 >= sigma > sigma_next >= 0, got {sigma} -> {sigma_next}')
        x, v = x.float(), v.float()
        if self.eta == 0 or sigma_next == 0:
            mean = x + v * (sigma_next - sigma)
            return Transition(mean if x_next is None else x_next.float(), mean, 0.0, None)
        if (noise is None) == (x_next is None):
            raise ValueError('give noise to sample a stochastic step or x_next to replay it, and not both')
        mean, std = self.moments(x, v, sigma, sigma_next)
        x_next = mean + std * noise.float() if x_next is None else x_next.float()
        return Transition(x_next, mean, std, position_log_prob(x_next.detach(), mean, std, self.reduction))


def _preserving(x: Tensor, v: Tensor, sigma: float, sigma_next: float, std: float) -> Tensor:
    """Mean that keeps the marginal's noise level: ``(1 - s) x0_hat + sqrt(s^2 - std^2) x1_hat`` at s = sigma_next."""
    x0, x1 = x - sigma * v, x + (1 - sigma) * v
    return (1 - sigma_next) * x0 + math.sqrt(sigma_next**2 - std**2) * x1


def _sde_mean(x: Tensor, v: Tensor, sigma: float, sigma_next: float, g: float) -> Tensor:
    delta = sigma_next - sigma
    score = (x + (1 - sigma) * v) / -sigma
    return x + v * delta - (0.5 * g * g * delta) * score


@KERNELS.register_module()
class DanceKernel(Kernel):
    """Constant diffusion ``g = eta`` (DanceGRPO)."""

    def moments(self, x: Tensor, v: Tensor, sigma: float, sigma_next: float) -> tuple[Tensor, float]:
        std = self.eta * math.sqrt(sigma - sigma_next)
        return _sde_mean(x, v, sigma, sigma_next, self.eta), std


@KERNELS.register_module()
class FlowKernel(Kernel):
    """Diffusion ``g = eta sqrt(sigma / (1 - sigma))`` (Flow-GRPO).

    g has a pole at sigma = 1. There the public implementations put sigma_next in its place, which leaves
    ``std = eta`` whatever the step size, too much for an Euler step: its variance is off by eta^4 / 4 for any number
    of steps. We take the same std (at most sigma_next) with the mean that keeps the marginal exactly.
    """

    def moments(self, x: Tensor, v: Tensor, sigma: float, sigma_next: float) -> tuple[Tensor, float]:
        if sigma == 1:
            std = min(self.eta, sigma_next)
            return _preserving(x, v, sigma, sigma_next, std), std
        g = self.eta * math.sqrt(sigma / (1 - sigma))
        return _sde_mean(x, v, sigma, sigma_next, g), g * math.sqrt(sigma - sigma_next)


@KERNELS.register_module()
class CPSKernel(Kernel):
    """Coefficient-preserving sampling.

    The published angle ``eta pi / 2`` does not depend on the step size, so ever finer steps refresh the noise ever more
    often. x0_hat and x1_hat are posterior means, not the true data and noise, and each refresh loses some of the spread
    between them: for Gaussian data the sampled std tends to ``cos(eta pi / 4)`` times the data's. Here the angle is
    ``eta pi / 2 * min(1, sqrt(|D| * reference_steps))``: the published one for a uniform schedule of
    ``reference_steps`` steps or fewer, and the step of an SDE, which keeps the marginals, as steps get finer.

    Args:
        eta: in [0, 1].
        reduction: see :class:`Kernel`.
        reference_steps: 10 is what Flow-GRPO trains with; None is the published angle at every step.

    Raises:
        ValueError: eta is not in [0, 1], or ``reference_steps`` is below 1.
    """

    def __init__(self, eta: float, reduction: str = 'sum', reference_steps: int | None = 10) -> None:
        super().__init__(eta, reduction)
        if eta > 1:
            raise ValueError(f'CPSKernel needs eta in [0, 1], got {eta}')
        if reference_steps is not None and reference_steps < 1:
            raise ValueError(f'reference_steps must be at least 1 or None, got {reference_steps}')
        self.reference_steps = reference_steps

    def moments(self, x: Tensor, v: Tensor, sigma: float, sigma_next: float) -> tuple[Tensor, float]:
        angle = self.eta * math.pi / 2
        if self.reference_steps is not None:
            angle *= min(1.0, math.sqrt((sigma - sigma_next) * self.reference_steps))
        std = sigma_next * math.sin(angle)
        return _preserving(x, v, sigma, sigma_next, std), std
