"""Draw the allocation maps of one or several structurers over pictures or clips, without any training.

    python tools/show_map.py configs/vipo_tiny_sd3.py --prompts 'a red circle on a plain gray background'
    python tools/show_map.py configs/vipo_flux_hps.py configs/_base_/structurers/resnet50_pca.py --images pictures/
    python tools/show_map.py configs/vipo_wan_videoalign.py --videos clip.mp4 --rehearse

Each CONFIG is a file with a section ``structurer``. With --prompts the pictures are drawn by the first config's
generator. A sheet is written, maps.png: the map, the picture lit by it, the first three components of the backbone's
features as colours, and how the weights are distributed; of each clip also an MP4 and a strip of frames. Maps are on
the latent grid of the first config that has a generator; where its sizes are not known without a download, the
autoencoder is taken to have a stride of 4 frames and 8 pixels.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from mmengine.config import Config
    from torch import Tensor

sys.path[:0] = [str(Path(__file__).resolve().parent.parent)]


#: Of the autoencoders of most generators, in frames and in pixels.
STRIDE = (4, 8)


@dataclass(frozen=True)
class Sample:
    """A picture or a clip: ``(3, F, Y, X)`` uint8, its frames per second, and the latent grid where it is known."""

    caption: str
    pixels: np.ndarray
    fps: float = 8.0
    grid: tuple[int, int, int] | None = None


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    from vipo.engine.arguments import CfgOptions, positive

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('configs', nargs='+', metavar='CONFIG')
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument(
        '--images', nargs='+', help='files, folders or patterns; transparency and rotation by metadata are ignored'
    )
    source.add_argument('--videos', nargs='+', help='files, folders or patterns')
    source.add_argument('--prompts', nargs='+', help='texts, or one file of prompts: draw them first')
    parser.add_argument('--texts', nargs='+', help='prompts of the files, where a structurer asks for them')
    parser.add_argument('--frames', type=positive, default=33, help='most frames of a clip, from its beginning')
    parser.add_argument(
        '--stride', type=positive, nargs=2, metavar=('FRAMES', 'PIXELS'), help='per latent position, of any generator'
    )
    parser.add_argument('--at', type=_share, default=0.0, help='share of the run, for floors that follow a schedule')
    parser.add_argument('--rehearse', action='store_true', help='tiny random models in place of the real ones')
    parser.add_argument('--limit', type=positive, default=16, help='most pictures or clips')
    parser.add_argument('--out', type=Path, default=Path('maps'), help='folder')
    parser.add_argument('--device', help='default: the GPU where there is one')
    parser.add_argument('--cfg-options', nargs='+', action=CfgOptions, default={}, metavar='KEY=VALUE', help='of all')
    return parser.parse_args(argv)


def _share(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f'must be a share from 0 to 1, got {text!r}')
    return value


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
    from vipo.structurers.base import every_part, set_progress

    device = pick_device(args.device)
    if args.out.exists() and not args.out.is_dir():
        raise ConfigError(f'--out: {args.out} is a file')
    names = _distinct([Path(path).with_suffix('') for path in args.configs])
    configs = {name: _read(path, args, folder) for name, path in zip(names, args.configs, strict=True)}
    stride = tuple(args.stride or (None if args.prompts else _stride(configs.values())) or STRIDE)
    samples = [] if args.prompts else _read_files(args, stride[0])
    built = {name: _build(name, cfg) for name, cfg in configs.items()}
    structurers = {name: structurer for name, (structurer, _) in built.items()}
    texts = None if args.prompts else _texts(args, len(samples), structurers)
    if args.prompts:
        samples = _draw(args, next(iter(configs.values())), device)
        texts = [sample.caption for sample in samples]
    for name, (structurer, reward) in built.items():
        for part in (structurer, reward):
            if hasattr(part, 'to'):
                part.to(device)
        set_progress(structurer, round(1000 * args.at), 1001)
        if args.at == 0 and any(_changes(part) for part in every_part(structurer)):
            print(f'{name} changes in the course of a run, and is drawn as it begins; --at 1 shows its end')
    return _show(args, samples, structurers, texts, stride, device)


def _show(
    args: argparse.Namespace,
    samples: list[Sample],
    structurers: dict[str, Any],
    texts: list[str] | None,
    stride: tuple[int, int],
    device: Any,
) -> int:
    import torch

    from vipo.engine.clock import PhaseClock
    from vipo.registry import ConfigError
    from vipo.structurers.base import call_structurer, every_part
    from vipo.visualization.maps import map_clip, map_sheet

    args.out.mkdir(parents=True, exist_ok=True)
    maps: dict[str, list[Tensor]] = {name: [] for name in structurers}
    seers = {n: next((part for part in every_part(s) if hasattr(part, 'dense')), None) for n, s in structurers.items()}
    components: dict[str, list[Any]] = {name: [] for name, seer in seers.items() if seer is not None}
    shown, grids, left_out, clock = [], [], [], PhaseClock()
    largest = max((s.pixels.shape[3] * s.pixels.shape[2], s.pixels.shape[3], s.pixels.shape[2]) for s in samples)
    print(f'vipo: {len(samples)} samples, the largest of {largest[1]} x {largest[2]} pixels', flush=True)
    if largest[0] > 800_000:
        print(
            '  Large pictures take long: --cfg-options structurer.backbone.max_tokens=4096 bounds the work.', flush=True
        )
    with clock.phase('maps', len(samples)):
        for i, sample in enumerate(samples):
            x = torch.tensor(sample.pixels)[None].float().to(device) / 255
            grid = sample.grid if sample.grid and not args.stride else _grid(sample.pixels.shape[1:], stride)
            prompts = None if texts is None else [texts[i]]
            metadata = [{'fps': sample.fps}] if args.videos else None
            try:
                found = {n: call_structurer(s, x, grid, prompts, metadata)[0, 0].cpu() for n, s in structurers.items()}
                colours = {name: _components(seers[name], x) for name in components}
            except ValueError as error:  # the others can still be shown
                left_out.append(f'{sample.caption}: {error}')
            else:
                for kept, new in ((maps, found), (components, colours)):
                    for name, value in new.items():
                        kept[name].append(value)
                shown.append(sample)
                grids.append(grid)
            clock.advance(1)
    clock.clear()
    if not shown:
        raise ConfigError(left_out[0])
    for problem in left_out:
        print(f'left out: {problem}', file=sys.stderr)
    map_sheet([s.pixels for s in shown], [s.caption for s in shown], maps, components, args.out / 'maps.png')
    clips = [i for i, sample in enumerate(shown) if sample.pixels.shape[1] > 1]
    for i in clips:
        try:
            map_clip(shown[i].pixels, {n: m[i] for n, m in maps.items()}, args.out / f'{i:04d}', shown[i].fps)
        except OSError as error:
            raise ConfigError(f'{error}. maps.png and the strips so far are in {args.out}') from error
    more = f', {len(clips)} clips as *.mp4 and *_strip.png' if clips else ''
    where = ' x '.join(map(str, grids[0])) if len(set(grids)) == 1 else f'of {stride[0]} frames and {stride[1]} pixels'
    print(
        f'Done: maps of {len(shown)} by {", ".join(structurers)} on latent grids (T x H x W) {where}; look at '
        f'maps.png{more} in {args.out}'
    )
    return 1 if left_out else 0


def _components(seer: Any, x: Tensor) -> np.ndarray:
    """Colours ``(3, Y, X)`` of the features of a clip's middle frame; grey where it has one colour."""
    import numpy as np
    import torch

    from vipo.structurers.functional import of_one_colour
    from vipo.visualization.panels import component_colours

    middle, size = x.shape[2] // 2, x.shape[-2:]
    still = x[:, :, middle : middle + 1]
    if of_one_colour(still).all():
        return np.full((3, *size), 128, dtype=np.uint8)
    with torch.no_grad():
        if getattr(seer.backbone, 'clips', False):
            features = seer.dense(x)
            spans = features.spans or (1,) * features.map.shape[1]
            own = torch.arange(len(spans)).repeat_interleave(torch.tensor(spans))[middle]
            features = features.map[0, own : own + 1]
        else:
            features = seer.dense(still).map[0]
    return component_colours(features.cpu(), size)[:, 0]


