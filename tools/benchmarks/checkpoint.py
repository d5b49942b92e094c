"""What the sha256 of a checkpoint costs beside writing it, and what reading it again takes.

    python tools/benchmark.py checkpoint --gigabytes 1 --folder work_dirs

Both ways write the same tensors, flush them to the disk and rename the file; they take turns, and the median of the
repetitions counts. Reading follows writing, so it is from the system's cache.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any


def benchmark(gigabytes: float, folder: Path, repeats: int) -> dict[str, float]:
    """Seconds of each way, by the clock and of the processor."""
    import torch

    from vipo.engine.checkpoint import write_checkpoint
    from vipo.engine.files import manifest_of, sha256_of, write_atomically
    from vipo.engine.verify import inspect

    side = 4096
    count = max(1, round(gigabytes * 1e9 / (4 * side**2)))
    content: dict[str, Any] = {
        'meta': {'iter': 1},
        'message_hub': {'log_scalars': {}, 'runtime_info': {}, 'resumed_keys': {}},
        'optimizer': {'state': {}, 'param_groups': []},
    }
    content['state_dict'] = {f'layer_{i}': torch.randn(side, side) for i in range(count)}
    path = folder / 'iter_1.pth'

    def plain() -> None:
        def write(temporary: Path) -> None:
            with open(temporary, 'wb') as file:
                torch.save(content, file)

        write_atomically(path, write)

    def unlisted() -> None:
        manifest_of(path).unlink()
        assert inspect(path).problem is None

    works: dict[str, Callable[[], Any]] = {
        'write': plain,
        'write with its sha256': lambda: write_checkpoint(path, content),
        'sha256 of the file': lambda: sha256_of(path),
        'verify': lambda: inspect(path),
        'verify without a sha256': unlisted,
    }
    took: dict[str, list[float]] = {}
    for round_ in range(repeats + 1):
        for name, work in works.items():
            began, spent = time.perf_counter(), time.process_time()
            work()
            if round_:  # the first one warms up
                took.setdefault(f'{name}, s', []).append(time.perf_counter() - began)
                took.setdefault(f'{name}, CPU s', []).append(time.process_time() - spent)
    return {'size, GB': path.stat().st_size / 1e9, **{k: statistics.median(v) for k, v in took.items()}}


def main(argv: list[str]) -> None:
    style = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(prog='benchmark.py checkpoint', description=__doc__, formatter_class=style)
    parser.add_argument('--gigabytes', type=float, default=1.0)
    parser.add_argument('--folder', type=Path, default=Path(), help='on the disk to measure')
    parser.add_argument('--repeats', type=int, default=5)
    parser.add_argument('--out', type=Path, help='also write the figures as JSON')
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        results = benchmark(args.gigabytes, Path(folder), args.repeats)
    for name, value in results.items():
        print(f'  {name:32s} {value:8.3f}')
    if args.out:
        args.out.write_text(json.dumps(results, indent=2) + '\n')
        print(f'figures in {args.out}')
