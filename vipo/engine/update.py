"""The update: replay the kept transitions, weigh them, step the optimiser."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from mmengine.optim import OptimWrapper
from torch import Tensor, nn

from vipo.diffusion.rollout import replay
from vipo.engine.batch import Samples
from vipo.engine.clock import PhaseClock
from vipo.engine.finite import find_not_finite, stop_for
from vipo.engine.parallel import gather
from vipo.engine.scoring import RunStopped
from vipo.losses.kl import KLInput

if TYPE_CHECKING:
    from vipo.engine.components import Components


def update(
    model: nn.Module,
    optim: OptimWrapper,
    samples: Samples,
    components: Components,
    clock: PhaseClock,
    *,
    tolerance: float,
    iteration: int,
    folder: Path,
) -> dict[str, float]:
    """All optimiser steps of one rollout; the backward pass runs per trained step, so no graph outlives a step.

    Before the first optimiser step the policy is still the one that sampled, so every ratio must be 1: anything else
    means that rollout and replay do not compute the same thing, and a clipped objective would train on the difference.

    Args:
        tolerance: bound on max |ratio - 1| before the first optimiser step.
        iteration: counted from 1.
        folder: where a batch is written whose loss or gradient is not finite.

    Raises:
        RunStopped: on all ranks, if on any of them the first ratios differ from 1 by more than ``tolerance``, or a loss
            or a gradient is not finite. The weights then are those before the optimiser step.
    """
    batch = components.batch
    old = samples.trajectory.log_prob
    if batch.replay_size != batch.micro_batch_size:
        old = _recompute(model, samples, components, clock)
    steps = range(len(samples.trajectory.steps))
    records: list[dict[str, Tensor]] = []
    counts: list[int] = []
    first_deviation = 0.0
    with clock.phase('update', batch.samples * len(steps)):
        for number, pieces in enumerate(batch.updates(batch.replay_size)):
            losses: list[Tensor] = []
            for piece in pieces:
                count = piece.stop - piece.start
                # The mean over all samples of the step; ranks, whose gradients are averaged, may have more or fewer.
                parts = batch.update_samples / (batch.world_size * count) * len(steps)
                for k in steps:
                    final = piece is pieces[-1] and k == steps[-1]
                    with _synchronised(model, final):
                        loss, logs = _loss(model, samples, components, piece, k, old[k, piece])
                        losses.append(loss.detach())
                        clock.mark()
                        optim.backward(loss / parts)
                    records.append(logs)
                    counts.append(count)
                    clock.advance(count)
            if (found := find_not_finite(model, losses)) is not None:
                new = _recompute(model, samples, components, clock)
                micro_steps = [(piece, k) for piece in pieces for k in steps]
                raise stop_for(found, samples, micro_steps, losses, old, new, iteration, folder)
            if number == 0:
                first_deviation = torch.stack([r['ratio_deviation'] for r in records]).max().item()
                _check_first_ratio(first_deviation, tolerance)
            optim.step()
            optim.zero_grad()
    names = records[0].keys()
    logs = {name: torch.stack([r[name] for r in records]) for name in names}
    weights = torch.tensor(counts, dtype=torch.float64) / sum(counts)
    means = {name: (values.double().cpu() * weights).sum().item() for name, values in logs.items()}
    means['ratio_deviation'] = logs['ratio_deviation'].max().item()
    means['first_ratio_deviation'] = first_deviation
    return means


def _velocity(model: nn.Module, samples: Samples, piece: slice) -> Callable[[Tensor, float], Tensor]:
    conditioning = samples.conditioning[piece]
    return lambda x, sigma: model(x, sigma, conditioning)


def _loss(
    model: nn.Module, samples: Samples, c: Components, piece: slice, k: int, old: Tensor
) -> tuple[Tensor, dict[str, Tensor]]:
    sigmas = c.generator.sigmas(c.rollout.num_steps)
    trajectory = samples.trajectory[piece]
    seen: list[Tensor] = []

    def velocity(x: Tensor, sigma: float) -> Tensor:
        seen.append(_velocity(model, samples, piece)(x, sigma))
        return seen[-1]

    transition = replay(velocity, trajectory, k, sigmas, c.rollout.kernel)
    kl_input = None
    if getattr(c.loss, 'needs_reference', False):
        with torch.no_grad(), c.generator.reference():
            reference = replay(velocity, trajectory, k, sigmas, c.rollout.kernel)
        i = trajectory.steps[k]
        kl_input = KLInput(transition, reference, seen[0], seen[1], (sigmas[i + 1] - sigmas[i]).item())
    # A map on the reward is in the advantages already.
    mapped = samples.advantage.ndim > 1
    allocation = None if samples.allocation is None or mapped else samples.allocation[piece]
    loss, logs = c.loss(transition.log_prob, old, samples.advantage[piece], allocation, kl_input)
    if 'ratio_deviation' not in logs:  # a loss of somebody else's: the first-ratio check holds for it as well
        logs = {**logs, 'ratio_deviation': (transition.log_prob.detach() - old).exp().sub(1).abs().max()}
    return loss, logs


@torch.no_grad()
def _recompute(model: nn.Module, samples: Samples, c: Components, clock: PhaseClock) -> Tensor:
    """Old log-probs at the replay's geometry, before anything has been updated."""
    sigmas = c.generator.sigmas(c.rollout.num_steps)
    steps = range(len(samples.trajectory.steps))
    with clock.phase('old log-probs', c.batch.samples * len(steps)):
        parts = []
        for piece in c.batch.slices(c.batch.replay_size):
            trajectory = samples.trajectory[piece]
            velocity = _velocity(model, samples, piece)
            parts.append(
                torch.stack([replay(velocity, trajectory, k, sigmas, c.rollout.kernel).log_prob for k in steps])
            )
            clock.advance((piece.stop - piece.start) * len(steps))
    return torch.cat(parts, dim=1)


def _check_first_ratio(deviation: float, tolerance: float) -> None:
    """Every rank learns of every other's, so that all of them stop."""
    everyone = gather(torch.tensor([deviation], dtype=torch.float64)).tolist()
    bad = {rank: value for rank, value in enumerate(everyone) if not value <= tolerance}
    if not bad:
        return
    said = ', '.join(f'{value:.3g}' + f' on rank {rank}' * (len(everyone) > 1) for rank, value in bad.items())
    raise RunStopped(
        f'before any update max |ratio - 1| is {said}, but the policy that is replayed is the one that '
        f'sampled, so it must be 0 (train_cfg.ratio_tolerance={tolerance:g}). The replay does not compute what the '
        'rollout computed: its batch geometry, dtype or guidance differs, a module is in train mode (dropout), or a '
        'hook changed samples.conditioning or samples.trajectory. If the replay needs another micro-batch, set '
        'batch.replay_micro_batch_size, which recomputes the old log-probs.'
    )


def _synchronised(model: nn.Module, final: bool) -> AbstractContextManager[None]:
    """DDP averages gradients over ranks on the last backward pass of an optimiser step only.

    FSDP2 has no ``no_sync``: it averages on each, so that no rank ever keeps a whole gradient.
    """
    return nullcontext() if final or not hasattr(model, 'no_sync') else model.no_sync()