def _changes(part: Any) -> bool:
    """Whether it is another one later in a run."""
    return hasattr(part, 'set_progress') and getattr(part, 'start', 0) != getattr(part, 'end', 1)


def _distinct(paths: list[Path]) -> list[str]:
    """The name of each, with as many of the folders above as tell it from the others."""
    names = []
    for path in paths:
        parts = path.resolve().parts
        others = [p.resolve().parts for p in paths if p.resolve() != path.resolve()]
        count = next((n for n in range(1, len(parts)) if all(o[-n:] != parts[-n:] for o in others)), len(parts))
        names.append('/'.join(parts[-count:]))
    return names


def _read(path: str, args: argparse.Namespace, folder: Path) -> Config:
    from mmengine.config import ConfigDict

    from vipo.engine.config import override, read_config
    from vipo.registry import ConfigError
    from vipo.registry.lookup import component_class, components_of

    cfg = read_config(path)
    override(cfg, args.cfg_options)
    if not isinstance(cfg.get('structurer'), dict):
        raise ConfigError(f'config file {path!r} has no section structurer=dict(...), so it makes no maps')
    wanted = ('structurer', 'reward', *(['generator'] if args.prompts else []))
    for key, section in list(components_of({k: cfg[k] for k in wanted if k in cfg})) if args.rehearse else ():
        cls = component_class(section.get('type'))
        if hasattr(cls, 'rehearsal'):
            options = {k: v for k, v in section.items() if k != 'type'}
            for option, value in ConfigDict(cls.rehearsal(options, folder / key)).items():
                section[option] = value
    return cfg


