"""Compare the map stage with a straightforward implementation, frame by frame, in one run.

    python tools/benchmark.py structurer
    python tools/benchmark.py structurer --frames 1 --samples 12 --height 512 --width 512
    python tools/benchmark.py structurer --falloff 1

The straightforward one is what one writes first: PIL resizes each frame, the backbone sees one frame at a time,
scikit-learn finds the principal components, SciPy smooths, PIL resizes the map. Both use the same backbone, of
DINOv2-small's size with random weights, and the same recipe and signs; how near the maps are is printed beside the
times. They take turns, and the median of the repetitions counts.

With random weights a few components are nearly all of the features, which makes them easy to find. ``--falloff 1``
measures the map alone on the same features after a linear map, of which the strengths of their components over the
whole clip fall off as 1, 1/2, 1/3, ...

Peaks are of what is held at once beside weights and pixels: on a GPU as its allocator counts, elsewhere the results of
operations.
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

from tools.benchmarks.random_weights import DINOV2_SIZES, random_dinov2

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from vipo.structurers.backbones import DINOv2Backbone

_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def plain_features(model: torch.nn.Module, clip: Tensor) -> list[Any]:
    """Patch features ``(h, w, D)`` of each frame of ``(3, F, Y, X)``, one frame at a time."""
    import numpy as np
    import torch
    from PIL import Image

    patch, found = model.config.patch_size, []
    for frame in clip.unbind(1):
        picture = Image.fromarray((frame.permute(1, 2, 0).cpu().numpy() * 255).astype(np.uint8))
        size = tuple(max(1, round(side / patch)) * patch for side in picture.size)
        array = np.asarray(picture.resize(size, Image.Resampling.BICUBIC), dtype=np.float32) / 255
        array = (array - np.array(_MEAN, np.float32)) / np.array(_STD, np.float32)
        with torch.no_grad():
            output = model(pixel_values=torch.from_numpy(array).permute(2, 0, 1)[None].to(model.device))
        found.append(output.last_hidden_state[0, 1:].cpu().numpy().reshape(size[1] // patch, size[0] // patch, -1))
    return found


def plain_map(features: list[Any], grid: tuple[int, int, int], components: int = 3) -> Any:
    """The paper's recipe ``(T, H, W)`` with scikit-learn, SciPy and PIL, one frame at a time."""
    import numpy as np
    from PIL import Image
    from scipy.ndimage import gaussian_filter
    from sklearn.decomposition import PCA

    def stretched(x: Any) -> Any:
        return (x - x.min()) / (x.max() - x.min())

    maps, before = [], None
    for tokens in features:
        height, width, depth = tokens.shape
        pca = PCA(components)
        projected = pca.fit_transform(tokens.reshape(-1, depth))
        axes = pca.components_
        if before is None:  # a sign is arbitrary: the entry of largest magnitude is positive, later frames follow
            signs = np.sign(np.take_along_axis(axes, abs(axes).argmax(1)[:, None], 1))[:, 0]
        else:
            signs = np.where((axes * before).sum(1) < 0, -1.0, 1.0)
        projected, before = projected * signs, axes * signs[:, None]
        weights = pca.explained_variance_ratio_ / pca.explained_variance_ratio_.sum()
        total = sum(w * stretched(projected[:, k]) for k, w in enumerate(weights)).reshape(height, width)
        small = stretched(gaussian_filter(total, 1.0)).astype(np.float32)
        maps.append(np.asarray(Image.fromarray(small).resize(grid[:0:-1], Image.Resampling.BILINEAR)))
    stride = (len(maps) - 1) // (grid[0] - 1) if grid[0] > 1 else 1
    later = [np.mean(maps[i : i + stride], axis=0) for i in range(1, len(maps), stride)]
    return np.stack([maps[0], *later])


