"""Score pictures or clips with any reward, without training.

    python tools/score.py HPSReward --images a.png b.png --prompts 'a cat'
    python tools/score.py configs/vipo_flux_hps.py --eval --images folder --prompts prompts.txt
    python tools/score.py configs/_base_/rewards/hps.py --images --prompts table.csv
    python tools/score.py my_rewards.smoothness --videos 'clips/*.mp4' --prompts prompts.txt --frames 16

The first argument is a config with a reward, the name of a reward, or the dotted path of a function. Files of a folder
or a pattern come in the order of their names. Prompts are one text for all files, one for each, a .txt with a line for
each, or a .jsonl or .csv with `prompt` and perhaps `path`; with `path` in it, --images or --videos may stand alone.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

    from vipo.rewards.base import Reward

sys.path[:0] = [str(Path(__file__).resolve().parent.parent)]

#: Most rows that are printed; all of them are in the CSV.
ROWS = 50


@dataclass
class Sample:
    """A file with its prompt, and where that is a clip, which of its frames count."""

    path: Path
    record: dict[str, Any]
    shape: tuple[int, ...]
    frames: list[int] | None = None

    def read(self) -> np.ndarray:
        """``(F, Y, X, 3)`` uint8."""
        from vipo.datasets.media import read_clip, read_picture

        return read_picture(self.path) if self.frames is None else read_clip(self.path, self.frames)


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    from vipo.engine.arguments import CfgOptions

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('reward', metavar='CONFIG_OR_NAME')
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument('--images', nargs='*', metavar='FILE', help='files, folders or patterns')
    what.add_argument('--videos', nargs='*', metavar='FILE', help='files, folders or patterns')
    parser.add_argument('--prompts', nargs='+', required=True, help='texts, or one file of prompts')
    parser.add_argument('--frames', type=int, help='of a clip, evenly spaced (default: all)')
    parser.add_argument(
        '--fps',
        type=float,
        help='frames per second that a reward is told in metadata["fps"] (default: what the file says, less where '
        '--frames leaves some out)',
    )
    parser.add_argument('--eval', action='store_true', help="the config's eval_rewards too")
    parser.add_argument('--batch', type=int, default=16, help='samples at once')
    parser.add_argument('--device', help='default: the GPU where there is one')
    parser.add_argument('--out', type=Path, default=Path('scores.csv'))
    parser.add_argument('--cfg-options', nargs='+', action=CfgOptions, default={}, metavar='KEY=VALUE')
    args = parser.parse_args(argv)
    for name in ('batch', 'frames', 'fps'):
        if (value := getattr(args, name)) is not None and not value > 0:
            parser.error(f'--{name} must be positive, got {value}')
    if args.videos is None and (args.frames or args.fps):
        parser.error('--frames and --fps are for --videos')
    return args


def main(argv: list[str] | None = None) -> int:
    args = parse_args(argv)
    sys.path[:0] = [str(Path(args.reward).resolve().parent), os.getcwd()]
    print('vipo: loading', flush=True)
    from vipo.engine.quiet import quiet_third_parties
    from vipo.engine.rewards import build_rewards, pick_device, reward_config
    from vipo.engine.scoring import RunStopped

    quiet_third_parties()
    try:
        samples = find_samples(args)
        if not args.out.parent.is_dir():
            raise ValueError(f'--out: the folder {str(args.out.parent)!r} does not exist')
        if args.out.is_dir():
            raise ValueError(f'--out: {str(args.out)!r} is a folder')
        device, cfg = pick_device(args.device), reward_config(args.reward, args.cfg_options)
        rewards = build_rewards(cfg, evaluation=args.eval)
        for reward in rewards.values():
            reward.to(device)
    except (ValueError, OSError) as error:
        print(f'error: {error}', file=sys.stderr)
        return 2
    try:
        columns = score_samples(samples, rewards, args.batch, device)
    except (RunStopped, ValueError) as error:
        print(f'error: {error}', file=sys.stderr)
        return 3
    write_csv(samples, columns, args.out)
    print('\n'.join(table(samples, columns, rewards)))
    print(f'Done: {len(samples)} files scored; look at {args.out}')
    return 0


def find_samples(args: argparse.Namespace) -> list[Sample]:
    """Every file with its prompt; all of them are opened once, so that a damaged one shows before a model is loaded.

    Raises:
        ValueError: a file is missing or unreadable, or prompts and files do not match.
    """
    from vipo.datasets.media import CLIPS, PICTURES, describe_clip, find_files, read_picture
    from vipo.datasets.pairs import read_pairs
    from vipo.rewards.judge import evenly_spaced

    clips = args.videos is not None
    files = find_files(args.videos if clips else args.images, CLIPS if clips else PICTURES)
    samples = []
    for path, record in read_pairs(files, args.prompts):
        if not clips:
            samples.append(Sample(path, record, read_picture(path).shape[:3]))
            continue
        total, fps, size = describe_clip(path)
        frames = evenly_spaced(total, args.frames or total)
        if total > 1 and len(frames) > 1:
            fps *= (len(frames) - 1) / (total - 1)
        rate = args.fps or float(record.get('fps') or fps)
        samples.append(Sample(path, {**record, 'fps': rate}, (len(frames), *size), frames))
    return samples


def score_samples(
    samples: list[Sample], rewards: dict[str, Reward], batch: int, device: Any
) -> dict[str, list[float | bool | None]]:
    """Columns of the result: for each reward ``NAME`` (its score), ``NAME valid`` and its parts ``NAME/PART``.

    Where there is no number, there is None. Files of one size go through a reward together.

    Raises:
        RunStopped: a reward failed; the message names the file.
    """
    import numpy as np
    import torch

    from vipo.engine.clock import PhaseClock
    from vipo.engine.scoring import RewardFailure, score
    from vipo.rewards.wire import to_pixels

    groups: dict[tuple[int, ...], list[int]] = defaultdict(list)
    for i, sample in enumerate(samples):
        groups[sample.shape].append(i)
    columns: dict[str, list[float | bool | None]] = {}
    clock = PhaseClock()
    with torch.no_grad(), clock.phase('scoring', len(samples)):
        for group in groups.values():
            for start in range(0, len(group), batch):
                index = group[start : start + batch]
                some = [samples[i] for i in index]
                pixels = to_pixels(np.stack([sample.read() for sample in some])).to(device)
                records = [sample.record for sample in some]
                for name, reward in rewards.items():
                    try:
                        output = score(reward, name, pixels, [r['prompt'] for r in records], records)
                    except RewardFailure as error:
                        which = some if error.sample is None else [some[error.sample]]
                        raise RewardFailure(f'{", ".join(str(s.path) for s in which)}: {error}') from error
                    scores = output.scores.masked_fill(~output.valid, float('nan'))
                    values = {name: scores, f'{name} valid': output.valid}
                    values |= {f'{name}/{part}': value.float() for part, value in output.parts.items()}
                    for key, value in values.items():
                        column = columns.setdefault(key, [None] * len(samples))
                        for i, x in zip(index, value.tolist(), strict=True):
                            column[i] = x if np.isfinite(x) else None
                clock.advance(len(some))
    clock.clear()
    return columns


def write_csv(samples: list[Sample], columns: dict[str, list[float | bool | None]], out: Path) -> None:
    """One row for each file; an empty cell where there is no number."""
    import csv

    from vipo.engine.checkpoint import write_atomically

    def write(path: Path) -> None:
        with open(path, 'w', newline='', encoding='utf-8') as file:
            writer = csv.writer(file)
            writer.writerow(['path', 'prompt', *columns])
            for i, sample in enumerate(samples):
                writer.writerow([sample.path, sample.record['prompt'], *(column[i] for column in columns.values())])

    write_atomically(out, write)


def table(
    samples: list[Sample], columns: dict[str, list[float | bool | None]], rewards: dict[str, Reward]
) -> list[str]:
    """Lines of an aligned table: the first files, and the mean of each column over the valid samples of its reward."""
    shown = [key for key in columns if not key.endswith(' valid')]
    names = [str(sample.path) for sample in samples[:ROWS]]
    rows = [[name, *(_cell(columns[key][i]) for key in shown)] for i, name in enumerate(names)]
    means = []
    for key in shown:
        name = next(name for name in rewards if f'{key}/'.startswith(f'{name}/'))
        valid = columns[f'{name} valid']
        kept = [x for x, ok in zip(columns[key], valid, strict=True) if ok and x is not None]
        means.append(_cell(sum(kept) / len(kept) if kept else None))
    rows = [['', *shown], *rows, ['mean', *means]]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = [
        '  '.join([row[0].ljust(widths[0]), *(x.rjust(w) for x, w in zip(row[1:], widths[1:], strict=True))]).rstrip()
        for row in rows
    ]
    if len(samples) > ROWS:
        lines.insert(-1, f'... and {len(samples) - ROWS} more')
    for name in rewards:
        if bad := columns[f'{name} valid'].count(False):
            lines.append(f'{name}: {bad} of {len(samples)} samples have no valid score and are not in the mean')
    return lines


def _cell(value: float | None) -> str:
    return '-' if value is None else f'{value:.4f}'


if __name__ == '__main__':
    sys.exit(main())