def _stride(configs: Iterable[Config]) -> tuple[int, int] | None:
    """Frames and pixels per latent position of the first generator whose sizes are known without a download."""
    from vipo.generators.architectures import is_known
    from vipo.generators.pipeline import PipelineGenerator
    from vipo.registry import GENERATORS
    from vipo.registry.lookup import component_class

    for section in (cfg.get('generator') for cfg in configs):
        cls = component_class(section.get('type')) if isinstance(section, Mapping) else None
        if not (isinstance(cls, type) and issubclass(cls, PipelineGenerator)):
            continue
        try:
            if not is_known(cls.hub_models(section)['pretrained']):
                continue
        except ValueError:  # a folder that is not on this machine; maps of files do without it
            continue
        generator = GENERATORS.build({**section, 'init': 'meta'}, at='generator')
        _, frames, height, _ = generator.latent_shape()
        later = max(frames - 1, 1)
        return ((generator.num_frames - 1) // later or 1) if frames > 1 else STRIDE[0], generator.height // height
    return None


def _build(name: str, cfg: Config) -> tuple[Any, Any]:
    """A config's structurer, and the reward that its map is made of, or None; both are still on the CPU."""
    from vipo.engine.hub import check_reach
    from vipo.registry import REWARDS, STRUCTURERS, ConfigError
    from vipo.rewards.function import as_reward
    from vipo.structurers.base import bind_reward, uses_reward

    check_reach({'structurer': cfg.structurer})
    structurer, reward = STRUCTURERS.build(cfg.structurer, at='structurer'), None
    if uses_reward(structurer):
        if not isinstance(cfg.get('reward'), dict):
            raise ConfigError(
                f'{name}: its map is made from the reward, and the config has no section reward=dict(...). Write one '
                "beside it, in a config with _base_ = ['" + f"{Path(cfg.filename).name}']"
            )
        check_reach({'reward': cfg.reward})
        reward = as_reward(REWARDS.build(cfg.reward, at='reward'))
        bind_reward(structurer, reward)
    return structurer, reward


def _texts(args: argparse.Namespace, count: int, structurers: dict[str, Any]) -> list[str] | None:
    """A prompt for each file, where they are given."""
    from vipo.registry import ConfigError

    asking = [name for name, structurer in structurers.items() if getattr(structurer, 'needs_prompts', False)]
    if args.texts is None and asking:
        raise ConfigError(f'{", ".join(asking)}: the map depends on the prompt of a picture; give it with --texts')
    if args.texts is None or len(args.texts) == count:
        return args.texts
    if len(args.texts) > 1:
        raise ConfigError(
            f'{count} files but {len(args.texts)} --texts; one serves for all, otherwise each has its own'
        )
    return args.texts * count


def _draw(args: argparse.Namespace, cfg: Config, device: Any) -> list[Sample]:
    """Samples of the config's generator."""
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
    texts = _limited(texts, args.limit, 'prompts')
    check_reach({'generator': cfg.generator})
    generator = load_generator(cfg, None)
    generator.to(device)
    shape = generator.latent_shape()
    with torch.no_grad():
        conditioning = generator.encode(texts).to(generator.device)
        seeds = [derive_seed('sample', 0, text) for text in texts]
        noise = SampleNoise(seeds, shape, generator.device)('initial')
        steps = (cfg.get('evaluation') or {}).get('num_steps', 28)
        latents = integrate(lambda x, s: generator.velocity(x, s, conditioning), noise, generator.sigmas(steps))
        pixels = (generator.decode(latents) * 255).round().byte().cpu().numpy()
    return [Sample(text, sample, grid=shape[1:]) for text, sample in zip(texts, pixels, strict=True)]


def _read_files(args: argparse.Namespace, stride: int) -> list[Sample]:
    from vipo.datasets.media import CLIPS, PICTURES, describe_clip, find_files, read_clip, read_picture

    if args.images:
        files = _limited(find_files(args.images, PICTURES), args.limit, 'pictures')
        return [
            Sample(name, read_picture(file).transpose(3, 0, 1, 2))
            for name, file in zip(_distinct(files), files, strict=True)
        ]
    samples = []
    files = _limited(find_files(args.videos, CLIPS), args.limit, 'clips')
    for name, file in zip(_distinct(files), files, strict=True):
        count, fps, _ = describe_clip(file)
        frames = (min(count, args.frames) - 1) // stride * stride + 1
        samples.append(Sample(name, read_clip(file, range(frames)).transpose(3, 0, 1, 2), fps))
    return samples


def _limited(all_of_them: list[Any], limit: int, what: str) -> list[Any]:
    if len(all_of_them) > limit:
        print(f'the first {limit} of {len(all_of_them)} {what} are shown; --limit takes more')
    return all_of_them[:limit]


def _grid(shape: tuple[int, int, int], stride: tuple[int, int]) -> tuple[int, int, int]:
    frames, height, width = shape
    return (frames - 1) // stride[0] + 1, max(1, round(height / stride[1])), max(1, round(width / stride[1]))


if __name__ == '__main__':
    sys.exit(main())
