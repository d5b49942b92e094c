"""Rollout and replay: from noise to latents, and back over the transitions that were kept."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from vipo.diffusion.kernels import Kernel, Transition
from vipo.diffusion.steps import StepPlan

#: ``velocity(x (B, C, T, H, W), sigma) -> v (B, C, T, H, W)``
Velocity = Callable[[Tensor, float], Tensor]


@dataclass
class Trajectory:
    """What a rollout leaves behind. Only transitions that will be trained are kept.

    Attributes:
        latents: ``(B, C, T, H, W)``, the sample.
        steps: the K trained step indices, ascending.
        states, next_states: ``(K, B, C, T, H, W)`` float32.
        log_prob: ``(K, B, T, H, W)`` under the policy that sampled.
    """

    latents: Tensor
    steps: tuple[int, ...]
    states: Tensor
    next_states: Tensor
    log_prob: Tensor

    def __getitem__(self, samples: slice) -> Trajectory:
        """Of some samples alone."""
        return Trajectory(
            self.latents[samples],
            self.steps,
            self.states[:, samples],
            self.next_states[:, samples],
            self.log_prob[:, samples],
        )


@torch.no_grad()
def rollout(
    velocity: Velocity,
    initial: Tensor,
    sigmas: Tensor,
    kernel: Kernel,
    plan: StepPlan,
    noise: Callable[[int], Tensor],
    start: int = 0,
) -> Trajectory:
    """Sample latents and keep the transitions of the trained steps.

    Args:
        initial: ``(B, C, T, H, W)`` at ``sigmas[start]``.
        sigmas: ``(S + 1,)``, descending to 0.
        noise: ``noise(i)`` gives the noise of step i; asked for stochastic steps only.
        start: the first step; those before it were made already, see :func:`integrate`.
    """
    x = initial.float()
    levels = sigmas.tolist()
    kept: list[tuple[Tensor, Transition]] = []
    for i, (now, then) in enumerate(pairwise(levels[start:]), start):
        v = velocity(x, now)
        if i in plan.stochastic:
            transition = kernel.step(x, v, now, then, noise=noise(i))
            if i in plan.trained:
                kept.append((x, transition))
            x = transition.x_next
        else:
            x = euler_step(x, v, now, then)
    return Trajectory(
        latents=x,
        steps=plan.trained,
        states=torch.stack([state for state, _ in kept]),
        next_states=torch.stack([t.x_next for _, t in kept]),
        log_prob=torch.stack([t.log_prob for _, t in kept]),
    )


def replay(velocity: Velocity, trajectory: Trajectory, k: int, sigmas: Tensor, kernel: Kernel) -> Transition:
    """The k-th kept transition under the present policy, with gradients."""
    i = trajectory.steps[k]
    now, then = sigmas[i].item(), sigmas[i + 1].item()
    x = trajectory.states[k]
    return kernel.step(x, velocity(x, now), now, then, x_next=trajectory.next_states[k])


def euler_step(x: Tensor, v: Tensor, sigma: float, sigma_next: float) -> Tensor:
    """One step of the flow ODE in float32."""
    return x.float() + v.float() * (sigma_next - sigma)


@torch.no_grad()
def integrate(velocity: Velocity, initial: Tensor, sigmas: Tensor) -> Tensor:
    """The flow ODE from ``initial`` at ``sigmas[0]`` to ``sigmas[-1]``: deterministic sampling."""
    x = initial.float()
    levels = sigmas.tolist()
    for now, then in pairwise(levels):
        x = euler_step(x, velocity(x, now), now, then)
    return x
