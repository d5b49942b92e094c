"""Gives broken inputs to the tools and lists what they did not refuse well."""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections import Counter
from pathlib import Path

from tests.engine.fuzz.case import World, judge
from tests.engine.fuzz.generate import KINDS, generate


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog='python -m tests.engine.fuzz', description=__doc__)
    parser.add_argument('--count', type=int, default=2000)
    parser.add_argument('--seed', type=int, default=1)
    parser.add_argument('--kinds', nargs='+', choices=[k.__name__ for k in KINDS], help='default: all of them')
    args = parser.parse_args(argv)
    counts: Counter[str] = Counter()
    seconds: Counter[str] = Counter()
    found = 0
    with tempfile.TemporaryDirectory() as folder:
        world = World(Path(folder))
        for case in generate(world, args.seed, args.count, args.kinds):
            complaints, took = judge(case, world)
            counts[case.kind] += 1
            seconds[case.kind] += took
            if complaints:
                found += 1
                print(f'\n{case}\n    ' + '\n    '.join(complaints), flush=True)
    for kind, count in counts.items():
        print(f'{kind:20s} {count:6d} cases {seconds[kind] / count:7.2f} s each')
    print(f'{args.count} cases, {found} not refused as they should be')
    return min(found, 1)


if __name__ == '__main__':
    sys.exit(main())
