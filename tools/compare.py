"""Compare runs: one self-contained HTML report, and its charts and gallery as PNG.

    python tools/compare.py work_dirs/vipo_seed0 work_dirs/vipo_seed1 work_dirs/grpo_seed0 work_dirs/grpo_seed1
    python tools/compare.py work_dirs/* --out reports/all

Each RUN is the work dir of tools/train.py, finished or not. Runs of one config with several seeds become a group with
a band; the first group is what the others are compared with. Results of tools/test.py are taken from where it writes
them. The page opens from disk, without a network.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parent.parent)]


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('runs', nargs='+', type=Path, metavar='RUN')
    parser.add_argument('--out', type=Path, default=Path('comparison'), help='folder (default: comparison)')
    parser.add_argument('--gallery', type=int, default=12, metavar='N', help='prompts in the gallery')
    args = parser.parse_args(argv)
    if args.gallery < 0:
        parser.error(f'--gallery must not be negative, got {args.gallery}')
    return args


def main(argv: list[str] | None = None) -> int:
    args = parse_args(argv)
    print('vipo: loading', flush=True)
    from vipo.comparison import group_runs, read_run, write_report
    from vipo.registry import ConfigError

    command = shlex.join(['python', 'tools/compare.py', *(sys.argv[1:] if argv is None else argv)])
    try:
        groups = group_runs([read_run(folder) for folder in args.runs])
        for group in groups:
            print(f'{group.label}: seeds {", ".join(map(str, group.seeds))}')
            for run in group.runs:
                for note in run.notes:
                    print(f'  note: {run.folder} {note}')
        page, *pictures = write_report(groups, args.out, command, args.gallery)
    except ConfigError as error:
        print(f'error: {error}', file=sys.stderr)
        return 2
    print(f'Done: open {page}; beside it {", ".join(path.name for path in pictures)}')
    return 0


if __name__ == '__main__':
    sys.exit(main())
