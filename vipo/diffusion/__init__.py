"""Sigma schedules, transition kernels, step selection, rollout and replay: pure functions of tensors."""

from vipo.diffusion.kernels import CPSKernel, DanceKernel, FlowKernel, Kernel, Transition, position_log_prob
from vipo.diffusion.rollout import Trajectory, integrate, replay, rollout
from vipo.diffusion.schedule import exponential_shift, sigma_schedule
from vipo.diffusion.steps import RandomFraction, StepPlan, StepSelector, Window

__all__ = [
    'CPSKernel',
    'DanceKernel',
    'FlowKernel',
    'Kernel',
    'RandomFraction',
    'StepPlan',
    'StepSelector',
    'Trajectory',
    'Transition',
    'Window',
    'exponential_shift',
    'integrate',
    'position_log_prob',
    'replay',
    'rollout',
    'sigma_schedule',
]
