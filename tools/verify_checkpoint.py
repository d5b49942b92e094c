"""Say of checkpoints whether they are whole: the bytes that were written, and all that a run needs to go on.

    python tools/verify_checkpoint.py work_dirs/vipo_tiny_sd3
    python tools/verify_checkpoint.py iter_10.pth iter_20.pth

Every file is read to its end, and nothing in it is executed. The exit code is 1 where one is not whole.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('paths', nargs='+', type=Path, metavar='PATH', help='a checkpoint, or a folder of them')
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    args = parse_args(argv)
    from vipo.engine.files import readable
    from vipo.engine.verify import inspect

    files: list[Path] = []
    for path in args.paths:
        found = sorted(path.glob('*.pth'), key=lambda p: (len(p.name), p.name)) if path.is_dir() else [path]
        if not found:
            print(f'error: there is no checkpoint (*.pth) in {path}', file=sys.stderr)
            return 2
        files += found
    rows = [('checkpoint', 'iteration', 'seed', 'config', 'tensors', 'numbers', 'size', 'sha256', 'verdict')]
    problems = []
    for file in files:
        x = inspect(file)
        values = (x.iteration, x.seed, x.config, x.tensors, x.parameters)
        said = ['-' if v is None else f'{v:,}' if v is x.parameters else str(v) for v in values]
        size = readable(file.stat().st_size) if file.is_file() else '-'
        rows.append((str(file), *said, size, x.sha256, 'whole' if x.problem is None else 'NOT WHOLE'))
        problems += [] if x.problem is None else [x.problem]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print('  '.join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    for problem in problems:
        print(f'error: {problem}', file=sys.stderr)
    return 1 if problems else 0


if __name__ == '__main__':
    sys.exit(main())
