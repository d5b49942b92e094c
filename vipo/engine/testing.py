"""The test of a checkpoint: rewards, diversity and distance from the start on held-out prompts, before and after.

Prompts are worked through in units of ``evaluation.batch_size``. The ranks share the units, and a unit is the same work
on any number of processes, so that the results are too.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from mmengine.dist import all_gather_object, get_rank, get_world_size, is_distributed
from torch import Tensor

from vipo.diffusion.kernels import Kernel
from vipo.distances import dense_features, feature_distance, mean_pairwise, pixel_distance
from vipo.engine.bench import Bench
from vipo.engine.clock import PhaseClock
from vipo.engine.evaluation import draw_samples, noise_seed, quantised, score_all
from vipo.engine.parallel import encode_in_shares
from vipo.engine.results import HeldOutResults
from vipo.generators.base import Conditioning, Generator
from vipo.losses.kl import KL_FORMS, KLInput
from vipo.scenes.draw import object_places
from vipo.scenes.grammar import Scene
from vipo.structurers.base import call_structurer, set_progress

#: Prompts of which all samples are kept as pictures, to see their variety.
VARIETY = 8


@dataclass
class PromptRow:
    """What a test found out about one prompt with K samples.

    Attributes:
        number: place of the prompt in the file.
        values: column -> one number of the prompt; the mean of its valid samples where each has one.
        samples: of each sample column -> number.
        pictures: ``'before'`` and ``'after'`` -> ``(k, 3, Y, X)`` uint8, middle frames of the first k samples, and
            ``'map'`` -> ``(H, W)`` of the first sample; only of prompts that are shown.
    """

    number: int
    values: dict[str, float]
    samples: list[dict[str, float]]
    pictures: dict[str, np.ndarray]


def run_test(
    bench: Bench,
    samples: int,
    clock: PhaseClock,
    shown: int = 24,
    on_rows: Callable[[list[PromptRow]], None] | None = None,
) -> list[PromptRow]:
    """Sample and judge every prompt; ranks share the work, and each gets the complete result.

    Args:
        samples: of each prompt, each with a seed of its own; the first is the one that the runs' evaluations have.
        shown: prompts whose pictures are kept, from the first on.
        on_rows: called with new rows as soon as there are some, on every rank.
    """
    records, size = bench.evaluation.records, bench.evaluation.batch_size
    units = [list(range(i, min(i + size, len(records)))) for i in range(0, len(records), size)]
    encode_in_shares(bench.generator, [r['prompt'] for r in records], clock)
    rounds = -(-len(units) // get_world_size())
    divided = is_distributed() and bench.strategy.shards
    rows: list[PromptRow] = []
    work = sum(map(len, units)) * samples * (2 if bench.trained else 1)
    with clock.phase('sample and score', work), bench.strategy.gathered(bench.generator) if divided else nullcontext():
        for turn in range(rounds):
            # Ranks that share the weights need each other in every pass, so that one without work repeats some.
            mine = turn * get_world_size() + get_rank()
            found = measure_unit(bench, units[mine % len(units)], samples, shown, clock)
            everyone = all_gather_object(found if mine < len(units) else [])
            new = [row for theirs in everyone for row in theirs]
            if on_rows is not None:
                on_rows(new)
            rows += new
    clock.clear()
    return rows


@torch.no_grad()
def measure_unit(bench: Bench, index: list[int], samples: int, shown: int, clock: PhaseClock) -> list[PromptRow]:
    """Everything about a few prompts.

    Args:
        index: places in the file.
        samples, shown: see :func:`run_test`.
    """
    records = [bench.evaluation.records[i] for i in index]
    prompts = [r['prompt'] for r in records]
    conditioning = bench.generator.encode(prompts).to(bench.generator.device)
    scenes = None if bench.scenes is None else [bench.scenes[i] for i in index]
    sides, values = {}, {}
    for when in ('before', 'after') if bench.trained else ('before',):
        side = sides[when] = _Side(bench, when == 'before' and bench.trained)
        for k in range(samples):
            seeds = [noise_seed(bench.evaluation.seed, i, k) for i in index]
            side.add(records, conditioning, seeds, watch=when == 'after' and k == 0)
            clock.advance(len(index) * get_world_size())
        values |= {f'{when}/{name}': value for name, value in side.columns().items()}
        values |= {f'{when}/diversity/{name}': value for name, value in side.diversity().items()}
    if bench.trained:
        values |= {f'change/{k}': v for k, v in _change(sides['before'], sides['after'], scenes).items()}
        values |= {f'distance/{k}': v for k, v in sides['after'].divergence.items()}
    # (K, P) where each sample has a number, (P,) where a prompt has one
    values = {k: v.double().cpu().numpy() for k, v in values.items()}
    last = sides['after' if bench.trained else 'before']
    maps = None
    if bench.structurer is not None and index[0] < shown:
        set_progress(bench.structurer, 1, 1)
        grid = bench.generator.latent_shape()[1:]
        found = call_structurer(bench.structurer, last.pixels[0].to(bench.generator.device), grid, prompts, records)
        maps = found[:, 0, found.shape[2] // 2].float().cpu().numpy()
    rows = []
    for j, number in enumerate(index):
        mine = {k: v[..., j] for k, v in values.items()}
        pictures = {}
        if number < shown:
            count = samples if number < VARIETY else 1
            pictures = {when: side.pictures(j, count) for when, side in sides.items()}
            pictures |= {} if maps is None else {'map': maps[j]}
        rows.append(
            PromptRow(
                number=number,
                values={k: _mean(v) for k, v in mine.items()},
                samples=[{n: float(v[k]) for n, v in mine.items() if v.ndim} for k in range(samples)],
                pictures=pictures,
            )
        )
    return rows


class _Side:
    """K samples of P prompts from one policy.

    Attributes:
        pixels, features: a list entry for each of K: ``(P, 3, F, Y, X)``; space -> ``(P, t, D, h, w)``.
        divergence: measure -> ``(P,)``, along the trajectories of the first samples.
    """

    def __init__(self, bench: Bench, start: bool) -> None:
        self._bench = bench
        self._start = start
        self.pixels: list[Tensor] = []
        self.features: dict[str, list[Tensor]] = {name: [] for name in bench.spaces}
        self.divergence: dict[str, Tensor] = {}
        self._scores: list[dict[str, Tensor]] = []

    def add(self, records: list[dict[str, Any]], conditioning: Conditioning, seeds: list[int], watch: bool) -> None:
        """One sample of each prompt; ``watch`` measures how far the policy is from its start on the way."""
        bench, generator = self._bench, self._bench.generator
        sigmas = generator.sigmas(bench.evaluation.num_steps)
        states: list[tuple[Tensor, Tensor]] = []

        def velocity(x: Tensor, sigma: float, given: Conditioning) -> Tensor:
            v = generator.velocity(x, sigma, given)
            if watch:
                states.append((x, v))
            return v

        with generator.reference() if self._start else nullcontext():
            pixels = draw_samples(generator, velocity, conditioning, seeds, sigmas)
        if watch:
            self.divergence = _divergence(generator, bench.kernel, states, sigmas.tolist(), conditioning)
        self._scores.append(score_all(bench.rewards, pixels, [r['prompt'] for r in records], records))
        for name, backbone in bench.spaces.items():
            self.features[name].append(dense_features(backbone, pixels))
        self.pixels.append(pixels.cpu())

    def columns(self) -> dict[str, Tensor]:
        """Score -> ``(K, P)``."""
        return {name: torch.stack([scores[name] for scores in self._scores]) for name in self._scores[0]}

    def diversity(self) -> dict[str, Tensor]:
        """Space -> mean pairwise distance ``(P,)``; nothing where there is one sample."""
        if len(self.pixels) < 2:
            return {}
        found = {name: mean_pairwise(features, feature_distance) for name, features in self.features.items()}
        return {**found, 'pixels': mean_pairwise(self.pixels, pixel_distance)}

    def pictures(self, prompt: int, count: int) -> np.ndarray:
        """``(count, 3, Y, X)`` uint8, the middle frames of one prompt's first samples."""
        return np.stack([quantised(p[prompt, :, p.shape[2] // 2]) for p in self.pixels[:count]])


def _change(before: _Side, after: _Side, scenes: list[Scene] | None) -> dict[str, Tensor]:
    """How far the samples of equal seed are apart: measure -> ``(K, P)``."""
    pairs = list(zip(before.pixels, after.pixels, strict=True))
    found = {
        name: torch.stack([feature_distance(a, b) for a, b in zip(features, after.features[name], strict=True)])
        for name, features in before.features.items()
    }
    found['pixels'] = torch.stack([pixel_distance(a, b) for a, b in pairs])
    if scenes is None:
        return found
    height, width = before.pixels[0].shape[-2:]
    if height == width:
        places = torch.stack([object_places(scene, height) for scene in scenes])[:, None, None]
        found['objects'] = torch.stack([pixel_distance(a, b, places) for a, b in pairs])
        found['background'] = torch.stack([pixel_distance(a, b, ~places) for a, b in pairs])
    return found


def _divergence(
    generator: Generator,
    kernel: Kernel,
    states: list[tuple[Tensor, Tensor]],
    sigmas: list[float],
    conditioning: Conditioning,
) -> dict[str, Tensor]:
    """From the start, at the states that the policy went through: measure -> ``(P,)``.

    ``velocity_mse`` is the mean over steps and positions; ``gaussian_kl`` the sum, in nats, over the transitions that
    the kernel makes noisy: the divergence of the two sampling processes, estimated along the policy's ODE.
    """
    errors, divergences = [], []
    for (x, v), (now, then) in zip(states, pairwise(sigmas), strict=True):
        with generator.reference():
            start = generator.velocity(x, now, conditioning)
        noise = torch.zeros_like(x)
        policy, reference = (kernel.step(x, u, now, then, noise=noise) for u in (v, start))
        both = KLInput(policy, reference, v, start, then - now)
        errors.append(KL_FORMS['velocity_mse'](both).flatten(1).mean(1))
        if policy.std > 0:
            divergences.append(KL_FORMS['gaussian'](both).flatten(1).sum(1))
    found = {'velocity_mse': torch.stack(errors).mean(0)}
    return {**found, 'gaussian_kl': torch.stack(divergences).sum(0)} if divergences else found


def results_of(rows: list[PromptRow], bench: Bench, samples: int) -> HeldOutResults:
    """The rows of all prompts, in the order of the file, with what they were made with."""
    rows.sort(key=lambda row: row.number)
    records, options = bench.evaluation.records, bench.evaluation
    about = {
        'evaluation': {name: getattr(options, name) for name in ('prompts', 'num_steps', 'seed')},
        'samples_per_prompt': samples,
        **bench.identities,
    }
    columns = {name: np.array([row.values[name] for row in rows]) for name in rows[0].values}
    return HeldOutResults([records[row.number]['prompt'] for row in rows], columns, about)


def _mean(values: np.ndarray) -> float:
    finite = values[np.isfinite(values)]
    return float(finite.mean()) if finite.size else float('nan')
