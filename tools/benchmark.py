"""Measure where the time of a policy iteration goes, and how much signal there is in its gradient.

    python tools/benchmark.py loop configs/vipo_tiny_sd3.py --iterations 3
    python tools/benchmark.py loop configs/vipo_flux_hps_lora.py --random --cfg-options batch.prompts_per_iteration=2
    python tools/benchmark.py signal configs/vipo_tiny_sd3.py --iterations 6

``loop`` runs the real training loop with timers around every forward pass of a model and every backward pass, and
prints what share of an iteration is neither: noise, kernels, log-probs, maps' linear algebra, bookkeeping.

``signal`` computes the gradient of several independent iterations without stepping, and prints the mean cosine between
them. Near 0 the gradients are noise and a learning rate that suits them is tiny; rollout settings can be compared this
way in minutes, before any training.

    python tools/benchmark.py generators    each family's rollout against its diffusers pipeline, and the update
    python tools/benchmark.py rewards       a batch against single pictures, for every reward
    python tools/benchmark.py structurer    the map stage against a plain implementation, frame by frame
    python tools/benchmark.py checkpoint    what the sha256 costs beside the writing
    python tools/benchmark.py processes     one process against several

These have options of their own: add --help.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor, nn

sys.path[:0] = [str(Path(__file__).resolve().parent.parent), os.getcwd()]

#: Measured by a module of tools/benchmarks each.
SUITES = ('checkpoint', 'generators', 'processes', 'rewards', 'structurer')


class ModelTimer:
    """Adds up the wall-clock seconds of modules' forward passes."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._began: dict[str, float] = {}

    def watch(self, name: str, module: nn.Module) -> None:
        """Time every forward pass of ``module``."""
        module.register_forward_pre_hook(lambda *_: self._began.__setitem__(name, self._now()))
        module.register_forward_hook(lambda *_: self._add(name))

    def watch_part(self, name: str, part: Any) -> None:
        """Time the model of a component, where it has one of its own."""
        towers = getattr(part, 'towers', None)
        if towers is not None:  # each of a CLIP's towers is called by itself
            self.watch(name, towers.model.vision_model)
            self.watch(name, towers.model.text_model)
        for attribute in ('model', 'network', 'scorer'):
            if hasattr(part, attribute):
                self.watch(name, getattr(part, attribute))

    def watch_call(self, name: str, owner: Any, method: str) -> None:
        """Time every call of a method."""
        original = getattr(owner, method)

        def timed(*args: Any, **kwargs: Any) -> Any:
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


def benchmark_loop(config: str, iterations: int, options: dict[str, Any], random: bool = False) -> dict[str, Any]:
    """Seconds per iteration by model, and the share of everything else.

    Args:
        random: weights, see :mod:`tools.benchmarks.random_weights`.
    """
    from tools.benchmarks.random_weights import randomize
    from vipo.engine.config import override, read_config
    from vipo.engine.runner import build_runner

    cfg = read_config(config)
    override(cfg, options)
    cfg.train_cfg.max_iters = iterations + 1
    cfg.evaluation = None
    cfg.work_dir = tempfile.mkdtemp(prefix='vipo_benchmark_')
    if random:
        randomize(cfg, Path(cfg.work_dir))
    runner = build_runner(cfg)
    runner.optim_wrapper = runner.build_optim_wrapper(runner.optim_wrapper)
    timer = ModelTimer()
    c = runner.components
    timer.watch('denoiser forward', c.generator.denoiser)
    timer.watch('autoencoder', c.generator.pipe.vae.decoder)
    for name in ('text_encoder', 'text_encoder_2', 'text_encoder_3'):
        if getattr(c.generator.pipe, name, None) is not None:
            timer.watch('text encoders', getattr(c.generator.pipe, name))
    timer.watch_part('reward model', c.reward)
    timer.watch_part('backbone', getattr(c.structurer, 'backbone', None))
    timer.watch_call('backward', runner.optim_wrapper, 'backward')
    loop = runner.train_loop
    timer.watch_call('map stage', loop, 'allocate')
    totals: list[float] = []
    run_iter = loop.run_iter

    def counted(batch: dict[str, list]) -> None:
        if loop._iter == 1:  # the first iteration warms up
            timer.seconds.clear()
        run_iter(batch)
        totals.append(runner.clock.times['total'])

    loop.run_iter = counted
    runner.train()
    total = sum(totals[1:]) / iterations
    result = {name: seconds / iterations for name, seconds in timer.seconds.items()}
    stage = result.pop('map stage')
    if 'backbone' in result:
        result['map, beside its backbone'] = stage - result['backbone']
    result['everything else'] = total - sum(result.values())
    result['total'] = total
    result['of it the map stage'] = stage
    return result


