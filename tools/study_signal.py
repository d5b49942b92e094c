"""Which map points the policy gradient where a reward rises, and which where other judges rise? Before any training.

    python tools/study_signal.py                 # 24 rollouts, into docs/study
    python tools/study_signal.py --report        # page and figure again, from signal.csv alone

Every rollout of the untrained policy gives a gradient for each map: that of the run's own loss of the trained reward.
The gradient without a map is the policy gradient itself, so its mean over rollouts points to where the reward rises;
and with the advantages of another score, to where that one rises. What is listed is the cosine between the gradient of
one rollout with a map and these directions: the share of a step that goes uphill. Products are of different rollouts.
Written are signal.csv, signal.png and signal.md.
"""

from __future__ import annotations

import argparse
import csv
import math
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT)]

CONFIG = ROOT / 'configs' / 'vipo_tiny_sd3.py'
COLUMNS = ('map', 'score', 'cosine', 'error', 'rollouts')
#: Score -> its heading.
SCORES = {'reward': 'trained reward', 'judge': "the judge's checks of the objects", 'pick': 'second model'}
_ATTRIBUTION = {'type': 'RewardAttributionStructurer'}


def maps() -> dict[str, dict[str, Any]]:
    """Name -> config of a structurer."""
    from vipo.engine.config import read_config

    pca = read_config(CONFIG).structurer.to_dict()

    def turned(orientation: str) -> dict[str, Any]:
        return {**pca, 'allocator': {**pca['allocator'], 'orientation': orientation}}

    return {
        'none (GRPO)': {'type': 'PriorStructurer'},
        'PCA, center (the default)': pca,
        'PCA, reversed': turned('reversed'),
        'PCA, half and half with ones': {
            'type': 'CombinedStructurer',
            'parts': {'pca': pca, 'ones': {'type': 'PriorStructurer'}},
        },
        'reward, gradient x input': _ATTRIBUTION,
        'reward, gradient': {**_ATTRIBUTION, 'method': 'gradient'},
        'reward, gradient, squared': {
            'type': 'CombinedStructurer',
            'parts': {'reward': {**_ATTRIBUTION, 'method': 'gradient'}},
            'combine': 'product',
            'weights': {'reward': 2.0},
        },
        'PCA and reward, product': {
            'type': 'CombinedStructurer',
            'parts': {'pca': pca, 'reward': _ATTRIBUTION},
            'combine': 'product',
        },
        'oracle, objects': {'type': 'SceneOracleStructurer'},
        'oracle, background': {'type': 'SceneOracleStructurer', 'where': 'background'},
        'oracle, random': {'type': 'SceneOracleStructurer', 'where': 'random'},
    }


def measure(rollouts: int, seed: int, prompts: int, out: Path) -> None:
    """Write ``signal.csv``."""
    from tools.studies.signal import collect, products, uphill
    from vipo.engine.config import override, read_config

    cfg = read_config(CONFIG)
    override(
        cfg,
        {
            'batch.prompts_per_iteration': prompts,
            'randomness.seed': seed,
            'eval_rewards.judge': {'type': 'SceneJudge'},
            'eval_rewards.pick': {'type': 'PickScoreReward', 'pretrained': 'vipo://tiny-pick'},
        },
    )
    by_map, by_score = collect(cfg, maps(), rollouts, lambda n: print(f'{n} of {rollouts} rollouts', flush=True))
    rows = []
    for score, directions in by_score.items():
        target = products(directions[None], directions[None])[0, :, 0]
        for name, gradients in by_map.items():
            across = products(gradients[None], directions[None])[0, :, 0]
            own = gradients.double().square().sum(1)
            rows.append([name, score, *(f'{x:.5f}' for x in uphill(own, across, target)), rollouts])
    out.mkdir(parents=True, exist_ok=True)
    with open(out / 'signal.csv', 'w', newline='', encoding='utf-8') as file:
        csv.writer(file).writerows([COLUMNS, *rows])


def read(path: Path) -> dict[str, dict[str, tuple[float, float]]]:
    """Score -> map -> cosine and standard error.

    Raises:
        ValueError: there is no such table.
    """
    found: dict[str, dict[str, tuple[float, float]]] = {}
    try:
        with open(path, newline='', encoding='utf-8') as file:
            for row in csv.DictReader(file):
                found.setdefault(row['score'], {})[row['map']] = float(row['cosine']), float(row['error'])
    except (OSError, KeyError, ValueError) as error:
        raise ValueError(f'{path} is no table of cosines ({error}); tools/study_signal.py writes one') from error
    return found


def report(folder: Path) -> Path:
    """Write ``signal.png``, and the table into ``signal.md``; what stands outside of its two marks is kept."""
    from tools.studies.report import replace_between

    table = read(folder / 'signal.csv')
    names = list(next(iter(table.values())))
    lines = [f'| map | {" | ".join(SCORES[score] for score in table)} |', f'| --- |{" --- |" * len(table)}']
    for name in names:
        cells = [_cell(*of[name]) for of in table.values()]
        lines.append(f'| {name} | {" | ".join(cells)} |')
    _figure(table, names, folder / 'signal.png')
    page = folder / 'signal.md'
    replace_between(page, ['', *lines, '', '![Cosines by map and score](signal.png)', ''], '# How far uphill?')
    return page


def _cell(value: float, error: float) -> str:
    """In percent; a score whose gradients have nothing in common shows no direction."""
    return f'{100 * value:+.1f} ± {100 * error:.1f}' if math.isfinite(value) else 'no direction'


def _figure(table: dict[str, dict[str, tuple[float, float]]], names: list[str], path: Path) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    from vipo.comparison.charts import COLORS

    figure = Figure(figsize=(3.1 * len(table) + 2, 1 + 0.3 * len(names)), layout='constrained')
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, len(table), squeeze=False)[0]
    for axes, (score, of) in zip(panels, table.items(), strict=True):
        for place, name in enumerate(names):
            value, error = of[name]
            if math.isfinite(value):
                axes.barh(place, 100 * value, xerr=100 * error, color=COLORS[0], ecolor='#5b5b61', height=0.65)
        axes.set_yticks(range(len(names)), names if axes is panels[0] else [''] * len(names))
        axes.invert_yaxis()
        axes.axvline(0, color='#999999', lw=0.8)
        axes.set_title(SCORES[score], fontsize=10)
        axes.set_xlabel('cosine, %', fontsize=9)
        axes.tick_params(labelsize=8)
        axes.grid(axis='x', alpha=0.3)
    figure.savefig(path, dpi=110, metadata={'Software': None})


def main(argv: list[str] | None = None) -> int:
    from vipo.engine.arguments import positive

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--rollouts', type=positive, default=24, help='at least 3')
    parser.add_argument('--prompts', type=positive, default=6, help='of a rollout, 12 samples each')
    parser.add_argument('--seed', type=int, default=100, help='the study reports training on 0 to 4')
    parser.add_argument('--out', type=Path, default=Path('docs/study'), help='folder')
    parser.add_argument('--report', action='store_true', help='run nothing: page and figure from signal.csv')
    args = parser.parse_args(argv)
    if args.rollouts < 3:
        parser.error(f'--rollouts {args.rollouts}: gradients of at least 3 rollouts are needed to compare them')
    if not args.report:
        measure(args.rollouts, args.seed, args.prompts, args.out)
    try:
        page = report(args.out)
    except ValueError as error:
        print(f'error: {error}', file=sys.stderr)
        return 2
    print(f'Done: {page}, signal.csv and signal.png beside it')
    return 0


if __name__ == '__main__':
    sys.exit(main())
