"""Evaluation: held-out prompts, fixed seeds, deterministic sampling, every reward."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import torch
from mmengine.config import Config
from mmengine.dist import all_gather_object, get_rank, get_world_size
from torch import Tensor

from vipo.diffusion.rollout import integrate
from vipo.engine.checkpoint import write_atomically
from vipo.engine.clock import PhaseClock
from vipo.engine.scoring import score
from vipo.generators.base import Conditioning, Generator
from vipo.randomness import SampleNoise, derive_seed
from vipo.registry import ConfigError
from vipo.rewards.base import Reward

#: Generator options that say how it is trained or where it runs, not what it draws.
_NOT_COMPARED = (
    'lora',
    'keep_reference',
    'gradient_checkpointing',
    'decode_batch',
    'encode_batch',
    'prompt_cache',
    'device',
)


@dataclass
class Evaluation:
    """Scores and pictures of N held-out samples.

    Attributes:
        prompts: N prompts.
        scores: reward name -> ``(N,)`` float; NaN where invalid. Parts are under ``name/part``.
        pixels: ``(N, 3, F, Y, X)`` uint8.
        setup: what two evaluations must share to be compared, see :func:`setup_of`.
    """

    prompts: list[str]
    scores: dict[str, np.ndarray]
    pixels: np.ndarray
    setup: str = ''

    def means(self) -> dict[str, float]:
        """Mean of each score over its valid samples."""
        return {k: float(np.nanmean(v)) if np.isfinite(v).any() else float('nan') for k, v in self.scores.items()}

    def save(self, path: Path) -> None:
        """Write an ``.npz`` without pickles, whole or not at all."""
        path.parent.mkdir(parents=True, exist_ok=True)
        arrays = {f'score:{k}': v for k, v in self.scores.items()}

        def write(temporary: Path) -> None:
            with open(temporary, 'wb') as file:
                np.savez_compressed(
                    file, prompts=np.array(self.prompts), pixels=self.pixels, setup=np.array(self.setup), **arrays
                )

        write_atomically(path, write)

    @classmethod
    def load(cls, path: Path, pictures: bool = True) -> Evaluation:
        """Read what :meth:`save` wrote; without ``pictures``, :attr:`pixels` is empty.

        Raises:
            ConfigError: the file is damaged, or something else.
        """
        try:
            with np.load(path, allow_pickle=False) as data:
                scores = {k.removeprefix('score:'): data[k] for k in data.files if k.startswith('score:')}
                pixels = data['pixels'] if pictures else np.zeros((0, 3, 1, 0, 0), np.uint8)
                return cls([str(p) for p in data['prompts']], scores, pixels, str(data['setup']))
        except (OSError, ValueError, EOFError, KeyError, TypeError, AttributeError, BadZipFile, zlib.error) as error:
            raise ConfigError(
                f'{path} cannot be read as an evaluation ({type(error).__name__}: {error}). Remove it to go on'
            ) from error


def setup_of(cfg: Config) -> str:
    """The parts of a config that decide what an untrained generator scores, as text."""
    generator = {k: v for k, v in cfg.generator.items() if k not in _NOT_COMPARED}
    parts = {'generator': generator, **{k: cfg.get(k) for k in ('reward', 'eval_rewards', 'evaluation')}}
    return json.dumps(plain(parts), sort_keys=True)


def plain(value: Any) -> Any:
    """A part of a config as JSON can hold it; classes and functions by their names."""
    return json.loads(json.dumps(value, default=lambda x: getattr(x, '__qualname__', type(x).__qualname__)))


def noise_seed(seed: int, prompt: int, sample: int = 0) -> int:
    """Seed of the initial noise of a held-out prompt, by its place in the file; ``sample`` counts several of one."""
    return derive_seed('evaluation', seed, prompt, *((sample,) if sample else ()))


def draw_samples(
    generator: Generator,
    velocity: Callable[[Tensor, float, Conditioning], Tensor],
    conditioning: Conditioning,
    seeds: list[int],
    sigmas: Tensor,
) -> Tensor:
    """Pixels ``(B, 3, F, Y, X)`` in [0, 1] by the ODE, one for each prompt and seed."""
    noise = SampleNoise(seeds, generator.latent_shape(), generator.device)('initial')
    return generator.decode(integrate(lambda x, sigma: velocity(x, sigma, conditioning), noise, sigmas))


def score_all(
    rewards: dict[str, Reward], pixels: Tensor, prompts: list[str], records: list[dict[str, Any]]
) -> dict[str, Tensor]:
    """Scores ``(B,)`` by reward name, and under ``name/part`` its parts; NaN where invalid."""
    scores: dict[str, Tensor] = {}
    for name, reward in rewards.items():
        output = score(reward, name, pixels, prompts, records)
        scores[name] = output.scores.masked_fill(~output.valid, float('nan')).cpu()
        for part, value in output.parts.items():
            scores[f'{name}/{part}'] = value.float().masked_fill(~output.valid, float('nan')).cpu()
    return scores


def quantised(pixels: Tensor) -> np.ndarray:
    """Pixels in [0, 1] as uint8."""
    return (pixels * 255).round().byte().cpu().numpy()


@torch.no_grad()
def evaluate(
    generator: Generator,
    velocity: Callable[[Tensor, float, Conditioning], Tensor],
    records: list[dict[str, Any]],
    rewards: dict[str, Reward],
    *,
    num_steps: int,
    batch_size: int,
    seed: int,
    clock: PhaseClock,
) -> Evaluation:
    """Sample one picture per prompt by the ODE and judge it.

    Ranks share the prompts, and each gets the complete result. A sample depends on its prompt's place in
    the file and on ``seed`` alone.

    Args:
        records: of the prompt file.
        rewards: by name.
    """
    # Equally many on each rank, since ranks that share the weights need each other in every pass; what is left over
    # begins again at the first prompt, and is dropped below.
    shares = -(-len(records) // get_world_size())
    mine = [(get_rank() + k * get_world_size()) % len(records) for k in range(shares)]
    sigmas = generator.sigmas(num_steps)
    rows: list[dict[str, Any]] = []
    with clock.phase('evaluation', len(mine)):
        for start in range(0, len(mine), batch_size):
            index = mine[start : start + batch_size]
            prompts = [records[i]['prompt'] for i in index]
            conditioning = generator.encode(prompts).to(generator.device)
            seeds = [noise_seed(seed, i) for i in index]
            pixels = draw_samples(generator, velocity, conditioning, seeds, sigmas)
            scores = score_all(rewards, pixels, prompts, [records[i] for i in index])
            levels = quantised(pixels)
            rows += [
                {'pixels': levels[j], 'scores': {k: v[j].item() for k, v in scores.items()}} for j in range(len(index))
            ]
            clock.advance(len(index))
    if get_world_size() > 1:
        # Rank r holds the prompts r, r + world_size, ...
        everyone = all_gather_object(rows)
        rows = [everyone[i % len(everyone)][i // len(everyone)] for i in range(len(records))]
    return Evaluation(
        prompts=[r['prompt'] for r in records],
        scores={k: np.array([row['scores'][k] for row in rows]) for k in rows[0]['scores']},
        pixels=np.stack([row['pixels'] for row in rows]),
    )
