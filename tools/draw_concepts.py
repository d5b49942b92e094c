"""Draw docs/images/data_way.svg, the way of the data through one iteration.

python tools/draw_concepts.py
"""

from __future__ import annotations

import argparse
import sys
from html import escape
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
WIDTH, HEIGHT = 1000, 430
BLUE, GREEN, ORANGE, GREY = '#dbe8f7', '#dcefdc', '#fbe5cf', '#eeeeee'

#: Name -> left, top, width, colour, title, what it holds, section of the config.
BOXES = {
    'prompts': (20, 40, 150, GREY, 'prompts', 'group_size of each', 'train_dataloader'),
    'rollout': (215, 40, 175, BLUE, 'rollout', 'latents (B, C, T, H, W)', 'generator, rollout'),
    'pixels': (435, 40, 175, BLUE, 'pixels', '(B, 3, F, Y, X) in [0, 1]', 'generator'),
    'reward': (655, 40, 150, GREEN, 'reward', '(B,)', 'reward'),
    'advantage': (655, 180, 150, GREEN, 'advantage', '(B,), in its group', 'advantage'),
    'map': (435, 180, 175, ORANGE, 'allocation map', '(B, 1, T, H, W), mean 1', 'structurer'),
    'kept': (215, 180, 175, BLUE, 'kept transitions', 'old log-prob (B, T, H, W)', 'rollout.selector'),
    'loss': (435, 320, 370, ORANGE, 'loss', 'mean over p of min(rho M A, clip(rho) M A)', 'loss'),
    'update': (
        20,
        320,
        370,
        BLUE,
        'replay and update',
        'new log-prob with gradients, optimiser step',
        'optim_wrapper, ema',
    ),
}
#: Straight arrows through these points.
ARROWS = [
    [(170, 80), (213, 80)],
    [(390, 80), (433, 80)],
    [(610, 80), (653, 80)],
    [(730, 120), (730, 178)],
    [(522, 120), (522, 178)],
    [(302, 120), (302, 178)],
    [(522, 260), (522, 318)],
    [(730, 260), (730, 318)],
    [(302, 260), (302, 318)],
    [(433, 350), (392, 350)],
    [(390, 375), (433, 375)],
    [(95, 318), (95, 150), (240, 150), (240, 122)],
]
NOTES = [
    (820, 72, 'one score for', 'the whole sample'),
    (820, 212, 'better or worse than', 'the others of the prompt'),
    (820, 352, 'rho = new / old', 'probability, per position'),
    (105, 215, 'the policy of', 'the next rollout'),
]


def picture() -> str:
    """The SVG."""
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}"'
        ' font-family="Helvetica, Arial, sans-serif" role="img">',
        '<title>The way of the data through one iteration</title>',
        '<defs><marker id="tip" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="7" markerHeight="7"'
        ' orient="auto"><path d="M0 0 10 5 0 10z" fill="#444"/></marker></defs>',
        f'<rect width="{WIDTH}" height="{HEIGHT}" rx="8" fill="#ffffff"/>',
    ]
    for left, top, width, colour, title, holds, section in BOXES.values():
        middle = left + width / 2
        out += [
            f'<rect x="{left}" y="{top}" width="{width}" height="80" rx="6" fill="{colour}" stroke="#888"/>',
            f'<text x="{middle}" y="{top + 25}" font-size="16" font-weight="bold" text-anchor="middle">{title}</text>',
            f'<text x="{middle}" y="{top + 46}" font-size="12" text-anchor="middle">{escape(holds)}</text>',
            f'<text x="{middle}" y="{top + 67}" font-size="12" font-family="monospace" fill="#555"'
            f' text-anchor="middle">{section}</text>',
        ]
    for points in ARROWS:
        path = ' '.join(f'{x} {y}' for x, y in points)
        out.append(f'<path d="M{path}" fill="none" stroke="#444" stroke-width="1.5" marker-end="url(#tip)"/>')
    for x, y, *lines in NOTES:
        for number, line in enumerate(lines):
            out.append(f'<text x="{x}" y="{y + 17 * number}" font-size="12" fill="#444">{line}</text>')
    return '\n'.join([*out, '</svg>', ''])


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--out', type=Path, default=ROOT / 'docs' / 'images' / 'data_way.svg')
    args = parser.parse_args(argv)
    args.out.write_text(picture())
    print(f'Done: look at {args.out}')
    return 0


if __name__ == '__main__':
    sys.exit(main())
