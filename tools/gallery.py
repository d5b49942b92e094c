"""Before and after of a finished run, as few or as many pairs and as large as you like.

    python tools/gallery.py work_dirs/vipo_tiny_sd3 --best 5 --first 5 --side 160

``--best`` shows the pairs whose reward grew most, ``--worst`` those whose reward fell most, ``--first`` the first ones
of the prompt file, which nobody chose.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

ROWS = {
    'best': 'largest gains of reward',
    'worst': 'largest losses of reward',
    'first': 'first in the file, not chosen',
}


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    from vipo.engine.arguments import positive

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('work_dir', type=Path, help='of a finished run')
    for name, text in ROWS.items():
        parser.add_argument(f'--{name}', type=int, default=0, metavar='N', help=text)
    parser.add_argument('--columns', type=positive, default=5)
    parser.add_argument('--side', type=positive, default=160, help='of a picture, in pixels')
    parser.add_argument('--out', type=Path, help='PNG (default: gallery.png in the work dir)')
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    args = parse_args(argv)
    from vipo.registry import ConfigError

    files = sorted((args.work_dir / 'evaluations').glob('iter_*.npz'), key=lambda p: int(p.stem.removeprefix('iter_')))
    if len(files) < 2:
        print(
            f'error: {args.work_dir} holds {len(files)} evaluations; a finished run has one before and one after',
            file=sys.stderr,
        )
        return 2
    if not any(getattr(args, name) > 0 for name in ROWS):
        args.first = 10

    import numpy as np
    from PIL import Image

    from vipo.engine.evaluation import Evaluation
    from vipo.visualization import before_after

    try:
        before, after = Evaluation.load(files[0]), Evaluation.load(files[-1])
    except ConfigError as error:
        print(f'error: {error}', file=sys.stderr)
        return 2
    old, new = before.scores['reward'], after.scores['reward']
    order = {'best': np.argsort(old - new), 'worst': np.argsort(new - old), 'first': np.arange(len(old))}
    sheets = []
    with tempfile.TemporaryDirectory() as folder:
        for name, text in ROWS.items():
            chosen = order[name][: max(0, getattr(args, name))]
            if not len(chosen):
                continue
            path = Path(folder) / f'{name}.png'
            captions = [(f'reward {old[i]:.3f}', f'reward {new[i]:.3f}') for i in chosen]
            title = f'{args.work_dir.name}: {text} (of {len(old)} held-out prompts)'
            prompts = [after.prompts[i] for i in chosen]
            before_after(
                prompts, before.pixels[chosen], after.pixels[chosen], captions, path, title, args.columns, args.side
            )
            with Image.open(path) as image:
                sheets.append(image.convert('RGB'))
    stack = Image.new('RGB', (max(s.width for s in sheets), sum(s.height for s in sheets)), 'white')
    top = 0
    for sheet in sheets:
        stack.paste(sheet, (0, top))
        top += sheet.height
    out = args.out or args.work_dir / 'gallery.png'
    stack.save(out)
    print(f'Done: {out}')
    return 0


if __name__ == '__main__':
    sys.exit(main())
