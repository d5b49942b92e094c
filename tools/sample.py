"""Sample from a config's generator, before or after training.

    python tools/sample.py CONFIG --prompts 'a small red circle at the left on a plain gray background' --seeds 0 1
    python tools/sample.py CONFIG work_dirs/mine/iter_120.pth --prompts prompts.txt --steps 28

Pictures are written as PNG, clips as MP4 and as a strip of frames, and a gallery shows all of them. The same prompt and
seed give the same sample with any checkpoint.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parent.parent)]


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    from vipo.engine.arguments import CfgOptions, positive

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config')
    parser.add_argument('checkpoint', nargs='?', help='without it the generator as it was before training')
    parser.add_argument('--prompts', nargs='+', required=True, help='texts, or one file of prompts')
    parser.add_argument('--seeds', nargs='+', type=int, default=[0], help='one sample per prompt and seed')
    parser.add_argument('--steps', type=positive, help='denoising steps (default: those of the evaluation, or 28)')
    parser.add_argument('--batch', type=positive, default=4, help='samples at once')
    parser.add_argument('--fps', type=positive, default=8, help='of clips')
    parser.add_argument('--raw', action='store_true', help='the weights themselves in place of their average')
    parser.add_argument('--out', type=Path, default=Path('samples'), help='folder')
    parser.add_argument('--cfg-options', nargs='+', action=CfgOptions, default={}, metavar='KEY=VALUE')
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    args = parse_args(argv)
    sys.path[:0] = [str(Path(args.config).resolve().parent), os.getcwd()]
    print('vipo: loading', flush=True)
    from vipo.datasets.prompts import read_prompts
    from vipo.engine.clock import PhaseClock
    from vipo.engine.config import override, read_config, require_sections
    from vipo.engine.hub import check_reach
    from vipo.engine.quiet import quiet_third_parties
    from vipo.engine.restore import load_generator
    from vipo.registry import ConfigError
    from vipo.visualization.samples import write_samples

    quiet_third_parties()
    try:
        cfg = read_config(args.config)
        override(cfg, args.cfg_options)
        require_sections(cfg, 'generator')
        texts = args.prompts
        if not all(text.strip() for text in texts):
            raise ConfigError('--prompts: a prompt is empty')
        if args.out.exists() and not args.out.is_dir():
            raise ConfigError(f'--out: {args.out} is a file')
        if len(texts) == 1 and Path(texts[0]).suffix in ('.txt', '.jsonl'):
            texts = [record['prompt'] for record in read_prompts(texts[0])]
        check_reach({'generator': cfg.generator})
        generator = load_generator(cfg, args.checkpoint, averaged=not args.raw)
    except ConfigError as error:
        print(f'error: {error}', file=sys.stderr)
        return 2

    import torch

    from vipo.diffusion.rollout import integrate
    from vipo.randomness import SampleNoise, derive_seed

    if torch.cuda.is_available():
        generator.to('cuda')
    steps = args.steps or (cfg.get('evaluation') or {}).get('num_steps', 28)
    pairs = [(text, seed) for text in texts for seed in args.seeds]
    sigmas, pixels, clock = generator.sigmas(steps), [], PhaseClock()
    generator.encode_ahead(generator.unencoded(texts))
    with torch.no_grad(), clock.phase('sampling', len(pairs)):
        for i in range(0, len(pairs), args.batch):
            part = pairs[i : i + args.batch]
            conditioning = generator.encode([text for text, _ in part]).to(generator.device)
            seeds = [derive_seed('sample', seed, text) for text, seed in part]
            noise = SampleNoise(seeds, generator.latent_shape(), generator.device)('initial')
            latents = integrate(lambda x, sigma, c=conditioning: generator.velocity(x, sigma, c), noise, sigmas)
            pixels.append((generator.decode(latents) * 255).round().byte().cpu())
            clock.advance(len(part))
    clock.clear()
    captions = [f'{text} (seed {seed})' for text, seed in pairs]
    written = write_samples(torch.cat(pixels).numpy(), captions, args.out, args.fps)
    print(f'Done: {len(pairs)} samples; look at {written} in {args.out}')
    return 0


if __name__ == '__main__':
    sys.exit(main())
