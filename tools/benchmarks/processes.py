"""Train with one process and with several, each pinned to a core of its own, and compare the samples per second.

    python tools/benchmark.py processes configs/vipo_tiny_sd3.py --processes 2

The batch is the same, so that perfect division is as many times faster as there are processes. Runs take turns; the
median of all iterations but each run's first counts.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def train(config: str, processes: int, cores: list[int], work_dir: Path, options: list[str]) -> list[float]:
    """Seconds of each iteration but the first.

    Raises:
        RuntimeError: a process failed.
    """
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        port = str(s.getsockname()[1])
    command = [sys.executable, 'tools/train.py', config, '--work-dir', str(work_dir)]
    command += ['--launcher', 'pytorch', '--cfg-options', *options]
    started = []
    for rank in range(processes):
        place = {'RANK': rank, 'LOCAL_RANK': rank, 'WORLD_SIZE': processes, 'LOCAL_WORLD_SIZE': processes}
        environment = {**os.environ, **{k: str(v) for k, v in place.items()}, 'OMP_NUM_THREADS': '1'}
        environment |= {'MASTER_ADDR': '127.0.0.1', 'MASTER_PORT': port}
        log = open(work_dir.with_name(f'{work_dir.name}_{rank}.log'), 'w')  # noqa: SIM115, the process closes it
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=subprocess.STDOUT)
        os.sched_setaffinity(process.pid, {cores[rank]})
        started.append(process)
    codes = [process.wait() for process in started]
    if any(codes):
        raise RuntimeError(f'a process failed: look at {work_dir}_*.log')
    rows = [json.loads(line) for line in (work_dir / 'history.jsonl').read_text().splitlines()]
    return [row['seconds/total'] for row in rows[1:]]


def main(argv: list[str]) -> None:
    style = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(prog='benchmark.py processes', description=__doc__, formatter_class=style)
    parser.add_argument('config')
    parser.add_argument('--processes', type=int, default=2)
    parser.add_argument('--iterations', type=int, default=4, help='of each run')
    parser.add_argument('--repeats', type=int, default=2, help='runs of each kind')
    parser.add_argument('--cfg-options', nargs='+', default=[], metavar='KEY=VALUE')
    args = parser.parse_args(argv)
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < args.processes:
        parser.error(f'{args.processes} processes need a core each, and there are {len(cores)}')
    options = [f'train_cfg.max_iters={args.iterations}', 'evaluation=None', *args.cfg_options]
    kept = Path(tempfile.mkdtemp(prefix='vipo_processes_'))
    seconds: dict[int, list[float]] = {1: [], args.processes: []}
    for repeat in range(args.repeats):
        for count, found in seconds.items():
            found += train(args.config, count, cores, kept / f'{count}_processes_{repeat}', options)
            print(f'{count} process(es): {found[-1]:.2f} s an iteration', flush=True)
    one, many = (statistics.median(found) for found in seconds.values())
    print(
        f'\nseconds an iteration: {one:.2f} with one process, {many:.2f} with {args.processes}, '
        f'one core each: {one / many:.2f} times the throughput; work dirs in {kept}'
    )
