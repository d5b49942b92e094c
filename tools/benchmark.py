"""Measure where the time of a policy iteration goes.

    python tools/benchmark.py loop configs/vipo_tiny_sd3.py --iterations 3

``loop`` runs the real training loop with timers around every forward pass of a model and every backward pass, and
prints what share of an iteration is neither: noise, kernels, log-probs, maps' linear algebra, bookkeeping.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parent.parent), os.getcwd()]


class ModelTimer:
    """Adds up the wall-clock seconds of modules' forward passes."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._began: dict[str, float] = {}

    def watch(self, name: str, module) -> None:
        """Time every call of ``module``."""
        module.register_forward_pre_hook(lambda *_: self._began.__setitem__(name, self._now()))
        module.register_forward_hook(lambda *_: self._add(name))

    def watch_call(self, name: str, owner, method: str) -> None:
        """Time every call of a method."""
        original = getattr(owner, method)

        def timed(*args, **kwargs):
            self._began[name] = self._now()
            try:
                return original(*args, **kwargs)
            finally:
                self._add(name)

        setattr(owner, method, timed)

    def _add(self, name: str) -> None:
        self.seconds[name] += self._now() - self._began[name]

    @staticmethod
    def _now() -> float:
        import torch

        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return time.perf_counter()


def benchmark_loop(config: str, iterations: int, options: dict) -> dict[str, float]:
    """Seconds per iteration by model, and the share of everything else."""
    from vipo.engine.config import override, read_config
    from vipo.engine.runner import build_runner

    cfg = read_config(config)
    override(cfg, options)
    cfg.train_cfg.max_iters = iterations + 1
    cfg.evaluation = None
    cfg.work_dir = tempfile.mkdtemp(prefix='vipo_benchmark_')
    runner = build_runner(cfg)
    runner.optim_wrapper = runner.build_optim_wrapper(runner.optim_wrapper)
    timer = ModelTimer()
    c = runner.components
    timer.watch('denoiser forward', c.generator.denoiser)
    timer.watch('autoencoder', c.generator.pipe.vae.decoder)
    for name in ('text_encoder', 'text_encoder_2', 'text_encoder_3'):
        if getattr(c.generator.pipe, name, None) is not None:
            timer.watch('text encoders', getattr(c.generator.pipe, name))
    timer.watch('reward model', c.reward.model)
    if c.structurer is not None:
        timer.watch('backbone', c.structurer.backbone.model)
    timer.watch_call('backward', runner.optim_wrapper, 'backward')
    loop = runner.train_loop
    totals: list[float] = []
    run_iter = loop.run_iter

    def counted(batch) -> None:
        if loop._iter == 1:  # the first iteration warms up
            timer.seconds.clear()
        run_iter(batch)
        totals.append(runner.clock.times['total'])

    loop.run_iter = counted
    runner.train()
    total = sum(totals[1:]) / iterations
    result = {name: seconds / iterations for name, seconds in timer.seconds.items()}
    result['everything else'] = total - sum(result.values())
    result['total'] = total
    return result


def main() -> None:
    from mmengine.config import DictAction

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('what', choices=['loop'])
    parser.add_argument('config')
    parser.add_argument('--iterations', type=int, default=3)
    parser.add_argument('--cfg-options', nargs='+', action=DictAction, default={})
    parser.add_argument('--out', type=Path, help='also write the figures as JSON')
    args = parser.parse_args()
    result = benchmark_loop(args.config, args.iterations, args.cfg_options)
    for name, seconds in result.items():
        print(f'{name:18s} {seconds:8.3f} s  {seconds / result["total"]:6.1%}')
    if args.out:
        args.out.write_text(json.dumps(result, indent=2) + '\n')
        print(f'figures in {args.out}')


if __name__ == '__main__':
    main()
