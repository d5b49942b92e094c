"""The study on the embedded generator: does ViPO beat GRPO here, and where?

    python tools/study.py                         # everything, resumable: run the same line again to go on
    python tools/study.py --quick                 # a reduced table in under half an hour
    python tools/study.py --only a oracle         # sections or variants by name
    python tools/study.py --seeds 100 101         # settings are chosen on seeds from 100 on, and reported on 0 to 4
    python tools/study.py --report                # tables and figures again, from the CSV alone

A job is one variant with one seed: it is trained, then tested on held-out prompts, on one core. Every variant makes the
same number of iterations with the same number of samples. The variants are data in tools/studies/variants.py. Into
--out go results.csv, redness.csv, README.md with the tables, and the figures; the runs stay in --runs. A job that
results.csv holds is done, wherever it ran.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT)]


#: Settings are chosen on others, from 100 on.
REPORTED = (0, 1, 2, 3, 4)


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    from vipo.engine.arguments import positive

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--quick', action='store_true', help='few variants, two seeds, short runs')
    parser.add_argument('--only', nargs='+', metavar='NAME', help='variants or sections')
    parser.add_argument('--seeds', nargs='+', type=int, help='default: 0 1 2 3 4; of --quick 0 1')
    parser.add_argument('--jobs', type=positive, default=2, metavar='N', help='at a time, each on one core')
    parser.add_argument('--runs', type=Path, help='folder of the runs (default: work_dirs/study, or study_quick)')
    parser.add_argument(
        '--out',
        type=Path,
        help='folder of the results (default: docs/study; of other seeds or a quick study, beside its runs)',
    )
    parser.add_argument('--report', action='store_true', help='run nothing: make tables and figures from the CSV')
    parser.add_argument('--list', action='store_true', help='print the variants')
    args = parser.parse_args(argv)
    args.seeds = args.seeds or list(REPORTED[: 2 if args.quick else None])
    args.runs = args.runs or Path('work_dirs') / ('study_quick' if args.quick else 'study')
    reported = not args.quick and set(args.seeds) <= set(REPORTED)
    args.out = args.out or (Path('docs/study') if reported else args.runs / 'report')
    # Results hold what earlier starts have finished, too.
    args.collected = REPORTED if reported else args.seeds
    return args


def main(argv: list[str] | None = None) -> int:
    args = parse_args(argv)
    from tools.studies.variants import find

    try:
        variants = find(args.only, args.quick)
        if args.list:
            for variant in variants:
                print(f'{variant.section}  {variant.name:24s} {variant.why}')
            return 0
        from tools.studies.report import write_report

        front = ROOT / 'README.md' if args.out.resolve() == ROOT / 'docs' / 'study' else None
        if args.report:
            page, figures = write_report(args.out, front)
            print(f'Done: {page} and {", ".join(path.name for path in figures)} beside it')
            return 0
        from tools.studies.collect import recorded, write_gallery, write_results
        from tools.studies.jobs import Pool, plan

        jobs = plan(variants, args.seeds, args.runs.resolve(), args.quick)
        everything = plan(find(None, args.quick), args.collected, args.runs.resolve(), args.quick)
        earlier = recorded(everything, args.out)
    except ValueError as error:  # a ConfigError too
        print(f'error: {error}', file=sys.stderr)
        return 2

    began = time.perf_counter()
    pool = Pool(args.jobs, lambda line: print(f'[{time.perf_counter() - began:6.0f} s] {line}', flush=True))
    stopped: list[int] = []

    def stop(number: int, frame: object) -> None:
        stopped.append(number)
        pool.stop()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    failures = pool(jobs, earlier)
    done = write_results(everything, args.out)
    gallery = write_gallery(everything, args.out) if done else None
    if stopped:
        print('stopped; run the same line again to go on', file=sys.stderr)
        return 128 + stopped[0]
    for failure in failures:
        print(f'error: {failure}', file=sys.stderr)
    if not done:
        return 1
    page, figures = write_report(args.out, front)
    figures += [gallery] if gallery else []
    print(f'Done: {done} finished jobs in {page}, results.csv and {", ".join(p.name for p in figures)} beside it')
    print(f'The runs lie in {os.path.relpath(args.runs)}; compare them with tools/compare.py')
    return 1 if failures else 0


if __name__ == '__main__':
    sys.exit(main())
