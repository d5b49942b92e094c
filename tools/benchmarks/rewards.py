"""Time a batch of pictures in one call against one call for each picture, for every reward on its tiny twin.

    python tools/benchmark.py rewards --pictures 32
    python tools/benchmark.py rewards --rewards pickscore imagereward --side 512
    python tools/benchmark.py rewards --rewards hpsv3 videoalign --area 200704 --batch-size 8

The rewards are those of configs/_base_/rewards, and the embedded one. On twins almost all of the time is what a call
costs beside the model; that is what a batch saves. Batch and single calls take turns, and the median of the repetitions
counts.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

    from vipo.rewards import Reward

ROOT = Path(__file__).resolve().parents[2]

#: The trained HPS model of this package, which is larger than a twin.
EMBEDDED = 'embedded'
REWARDS = (*sorted(path.stem for path in (ROOT / 'configs' / '_base_' / 'rewards').glob('*.py')), EMBEDDED)

#: Those that take clips; they get five frames.
CLIPS = ('videoalign',)


def build_twin(name: str, folder: Path, batch_size: int = 64, area: int | None = None) -> Reward:
    """A reward of configs/_base_/rewards, with its twin where it loads a model; or the embedded one.

    Args:
        batch_size: most pictures in one forward pass.
        area: pixels to which HPSv3 and VideoAlign resize a frame; None is that of their twins.

    Raises:
        ConfigError: an extra that it needs is not installed.
    """
    from vipo.engine.config import read_config
    from vipo.registry import REWARDS as REGISTRY
    from vipo.registry.lookup import component_class

    if name == EMBEDDED:
        tiny = {'type': 'HPSReward', 'checkpoint': 'vipo://tiny-hps', 'batch_size': batch_size}
        return REGISTRY.build(tiny, at=name)
    options = dict(read_config(str(ROOT / 'configs' / '_base_' / 'rewards' / f'{name}.py')).reward)
    cls = component_class(options.pop('type'))
    if hasattr(cls, 'rehearsal'):
        options |= cls.rehearsal(options, folder)
    if 'batch_size' in options:
        options['batch_size'] = batch_size
    reward = REGISTRY.build({'type': cls, **options}, at=name)
    if area is not None and hasattr(reward, 'scorer'):
        reward.scorer.fewest = reward.scorer.most = area
    return reward


def benchmark(reward: Reward, pixels: Tensor, prompts: list[str], repeats: int) -> dict[str, float]:
    """Milliseconds for all pictures at once and one by one, and their ratio."""

    def one_by_one() -> None:
        for i, prompt in enumerate(prompts):
            reward(pixels[i : i + 1], [prompt])

    def milliseconds(work: Callable[[], Any]) -> float:
        began = time.perf_counter()
        work()
        return 1000 * (time.perf_counter() - began)

    def at_once() -> None:
        reward(pixels, prompts)

    at_once(), one_by_one()  # warm up
    took = [(milliseconds(at_once), milliseconds(one_by_one)) for _ in range(repeats)]
    batch, single = (statistics.median(times) for times in zip(*took, strict=True))
    return {'batch, ms': batch, 'one by one, ms': single, 'ratio': batch / single}


def main(argv: list[str]) -> None:
    style = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(prog='benchmark.py rewards', description=__doc__, formatter_class=style)
    parser.add_argument('--rewards', nargs='+', choices=REWARDS, default=list(REWARDS))
    parser.add_argument('--pictures', type=int, default=32)
    parser.add_argument('--side', type=int, default=64, help='pixels of the square pictures')
    parser.add_argument('--batch-size', type=int, default=64, help='most pictures in one forward pass')
    parser.add_argument('--area', type=int, help='pixels to which HPSv3 and VideoAlign resize; published: up to 200704')
    parser.add_argument('--repeats', type=int, default=5)
    parser.add_argument('--out', type=Path, help='also write the figures as JSON')
    args = parser.parse_args(argv)

    import torch

    from vipo.engine.quiet import quiet_third_parties
    from vipo.registry import ConfigError

    quiet_third_parties()
    shape = (args.pictures, 3, 5, args.side, args.side)
    clips = torch.rand(shape, generator=torch.Generator().manual_seed(0))
    prompts = [f'a sign that says "number {i}"' for i in range(args.pictures)]
    results = {}
    print(f'{args.pictures} pictures of {args.side} x {args.side}        batch  one by one  ratio')
    with tempfile.TemporaryDirectory() as folder:
        for name in args.rewards:
            try:
                reward = build_twin(name, Path(folder), args.batch_size, args.area)
            except ConfigError as error:
                print(f'{name:32s} left out: {error}')
                continue
            pixels = clips if name in CLIPS else clips[:, :, :1]
            results[name] = benchmark(reward, pixels, prompts, args.repeats)
            batch, single, ratio = results[name].values()
            print(f'{name:32s} {batch:6.1f} ms {single:8.1f} ms {ratio:6.2f}', flush=True)
    if args.out:
        args.out.write_text(json.dumps(results, indent=2) + '\n')
        print(f'figures in {args.out}')