def most_memory() -> dict[str, Any]:
    """Which GPU this is and the most that was allocated on it, printed too; empty without one."""
    import torch

    if not torch.cuda.is_available():
        return {}
    name, gib = torch.cuda.get_device_name(), torch.cuda.max_memory_allocated() / 2**30
    print(f'most memory {gib:.1f} GiB, on {name}')
    return {'gpu': name, 'most memory, GiB': gib}


class _Discard:
    """Stands in for the optimiser: collects gradients and never steps."""

    def backward(self, loss: Tensor) -> None:
        loss.backward()

    def step(self) -> None: ...

    def zero_grad(self) -> None: ...


def benchmark_signal(config: str, iterations: int, options: dict[str, Any]) -> dict[str, float]:
    """Mean cosine, with its standard error, between gradients of independent iterations of the untrained policy."""
    import torch

    from vipo.engine.config import override, read_config
    from vipo.engine.runner import build_runner
    from vipo.engine.update import update

    cfg = read_config(config)
    override(cfg, {**options, 'batch.updates_per_iteration': 1, 'evaluation': None, 'log_level': 'WARNING'})
    cfg.work_dir = tempfile.mkdtemp(prefix='vipo_benchmark_')
    runner = build_runner(cfg)
    runner.optim_wrapper = runner.build_optim_wrapper(runner.optim_wrapper)
    c, loop = runner.components, runner.train_loop
    parameters = c.generator.trainable_parameters()
    gradients, rewards, spreads = [], [], []
    for number, batch in zip(range(iterations), loop.dataloader, strict=False):
        loop._iter = number
        runner.clock.start_iteration(f'gradient {number + 1}/{iterations}')
        samples = loop.collect(batch)
        for parameter in parameters:
            parameter.grad = None
        at = {'iteration': number + 1, 'folder': Path(cfg.work_dir)}
        update(runner.model, _Discard(), samples, c, runner.clock, tolerance=loop.ratio_tolerance, **at)
        gradients.append(torch.cat([p.grad.flatten() for p in parameters if p.grad is not None]))
        rewards.append(samples.reward.scores.mean().item())
        spreads.append(samples.reward.scores.view(-1, c.batch.group_size).std(dim=1).mean().item())
    runner.clock.clear()
    unit = torch.nn.functional.normalize(torch.stack(gradients).double(), dim=1)
    upper = torch.triu_indices(iterations, iterations, 1)
    cosines = (unit @ unit.T)[upper[0], upper[1]]
    return {
        'cosine': cosines.mean().item(),
        'standard error': (cosines.std() / len(cosines) ** 0.5).item(),
        'reward': sum(rewards) / iterations,
        'std within group': sum(spreads) / iterations,
    }


def main(argv: list[str] | None = None) -> None:
    from vipo.engine.arguments import CfgOptions

    argv = sys.argv[1:] if argv is None else argv
    if argv and argv[0] in SUITES:
        importlib.import_module(f'tools.benchmarks.{argv[0]}').main(argv[1:])
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('what', choices=['loop', 'signal'])
    parser.add_argument('config')
    parser.add_argument('--iterations', type=int, default=3)
    parser.add_argument('--cfg-options', nargs='+', action=CfgOptions, default={})
    parser.add_argument(
        '--random', action='store_true', help='of loop: models of full size with random weights, and a reward for free'
    )
    parser.add_argument('--out', type=Path, help='also write the figures as JSON')
    args = parser.parse_args(argv)
    if args.random and args.what != 'loop':
        parser.error('--random is of loop: gradients of random weights say nothing')
    sys.path.insert(0, str(Path(args.config).resolve().parent))
    if args.what == 'loop':
        result = benchmark_loop(args.config, args.iterations, args.cfg_options, args.random)
        for name, seconds in result.items():
            print(f'{name:24s} {seconds:8.3f} s  {seconds / result["total"]:7.2%}')
        result |= most_memory()
    else:
        result = benchmark_signal(args.config, max(3, args.iterations), args.cfg_options)
        for name, value in result.items():
            print(f'{name:18s} {value:8.4f}')
    if args.out:
        args.out.write_text(json.dumps(result, indent=2) + '\n')
        print(f'figures in {args.out}')


if __name__ == '__main__':
    main()
