"""Draw the allocation maps of one or several structurers over pictures or clips, without any training.

    python tools/show_map.py configs/vipo_tiny_sd3.py --prompts 'a red circle on a plain gray background'
    python tools/show_map.py configs/vipo_flux_hps.py configs/_base_/structurers/resnet50_pca.py --images pictures/
    python tools/show_map.py configs/vipo_wan_videoalign.py --videos clip.mp4 --rehearse

Each CONFIG is a file with a section ``structurer``. With --prompts the pictures are drawn by the first config's
generator. Of pictures a sheet is written, maps.png: the map, the picture lit by it, the first three components of the
backbone's features as colours, and how the weights are distributed; of each clip also an MP4 and a strip of frames.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from mmengine.config import Config
    from torch import Tensor

sys.path[:0] = [str(Path(__file__).resolve().parent.parent)]


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    from vipo.engine.arguments import CfgOptions, positive

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('configs', nargs='+', metavar='CONFIG')
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument('--images', nargs='+', help='files, folders or patterns')
    source.add_argument('--videos', nargs='+', help='files, folders or patterns')
    source.add_argument('--prompts', nargs='+', help='texts, or one file of prompts: draw them first')
    parser.add_argument('--texts', nargs='+', help='prompts of the files, where a structurer asks for them')
    parser.add_argument('--frames', type=positive, default=33, help='most frames of a clip, from its beginning')
    parser.add_argument(
        '--stride', type=positive, nargs=2, default=(4, 8), help='of the autoencoder, in time and space'
    )
    parser.add_argument('--rehearse', action='store_true', help='tiny random backbones in place of the real ones')
    parser.add_argument('--limit', type=positive, default=16, help='most pictures or clips')
    parser.add_argument('--out', type=Path, default=Path('maps'), help='folder')
    parser.add_argument('--device', help='default: the GPU where there is one')
    parser.add_argument('--cfg-options', nargs='+', action=CfgOptions, default={}, metavar='KEY=VALUE', help='of all')
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    args = parse_args(argv)
    sys.path[:0] = [str(Path(args.configs[0]).resolve().parent), os.getcwd()]
    print('vipo: loading', flush=True)
    from vipo.engine.quiet import quiet_third_parties
    from vipo.registry import ConfigError

    quiet_third_parties()
    try:
        with tempfile.TemporaryDirectory() as folder:
            return _run(args, Path(folder))
    except ConfigError as error:
        print(f'error: {error}', file=sys.stderr)
        return 2


def _run(args: argparse.Namespace, folder: Path) -> int:
    from vipo.engine.rewards import pick_device
    from vipo.registry import ConfigError

    device = pick_device(args.device)
    if args.out.exists() and not args.out.is_dir():
        raise ConfigError(f'--out: {args.out} is a file')
    configs = {_name(path, args.configs): _read(path, args, folder) for path in args.configs}
    if args.prompts:
        samples = _draw(args, next(iter(configs.values())), device)
    else:
        samples = _read_files(args)
    structurers = {name: _build(cfg, device) for name, cfg in configs.items()}
    texts = [caption for caption, *_ in samples] if args.prompts else args.texts
    if texts is not None and len(texts) == 1:
        texts = texts * len(samples)
    if texts is not None and len(texts) != len(samples):
        raise ConfigError(
            f'{len(samples)} files but {len(texts)} --texts; one serves for all, otherwise each has its own'
        )
    return _show(args, samples, structurers, texts, device)


def _show(
    args: argparse.Namespace,
    samples: list[tuple[str, np.ndarray, float]],
    structurers: dict[str, Any],
    texts: list[str] | None,
    device: Any,
) -> int:
    import torch

    from vipo.engine.clock import PhaseClock
    from vipo.registry import ConfigError
    from vipo.structurers.base import call_structurer
    from vipo.visualization.maps import component_colours, map_clip, map_sheet

    args.out.mkdir(parents=True, exist_ok=True)
    maps: dict[str, list[Tensor]] = {name: [] for name in structurers}
    components: dict[str, list[Any]] = {n: [] for n, s in structurers.items() if hasattr(s, 'dense')}
    clock, clips = PhaseClock(), 0
    with clock.phase('maps', len(samples)):
        for i, (_, pixels, fps) in enumerate(samples):
            x = torch.tensor(pixels)[None].float().to(device) / 255
            grid = _grid(pixels.shape[1:], args.stride)
            for name, structurer in structurers.items():
                try:
                    prompts = None if texts is None else [texts[i]]
                    found = call_structurer(structurer, x, grid, prompts, [{'fps': fps}] if args.videos else None)
                except ValueError as error:
                    raise ConfigError(f'{name}: {error}; see --texts') from error
                maps[name].append(found[0, 0].cpu())
                if name in components:
                    with torch.no_grad():
                        features = structurer.dense(x).map[0].cpu()
                    components[name].append(component_colours(features, pixels.shape[2:]))
            clock.advance(1)
    clock.clear()
    for i, (_, pixels, fps) in enumerate(samples):
        if pixels.shape[1] > 1:
            map_clip(pixels, {n: m[i] for n, m in maps.items()}, args.out / f'{i:04d}', fps)
            clips += 1
    captions = [caption for caption, *_ in samples]
    map_sheet([pixels for _, pixels, _ in samples], captions, maps, components, args.out / 'maps.png')
    more = f', {clips} clips as *.mp4 and *_strip.png' if clips else ''
    print(f'Done: maps of {len(samples)} by {", ".join(structurers)}; look at maps.png{more} in {args.out}')
    return 0


def _name(path: str, all_paths: list[str]) -> str:
    stem = Path(path).stem
    return stem if [Path(p).stem for p in all_paths].count(stem) == 1 else path


def _read(path: str, args: argparse.Namespace, folder: Path) -> Config:
    from vipo.engine.config import override, read_config
    from vipo.registry import ConfigError
    from vipo.registry.lookup import component_class, components_of

    cfg = read_config(path)
    override(cfg, args.cfg_options)
    if not isinstance(cfg.get('structurer'), dict):
        raise ConfigError(f'config file {path!r} has no section structurer=dict(...), so it makes no maps')
    wanted = ('structurer', 'reward')
    for key, section in list(components_of({k: cfg[k] for k in wanted if k in cfg})) if args.rehearse else ():
        cls = component_class(section.get('type'))
        if hasattr(cls, 'rehearsal'):
            options = {k: v for k, v in section.items() if k != 'type'}
            for option, value in cls.rehearsal(options, folder / key).items():
                section[option] = value
    return cfg


def _build(cfg: Config, device: Any) -> Any:
    from vipo.engine.hub import check_reach
    from vipo.registry import REWARDS, STRUCTURERS, ConfigError
    from vipo.rewards.function import as_reward
    from vipo.structurers.base import bind_reward, uses_reward

    check_reach({'structurer': cfg.structurer})
    structurer = STRUCTURERS.build(cfg.structurer, at='structurer')
    if uses_reward(structurer):
        if not isinstance(cfg.get('reward'), dict):
            raise ConfigError(f'{type(structurer).__name__} is made from the reward, and the config has none')
        check_reach({'reward': cfg.reward})
        reward = as_reward(REWARDS.build(cfg.reward, at='reward')).to(device)
        bind_reward(structurer, reward)
    if hasattr(structurer, 'to'):
        structurer.to(device)
    return structurer


def _draw(args: argparse.Namespace, cfg: Config, device: Any) -> list[tuple[str, np.ndarray, float]]:
    """Samples of the config's generator: prompt, ``(3, F, Y, X)`` uint8, frames per second."""
    import torch

    from vipo.datasets.prompts import read_prompts
    from vipo.diffusion.rollout import integrate
    from vipo.engine.hub import check_reach
    from vipo.engine.restore import load_generator
    from vipo.randomness import SampleNoise, derive_seed
    from vipo.registry import ConfigError

    if not isinstance(cfg.get('generator'), dict):
        raise ConfigError('the first config has no section generator=dict(...); give it --images or --videos instead')
    texts = args.prompts
    if len(texts) == 1 and Path(texts[0]).suffix in ('.txt', '.jsonl'):
        texts = [record['prompt'] for record in read_prompts(texts[0])]
    texts = texts[: args.limit]
    check_reach({'generator': cfg.generator})
    generator = load_generator(cfg, None)
    generator.to(device)
    with torch.no_grad():
        conditioning = generator.encode(texts).to(generator.device)
        seeds = [derive_seed('sample', 0, text) for text in texts]
        noise = SampleNoise(seeds, generator.latent_shape(), generator.device)('initial')
        steps = (cfg.get('evaluation') or {}).get('num_steps', 28)
        latents = integrate(lambda x, s: generator.velocity(x, s, conditioning), noise, generator.sigmas(steps))
        pixels = (generator.decode(latents) * 255).round().byte().cpu().numpy()
    return [(text, sample, 8.0) for text, sample in zip(texts, pixels, strict=True)]


def _read_files(args: argparse.Namespace) -> list[tuple[str, np.ndarray, float]]:
    from vipo.datasets.media import CLIPS, PICTURES, describe_clip, find_files, read_clip, read_picture

    if args.images:
        files = find_files(args.images, PICTURES)[: args.limit]
        return [(f.name, read_picture(f).transpose(3, 0, 1, 2), 8.0) for f in files]
    samples = []
    for file in find_files(args.videos, CLIPS)[: args.limit]:
        count, fps, _ = describe_clip(file)
        stride = args.stride[0]
        frames = (min(count, args.frames) - 1) // stride * stride + 1
        samples.append((file.name, read_clip(file, range(frames)).transpose(3, 0, 1, 2), fps))
    return samples


def _grid(shape: tuple[int, int, int], stride: tuple[int, int]) -> tuple[int, int, int]:
    frames, height, width = shape
    return (frames - 1) // stride[0] + 1, max(1, round(height / stride[1])), max(1, round(width / stride[1]))


if __name__ == '__main__':
    sys.exit(main())
