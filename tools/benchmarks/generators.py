"""Compare each family's rollout with a plain loop over its diffusers pipeline, in one run, and time the update.

    python tools/benchmark.py generators --families sd3 flux --samples 8 --steps 8
    python tools/benchmark.py generators --config configs/vipo_flux_hps_lora.py --samples 4
    python tools/benchmark.py generators --config configs/vipo_flux_hps_lora.py --samples 4 --init random

Without a config the families run on their tiny twins, where everything that is not the model weighs most. Rollout and
pipeline take turns, and the median of the repetitions counts. Both encode the prompts, sample and decode. With random
weights prompts are not encoded, and no weights are downloaded. Of a config the peaks that tools/plan.py foresees are
printed beside the measured ones.
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
    from vipo.generators import PipelineGenerator

_TEMPLATE = {'template': 'x {}', 'crop_start': 0}
#: Twin -> generator class and its options.
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    'sd3': ('SD3Generator', {'resolution': 128, 'guidance_scale': 4.5}),
    'flux': ('FluxGenerator', {'resolution': 128}),
    'wan21': ('WanGenerator', {'resolution': (64, 96), 'num_frames': 9}),
    'wan22': ('WanGenerator', {'resolution': (64, 96), 'num_frames': 9}),
    'wan22_5b': ('WanGenerator', {'resolution': (128, 192), 'num_frames': 9}),
    'hunyuan_video': (
        'HunyuanVideoGenerator',
        {'resolution': (64, 96), 'num_frames': 9, 'prompt_template': _TEMPLATE},
    ),
}


def benchmark(generator: PipelineGenerator, samples: int, steps: int, repeats: int) -> dict[str, float]:
    """Samples per second of the pipeline, the rollout and the update, and what of ours is not the model.

    Args:
        samples: in one batch.
        steps: denoising steps; the update replays two of them.
    """
    import torch

    from tools.benchmark import ModelTimer
    from vipo.diffusion import FlowKernel, StepPlan, replay, rollout
    from vipo.engine.measure import PeakMemory
    from vipo.losses import PolicyLoss
    from vipo.randomness import SampleNoise

    prompts = [f'prompt number {i}' for i in range(samples)]
    sigmas, shape, kernel = generator.sigmas(steps), generator.latent_shape(), FlowKernel(0.7)
    plan = StepPlan(frozenset(range(steps - 1)), (0, 1))
    advantage = torch.linspace(-1, 1, samples, device=generator.device)
    loss, timer = PolicyLoss(), ModelTimer()
    optimizer = torch.optim.AdamW(generator.trainable_parameters(), lr=1e-6)
    done: dict[str, Any] = {}

    def ours() -> None:
        done['texts'] = conditioning = generator.encode(prompts).to(generator.device)
        noise = SampleNoise(range(samples), shape, generator.device)
        done['trajectory'] = rollout(
            lambda x, sigma: generator.velocity(x, sigma, conditioning), noise('initial'), sigmas, kernel, plan, noise
        )
        generator.decode(done['trajectory'].latents)

    def update() -> None:
        trajectory, conditioning = done['trajectory'], done['texts']
        for k in range(2):
            step = replay(lambda x, sigma: generator.velocity(x, sigma, conditioning), trajectory, k, sigmas, kernel)
            value, _ = loss(step.log_prob, trajectory.log_prob[k], advantage)
            timer.seconds['backward'] -= timer._now()
            value.backward()
            timer.seconds['backward'] += timer._now()
        torch.nn.utils.clip_grad_norm_(generator.trainable_parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    def theirs() -> None:
        if generator.init == 'random':
            texts = generator.pipeline_texts(generator.encode(prompts))
        else:
            texts = {'prompt': prompts}
        generator.pipe(**texts, num_inference_steps=steps, output_type='pt', **generator.pipeline_arguments())

    def seconds(work: Callable[[], None]) -> float:
        began = timer._now()
        work()
        return timer._now() - began

    def peak(work: Callable[[], None]) -> int:
        """Bytes beyond what was held before: as the allocator counts them, or on a CPU as operations return them."""
        if generator.device.type == 'cuda':
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
            work()
            return torch.cuda.max_memory_allocated() - before
        with PeakMemory() as memory:
            work()
        return memory.peak

    for work in (theirs, ours, update):  # warm up
        work()
    for name, network in generator._networks.items():
        timer.watch(name, network)
    timer.watch('autoencoder', generator.pipe.vae.decoder)
    for name in generator.text_encoders:
        if getattr(generator.pipe, name, None) is not None:
            timer.watch(name, getattr(generator.pipe, name))
    took: dict[str, list[float]] = {'pipeline': [], 'rollout': [], 'update': []}
    outside = 0.0
    for _ in range(repeats):
        took['pipeline'].append(seconds(theirs))
        timer.seconds.clear()
        took['rollout'].append(seconds(ours))
        took['update'].append(seconds(update))
        outside += took['rollout'][-1] + took['update'][-1] - sum(timer.seconds.values())
    peaks = [peak(ours), peak(update)]
    middle = {name: statistics.median(values) for name, values in took.items()}
    return {
        'pipeline, samples/s': samples / middle['pipeline'],
        'rollout, samples/s': samples / middle['rollout'],
        'rollout / pipeline': middle['pipeline'] / middle['rollout'],
        'update, samples/s': samples / middle['update'],
        'outside the model': outside / (sum(took['rollout']) + sum(took['update'])),
        'rollout, peak MiB': peaks[0] / 2**20,
        'update, peak MiB': peaks[1] / 2**20,
    }


def planned(config: dict[str, Any], samples: int) -> dict[str, float]:
    """The peaks of rollout and update beside weights and optimiser, as a plan foresees them."""
    from vipo.engine.components import count_parameters
    from vipo.engine.measure import measure_pass
    from vipo.engine.plan import adapter_parameters
    from vipo.registry import GENERATORS

    generator, lora = GENERATORS.build({**config, 'init': 'meta'}, at='generator'), config.get('lora')
    cost = measure_pass(generator, samples, lora)
    trained = count_parameters(generator.denoiser)[1] if lora is None else adapter_parameters(generator, lora)
    kept = cost.saved_checkpointed if config.get('gradient_checkpointing') else cost.saved
    return {
        'rollout, planned MiB': max(cost.forward_peak, cost.decode_peak) / 2**20,
        'update, planned MiB': (kept + 4 * trained) / 2**20,
    }


def main(argv: list[str]) -> None:
    from vipo.engine.arguments import CfgOptions

    style = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(prog='benchmark.py generators', description=__doc__, formatter_class=style)
    parser.add_argument('--families', nargs='+', choices=FAMILIES, default=list(FAMILIES), help='twins')
    parser.add_argument('--config', help='the generator of a config, at its full size, in place of twins')
    parser.add_argument(
        '--init', choices=('pretrained', 'random'), default='pretrained', help='random: no weights are needed'
    )
    parser.add_argument('--cfg-options', nargs='+', action=CfgOptions, default={}, metavar='KEY=VALUE')
    parser.add_argument('--samples', type=int, default=8)
    parser.add_argument('--steps', type=int, default=8)
    parser.add_argument('--repeats', type=int, default=5)
    parser.add_argument('--out', type=Path, help='also write the figures as JSON')
    args = parser.parse_args(argv)
    if args.steps < 3:
        parser.error('--steps must be at least 3: the update replays two of them, and the last is never trained')

    import torch

    from vipo.engine.config import override, read_config
    from vipo.engine.quiet import quiet_third_parties
    from vipo.generators.twins import save_twin
    from vipo.registry import GENERATORS

    quiet_third_parties()
    results = {}
    with tempfile.TemporaryDirectory() as folder:
        if args.config:
            cfg = read_config(args.config)
            override(cfg, args.cfg_options)
            configs = {Path(args.config).stem: dict(cfg.generator)}
        else:
            configs = {
                name: {
                    'type': kind,
                    'pretrained': save_twin(name, f'{folder}/{name}'),
                    **more,
                    'max_sequence_length': 32,
                }
                for name, (kind, more) in FAMILIES.items()
                if name in args.families
            }
        for name, config in configs.items():
            began = time.perf_counter()
            # The pipeline decodes the whole batch at once, so that is what is compared.
            device = 'cuda' if torch.cuda.is_available() else 'cpu'
            config |= {'decode_batch': args.samples, 'prompt_cache': None, 'init': args.init, 'device': device}
            foreseen = planned(config, args.samples) if args.config else {}
            generator = GENERATORS.build(config, at='generator')
            results[name] = benchmark(generator, args.samples, args.steps, args.repeats) | foreseen
            print(f'{name} ({time.perf_counter() - began:.0f} s)', flush=True)
            for key, value in results[name].items():
                print(f'  {key:22s} {value:9.1%}' if key.startswith('outside') else f'  {key:22s} {value:9.2f}')
    if args.out:
        args.out.write_text(json.dumps(results, indent=2) + '\n')
        print(f'figures in {args.out}')