def benchmark(
    backbone: DINOv2Backbone,
    half: DINOv2Backbone,
    pixels: Tensor,
    grid: tuple[int, int, int],
    repeats: int,
    frames_per_batch: int,
    falloff: float | None = None,
) -> dict[str, float]:
    """Seconds of both, with and without the backbone, and how the maps compare.

    Args:
        half: the same backbone in bfloat16.
        repeats: turns that each gets; three times as many without the backbone, where they are short.
        falloff: only the map alone is measured, on features of :func:`with_falloff`.
    """
    import torch

    from vipo.structurers import PCAAllocator, PerceptualStructurer
    from vipo.structurers.backbones import Backbone, Features
    from vipo.structurers.functional import latent_frames

    class Ready(Backbone):
        """Features that are there already, of as many pictures as are asked for."""

        def __init__(self, features: Tensor) -> None:
            self.features = features

        def __call__(self, pictures: Tensor) -> Features:
            return Features(self.features[: len(pictures)])

    options: dict[str, Any] = {'normalize': 'minmax', 'frames_per_batch': frames_per_batch}
    allocator = PCAAllocator(orientation='as_computed')
    whole = PerceptualStructurer(backbone, allocator, **options)
    sparse = PerceptualStructurer(backbone, allocator, frames='latent', **options)
    stills = pixels.transpose(1, 2).flatten(0, 1)
    ready = torch.cat([backbone(part).map for part in stills.split(8)])
    if falloff is not None:
        ready = with_falloff(ready, falloff)
    at_once = {**options, 'frames_per_batch': len(ready)}
    from_features = PerceptualStructurer(Ready(ready), allocator, **at_once)
    chosen = ready.unflatten(0, (len(pixels), -1))[:, latent_frames(pixels.shape[2], grid[0])].flatten(0, 1)
    from_few = PerceptualStructurer(Ready(chosen), allocator, frames='latent', **at_once)
    narrow = PerceptualStructurer(half, allocator, **options)
    both = PerceptualStructurer(half, allocator, frames='latent', **options)
    if falloff is None:
        lists = [plain_features(backbone.model, clip) for clip in pixels]
    else:
        lists = [list(clip.permute(0, 2, 3, 1).cpu().numpy()) for clip in ready.unflatten(0, (len(pixels), -1))]

    def plain() -> list[Any]:
        return [plain_map(plain_features(backbone.model, clip), grid) for clip in pixels]

    alone: dict[str, Callable[[], Any]] = {
        'plain, map alone': lambda: [plain_map(features, grid) for features in lists],
        'ours, map alone': lambda: from_features(pixels, grid),
        'ours, map alone, one frame per latent frame': lambda: from_few(pixels, grid),
    }
    joined: dict[str, Callable[[], Any]] = {
        'plain': plain,
        'ours': lambda: whole(pixels, grid),
        'ours, bfloat16': lambda: narrow(pixels, grid),
        'ours, one frame per latent frame': lambda: sparse(pixels, grid),
        'ours, bfloat16, one frame per latent frame': lambda: both(pixels, grid),
    }

    def stacked(maps: list[Any]) -> Tensor:
        return torch.stack([torch.from_numpy(each) for each in maps])[:, None].to(pixels)

    medians = _in_turn(alone, 3 * repeats, pixels.device)
    results = {
        'map alone, times faster': medians['plain, map alone'] / medians['ours, map alone'],
        'map alone, one frame per latent frame, times faster': medians['plain, map alone']
        / medians['ours, map alone, one frame per latent frame'],
    }
    if falloff is not None:
        ours, few = from_features(pixels, grid), from_few(pixels, grid)
        return {
            **{f'{name}, s': value for name, value in medians.items()},
            **results,
            'correlation with the plain map': _correlation(ours, stacked([plain_map(each, grid) for each in lists])),
            'correlation of few frames with all': _correlation(few, ours),
        }
    medians |= _in_turn(joined, repeats, pixels.device)
    ours, few = whole(pixels, grid), sparse(pixels, grid)
    return {
        **{f'{name}, s': value for name, value in medians.items()},
        **results,
        'with backbone, times faster': medians['plain'] / medians['ours'],
        'with backbone, bfloat16, times faster': medians['plain'] / medians['ours, bfloat16'],
        'one frame per latent frame, times faster': medians['plain'] / medians['ours, one frame per latent frame'],
        'bfloat16, one frame per latent frame, times faster': medians['plain']
        / medians['ours, bfloat16, one frame per latent frame'],
        'correlation with the plain map': _correlation(ours, stacked(plain())),
        'correlation of bfloat16 with float32': _correlation(narrow(pixels, grid), ours),
        'correlation of few frames with all': _correlation(few, ours),
        'correlation of few frames in bfloat16 with all': _correlation(both(pixels, grid), ours),
        'features, MiB': ready.nbytes / 2**20,
        'map alone, peak beside the features, MiB': _peak(alone['ours, map alone'], pixels.device) / 2**20,
        'with backbone, peak, MiB': _peak(joined['ours'], pixels.device) / 2**20,
    }


def with_falloff(features: Tensor, power: float) -> Tensor:
    """A linear map of features ``(F, D, h, w)`` whose principal variances over all frames are ``k ** -power``."""
    import torch

    tokens = features.permute(0, 2, 3, 1).double()
    centred = (tokens - tokens.mean((0, 1, 2))).flatten(0, 2)
    values, axes = torch.linalg.eigh(centred.mT @ centred / len(centred))
    wanted = torch.arange(len(values), 0, -1).to(values) ** -power
    scale = (wanted / values.clamp(min=1e-12 * values[-1].item())).sqrt()
    return (tokens @ (axes * scale) @ axes.mT).to(features).permute(0, 3, 1, 2)


def _in_turn(works: dict[str, Callable[[], Any]], repeats: int, device: torch.device) -> dict[str, float]:
    """Median seconds of each, one after the other, ``repeats`` times; before that, each is called once."""
    took: dict[str, list[float]] = {name: [] for name in works}
    for round_ in range(repeats + 1):
        for name, work in works.items():
            time.sleep(0.2)  # threads of the one before, which wait for more to do, go to sleep
            if round_:
                took[name].append(_seconds(work, device))
            else:
                work()
    return {name: statistics.median(values) for name, values in took.items()}


