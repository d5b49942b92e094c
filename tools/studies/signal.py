"""Gradients of independent rollouts, one for each map and score, and how far they go uphill."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from mmengine.config import Config

    from vipo.engine.batch import Samples
    from vipo.engine.loop import PolicyLoop

#: Of gradients whose products are formed at a time.
_CHUNK = 2**16


@dataclass(frozen=True)
class Cosine:
    """A cosine, and what it would be without each of K rollouts, ``(K,)``; not a number where there is no direction."""

    value: float
    without: Tensor

    @property
    def error(self) -> float:
        """The jackknife's standard error over rollouts."""
        return ((len(self.without) - 1) * self.without.var(correction=0)).sqrt().item()

    def less(self, other: Cosine) -> Cosine:
        """The difference from one of the same rollouts."""
        return Cosine(self.value - other.value, self.without - other.without)


def uphill(own: Tensor, across: Tensor, target: Tensor) -> Cosine:
    """The cosine between one rollout's gradient g and the direction in which a score rises.

    The direction is the mean u of the score's own gradients. ``E[g] u / sqrt(E[g g] |u|^2)`` takes products of
    different rollouts alone: their noise is independent and adds nothing.

    Args:
        own: ``(K,)`` squared norms of g in each rollout.
        across: ``(K, K)`` products of g in a rollout with u of another one.
        target: ``(K, K)`` products of u with u.

    Raises:
        ValueError: there are fewer than three rollouts.
    """
    count = len(own)
    if count < 3:
        raise ValueError(f'gradients of at least 3 rollouts are needed to compare them, got {count}')

    def estimate(kept: Tensor) -> Tensor:
        pairs = kept[:, None] & kept & ~torch.eye(count, dtype=torch.bool)
        return across[pairs].mean() / (own[kept].mean() * target[pairs].mean()).sqrt()

    without = torch.stack([estimate(torch.arange(count) != i) for i in range(count)])
    return Cosine(estimate(torch.ones(count, dtype=torch.bool)).item(), without)


def products(gradients: Tensor, others: Tensor) -> Tensor:
    """``(A, K, B, K)`` of gradients ``(A, K, P)`` and ``(B, K, P)``, summed in float64."""
    total = torch.zeros(*gradients.shape[:2], *others.shape[:2], dtype=torch.float64)
    for at in range(0, gradients.shape[2], _CHUNK):
        a, b = (x[..., at : at + _CHUNK].double().flatten(0, 1) for x in (gradients, others))
        total += (a @ b.T).view_as(total)
    return total


def collect(
    cfg: Config, structurers: Mapping[str, Any], count: int, say: Callable[[int], None]
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Gradients of rollouts of the untrained policy.

    Args:
        cfg: the run; its ``eval_rewards`` are scores too.
        structurers: map -> config of its structurer.
        count: K rollouts.
        say: called after each of them.

    Returns:
        Map -> gradients ``(K, P)`` of the loss of the trained reward with it; and score -> those of its own loss
        without a map, where ``'reward'`` is the trained one.
    """
    from vipo.engine.config import override
    from vipo.engine.runner import build_runner
    from vipo.registry import STRUCTURERS
    from vipo.structurers.base import bind_reward

    override(cfg, {'batch.updates_per_iteration': 1, 'evaluation': None, 'log_level': 'WARNING', 'structurer': None})
    by_map: dict[str, list[Tensor]] = {name: [] for name in structurers}
    by_score: dict[str, list[Tensor]] = {}
    with tempfile.TemporaryDirectory() as folder:
        cfg.work_dir = folder
        runner = build_runner(cfg)
        loop, c = runner.train_loop, runner.components
        built = {name: STRUCTURERS.build(config) for name, config in structurers.items()}
        for structurer in built.values():
            bind_reward(structurer, c.reward)
        for number, batch in zip(range(count), loop.dataloader, strict=False):
            loop._iter = number
            runner.clock.start_iteration(f'rollout {number + 1}/{count}')
            samples = loop.collect(batch)
            advantages = _advantages(loop, samples)
            maps = {name: _maps(loop, samples, structurer) for name, structurer in built.items()}
            wanted = [(samples.advantage, m) for m in maps.values()] + [(a, None) for a in advantages.values()]
            found = _gradients(loop, samples, wanted)
            for name, gradient in zip([*maps], found, strict=False):
                by_map[name].append(gradient)
            for name, gradient in zip(advantages, found[len(maps) :], strict=True):
                by_score.setdefault(name, []).append(gradient)
            runner.clock.clear()
            say(number + 1)
    return _stacked(by_map), _stacked(by_score)


def _stacked(gradients: Mapping[str, list[Tensor]]) -> dict[str, Tensor]:
    return {name: torch.stack(of) for name, of in gradients.items()}


def _advantages(loop: PolicyLoop, samples: Samples) -> dict[str, Tensor]:
    """Of the trained reward, and of every score that is only watched."""
    from vipo.advantages import group_advantages
    from vipo.engine.scoring import score

    options = {k: v for k, v in loop.components.advantage.items() if k in ('scale', 'ddof', 'eps', 'clip')}
    found = {'reward': samples.advantage}
    for name, judge in loop.components.eval_rewards.items():
        output = score(judge, name, samples.pixels, samples.prompts, samples.metadata)
        found[name] = group_advantages(output.scores, samples.group, output.valid, **options)
    return found


def _maps(loop: PolicyLoop, samples: Samples, structurer: Any) -> Tensor:
    from vipo.structurers.base import call_structurer

    grid = tuple(samples.trajectory.latents.shape[2:])
    pieces = loop.components.batch.slices(loop.components.batch.micro_batch_size)
    return torch.cat(
        [call_structurer(structurer, samples.pixels[p], grid, samples.prompts[p], samples.metadata[p]) for p in pieces]
    )


def _gradients(loop: PolicyLoop, samples: Samples, wanted: list[tuple[Tensor, Tensor | None]]) -> list[Tensor]:
    """Of the run's own loss, ``(P,)`` for each advantage and map; the passes through the policy are shared."""
    from vipo.diffusion.rollout import replay

    c = loop.components
    parameters = c.generator.trainable_parameters()
    sigmas, steps = c.generator.sigmas(c.rollout.num_steps), range(len(samples.trajectory.steps))
    pieces = c.batch.slices(c.batch.micro_batch_size)
    total = [[torch.zeros_like(p) for p in parameters] for _ in wanted]
    for piece in pieces:
        velocity = loop.velocity(samples.conditioning[piece])
        share = (piece.stop - piece.start) / len(samples.prompts) / len(steps)
        for k in steps:
            new = replay(velocity, samples.trajectory[piece], k, sigmas, c.rollout.kernel).log_prob
            for number, (advantage, maps) in enumerate(wanted):
                chosen = None if maps is None else maps[piece]
                loss, _ = c.loss(new, samples.trajectory.log_prob[k, piece], advantage[piece], chosen)
                last = number == len(wanted) - 1
                found = torch.autograd.grad(share * loss, parameters, retain_graph=not last, allow_unused=True)
                for into, gradient in zip(total[number], found, strict=True):
                    if gradient is not None:
                        into += gradient
    return [torch.cat([g.flatten() for g in gradients]) for gradients in total]
