"""Train the embedded models from nothing but drawn scenes.

    python tools/make_tiny.py vae generator refine polish reward taste pick backbone prompts --out vipo/assets

Each stage is seeded and writes the layout of its full-size sibling; pictures of the progress go to ``--report``.
The stage ``generator`` needs the result of ``vae`` in ``--out``, ``refine`` that of ``generator``,
``polish`` that of ``refine``; ``taste`` needs those of ``polish`` and ``reward``, ``pick`` that of ``polish``.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch

from tools.tiny import backbone, generator, pick, prompts, reward, taste, vae

#: stage -> (function, optimiser steps, batch size)
STAGES = {
    'vae': (vae.train, 4500, 8),
    'generator': (generator.train, 2400, 48),
    'refine': (generator.refine, 3000, 48),
    'polish': (generator.polish, 5000, 48),
    'reward': (reward.train, 3000, 96),
    'taste': (taste.train, 1200, 96),
    'pick': (pick.train, 4000, 64),
    'backbone': (backbone.train, 800, 24),
    'prompts': (prompts.write, 0, 0),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('stages', nargs='+', choices=STAGES)
    parser.add_argument('--out', type=Path, default=Path('vipo/assets'))
    parser.add_argument('--report', type=Path, default=Path('work_dirs/make_tiny'))
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--threads', type=int, default=0, help='CPU threads; 0 leaves the choice to torch')
    parser.add_argument('--steps', type=int, help='instead of the stage default')
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    args.report.mkdir(parents=True, exist_ok=True)
    for name in args.stages:
        function, steps, batch = STAGES[name]
        function(args.out, args.report, args.steps or steps, batch, args.seed)
    print(f'Done: the models lie in {args.out}, the pictures in {args.report}.')


if __name__ == '__main__':
    main()