def _seconds(work: Callable[[], Any], device: torch.device) -> float:
    """How long one call takes. A short one is made again for a third of a second, the first, cold one not counted."""
    import torch

    took: list[float] = []
    while sum(took) < 0.3:
        began = time.perf_counter()
        work()
        if device.type == 'cuda':
            torch.cuda.synchronize()
        took.append(time.perf_counter() - began)
    return statistics.median(took[1:] or took)


def _peak(work: Callable[[], Any], device: torch.device) -> int:
    """Most bytes held at once by what a piece of work makes."""
    import torch

    from vipo.engine.measure import PeakMemory

    if device.type == 'cuda':
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        work()
        return torch.cuda.max_memory_allocated(device) - before
    with PeakMemory() as memory:
        work()
    return memory.peak


def _correlation(a: Tensor, b: Tensor) -> float:
    """Mean over latent frames of the correlation over positions."""
    import torch

    pairs = zip(a.flatten(0, 2).flatten(1), b.flatten(0, 2).flatten(1), strict=True)
    return torch.stack([torch.corrcoef(torch.stack(pair))[0, 1] for pair in pairs]).mean().item()


def scenes(samples: int, frames: int, height: int, width: int) -> Tensor:
    """Clips ``(samples, 3, frames, height, width)`` of a few smooth blobs that drift over a smooth ground."""
    import torch
    import torch.nn.functional as F

    generator = torch.Generator().manual_seed(0)
    rows, columns = torch.linspace(0, 1, height)[:, None], torch.linspace(0, 1, width)
    clips = []
    for _ in range(samples):
        ground = F.interpolate(torch.rand(1, 3, 4, 6, generator=generator), (height, width), mode='bicubic')[0] * 0.5
        clip = ground[:, None].repeat(1, frames, 1, 1)
        for _ in range(3):
            place, speed, colour = (torch.rand(n, generator=generator) for n in (2, 2, 3))
            for t in range(frames):
                at = place + (speed - 0.5) * 0.6 * t / max(frames - 1, 1)
                blob = torch.exp(-((rows - at[0]) ** 2 + (columns - at[1]) ** 2) / 0.01)
                clip[:, t] = clip[:, t] * (1 - blob) + colour[:, None, None] * blob
        clips.append(clip)
    return torch.stack(clips).clamp(0, 1)


def main(argv: list[str]) -> None:
    style = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(prog='benchmark.py structurer', description=__doc__, formatter_class=style)
    parser.add_argument('--samples', type=int, default=1)
    parser.add_argument('--frames', type=int, default=53)
    parser.add_argument('--height', type=int, default=240)
    parser.add_argument('--width', type=int, default=416)
    parser.add_argument('--stride', type=int, nargs=2, default=(4, 8), help='of the autoencoder, in time and space')
    parser.add_argument('--backbone', help='a DINOv2 checkpoint in place of random weights')
    parser.add_argument('--size', choices=DINOV2_SIZES, default='small', help='of a DINOv2 with random weights')
    parser.add_argument('--device', default='cpu')
    parser.add_argument('--frames-per-batch', type=int, default=4, help='of the backbone; on a GPU rather 64')
    parser.add_argument('--repeats', type=int, default=3)
    parser.add_argument('--falloff', type=float, help='of the strengths of components: a power of 1/k')
    parser.add_argument('--out', type=Path, help='also write the figures as JSON')
    args = parser.parse_args(argv)

    import torch

    from vipo.engine.quiet import quiet_third_parties
    from vipo.structurers.backbones import DINOv2Backbone

    quiet_third_parties()
    time_stride, stride = args.stride
    if (args.frames - 1) % time_stride or args.height % stride or args.width % stride:
        parser.error('the clip does not fit the autoencoder: frames = k * stride + 1, sides multiples of the stride')
    grid = (args.frames - 1) // time_stride + 1, args.height // stride, args.width // stride
    pixels = scenes(args.samples, args.frames, args.height, args.width).to(args.device)
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = args.backbone or random_dinov2(args.size, folder)
        backbone, half = (DINOv2Backbone(checkpoint, device=args.device, dtype=d) for d in ('float32', 'bfloat16'))
        results = benchmark(backbone, half, pixels, grid, args.repeats, args.frames_per_batch, args.falloff)
    threads = torch.get_num_threads()
    print(
        f'{args.samples} x {args.frames} frames of {args.height} x {args.width} on the grid {grid}, {threads} threads'
    )
    for name, value in results.items():
        print(f'  {name:52s} {value:9.3f}')
    if args.out:
        args.out.write_text(json.dumps(results, indent=2) + '\n')
        print(f'figures in {args.out}')
