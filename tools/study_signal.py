"""Which map points the policy gradient where a reward rises, and which where other judges rise? Before any training.

    python tools/study_signal.py                 # 24 rollouts, into docs/study
    python tools/study_signal.py --report        # page and figure again, from signal.csv alone

Every rollout of the untrained policy gives a gradient for each map: that of the run's own loss of the trained reward,
which is a preference model, or one that sees the objects alone.
The gradient without a map is the policy gradient itself, so its mean over rollouts points to where the reward rises;
and with the advantages of another score, to where that one rises. What is listed is the cosine between the gradient of
one rollout with a map and these directions: the share of a step that goes uphill, and in brackets its difference from
that of no map. Products are of different rollouts.
Written are signal.csv, signal.png and signal.md.
"""

from __future__ import annotations

import argparse
import csv
import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT)]

if TYPE_CHECKING:
    from tools.studies.report import Results

CONFIG = ROOT / 'configs' / 'vipo_tiny_sd3.py'
COLUMNS = ('trained', 'map', 'score', 'cosine', 'error', 'difference', 'difference_error', 'rollouts')
#: Each is trained on and, with the others, a score whose direction is asked for.
SCORES: dict[str, dict[str, Any]] = {
    'preference': {'type': 'HPSReward', 'checkpoint': 'vipo://tiny-hps'},
    'second model': {'type': 'PickScoreReward', 'pretrained': 'vipo://tiny-pick'},
    'objects alone': {'type': 'SceneFitReward'},
}
TRAINED = ('preference', 'objects alone')
#: The study's variant that trains with a map: of the first reward, and of the second one.
STUDIED = {
    'none (GRPO)': ('grpo', 'fit_grpo'),
    'PCA, center (the default)': ('vipo', 'fit_vipo'),
    'PCA, reversed': ('vipo_reversed', None),
    'reward, gradient x input': ('vipo_attribution', 'fit_attribution'),
    'oracle, objects': ('oracle', 'fit_oracle'),
    'oracle, background': ('oracle_background', 'fit_background'),
    'oracle, random': ('oracle_random', None),
}
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


def measure(trained: str, rollouts: int, seed: int, prompts: int) -> list[list[Any]]:
    """Rows of ``signal.csv`` of one trained reward."""
    from tools.studies.signal import collect, products, uphill
    from vipo.engine.config import override, read_config

    cfg = read_config(CONFIG)
    others = {name: config for name, config in SCORES.items() if name != trained}
    override(
        cfg,
        {
            'batch.prompts_per_iteration': prompts,
            'randomness.seed': seed,
            'reward': {'_delete_': True, **SCORES[trained]},
            'eval_rewards': {'_delete_': True, **others},
        },
    )

    def say(number: int) -> None:
        print(f'{trained}: {number} of {rollouts} rollouts', flush=True)

    by_map, by_score = collect(cfg, maps(), rollouts, say)
    by_score = {trained: by_score.pop('reward'), **by_score}
    rows = []
    for score in SCORES:
        directions = by_score[score][None]
        target = products(directions, directions)[0, :, 0]
        found = {
            name: uphill(of.double().square().sum(1), products(of[None], directions)[0, :, 0], target)
            for name, of in by_map.items()
        }
        for name, cosine in found.items():
            less = cosine.less(next(iter(found.values())))
            numbers = cosine.value, cosine.error, less.value, less.error
            rows.append([trained, name, score, *(f'{x:.5f}' for x in numbers), rollouts])
    return rows


#: Score -> map -> cosine and standard error; the same of the difference from the first map.
Table = dict[str, dict[str, tuple[float, float, float, float]]]


def read(path: Path) -> dict[str, Table]:
    """Of each trained reward.

    Raises:
        ValueError: there is no such table.
    """
    found: dict[str, Table] = {}
    try:
        with open(path, newline='', encoding='utf-8') as file:
            for row in csv.DictReader(file):
                table = found.setdefault(row['trained'], {}).setdefault(row['score'], {})
                table[row['map']] = tuple(float(row[key]) for key in COLUMNS[3:7])
    except (OSError, KeyError, ValueError) as error:
        raise ValueError(f'{path} is no table of cosines ({error}); tools/study_signal.py writes one') from error
    return found


def report(folder: Path) -> Path:
    """Write ``signal.png``, and the table into ``signal.md``; what stands outside of its two marks is kept.

    Where the study's ``results.csv`` lies beside, a column has what training with the map gained.
    """
    from tools.studies.report import Results, replace_between

    lines, tables = [], read(folder / 'signal.csv')
    results = Results(folder / 'results.csv') if (folder / 'results.csv').exists() else None
    for trained, table in tables.items():
        columns = [*table, *(['gained by training'] if results else [])]
        lines += [
            '',
            f'Trained: {trained}.',
            '',
            f'| map | {" | ".join(columns)} |',
            f'| --- |{" --- |" * len(columns)}',
        ]
        for name in next(iter(table.values())):
            cells = [_cell(*of[name]) for of in table.values()]
            if results:
                variant = STUDIED.get(name, (None, None))[TRAINED.index(trained)]
                cells.append(_gained(results, variant))
            lines.append(f'| {name} | {" | ".join(cells)} |')
    _figure(tables, folder / 'signal.png')
    page = folder / 'signal.md'
    replace_between(page, [*lines, '', '![Cosines by map and score](signal.png)', ''], '# How far uphill?')
    return page


def _cell(value: float, error: float, less: float, less_error: float) -> str:
    """In percent; a score shows no direction where its gradients, or all but one of them, have nothing in common."""
    if not math.isfinite(value + error):
        return 'no direction'
    difference = f' ({100 * less:+.1f} ± {100 * less_error:.1f})' if less_error else ''
    return f'{100 * value:+.1f} ± {100 * error:.1f}{difference}'


def _gained(results: Results, variant: str | None) -> str:
    seeds = results.seeds(variant) if variant else []
    return f'{results.change(variant, "reward").value:+.4f} (`{variant}`, {len(seeds)} seeds)' if seeds else ''


def _figure(tables: dict[str, Table], path: Path) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    from vipo.comparison.charts import COLORS

    names = list(next(iter(next(iter(tables.values())).values())))
    figure = Figure(figsize=(2.9 * len(SCORES) + 2.2, (0.9 + 0.28 * len(names)) * len(tables)), layout='constrained')
    FigureCanvasAgg(figure)
    rows = figure.subplots(len(tables), len(SCORES), squeeze=False, sharex=True)
    for panels, (trained, table) in zip(rows, tables.items(), strict=True):
        for axes, (score, of) in zip(panels, table.items(), strict=True):
            for place, name in enumerate(names):
                value, error, *_ = of[name]
                if math.isfinite(value + error):
                    color = COLORS[1 if score == trained else 0]
                    axes.barh(place, 100 * value, xerr=100 * error, color=color, ecolor='#5b5b61', height=0.65)
            axes.set_yticks(range(len(names)), names if axes is panels[0] else [''] * len(names))
            axes.invert_yaxis()
            axes.axvline(0, color='#999999', lw=0.8)
            axes.set_title(f'{score}, trained' if score == trained else score, fontsize=10)
            axes.tick_params(labelsize=8)
            axes.grid(axis='x', alpha=0.3)
    for axes in rows[-1]:
        axes.set_xlabel('cosine, %', fontsize=9)
    figure.savefig(path, dpi=110, metadata={'Software': None})


def main(argv: list[str] | None = None) -> int:
    from vipo.engine.arguments import positive
    from vipo.engine.results import write_csv

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--rollouts', type=positive, default=24, help='at least 3')
    parser.add_argument('--prompts', type=positive, default=6, help='of a rollout, 12 samples each')
    parser.add_argument('--seed', type=int, default=100, help='the study reports training on 0 to 4')
    parser.add_argument('--trained', nargs='+', choices=TRAINED, default=list(TRAINED), help='rewards')
    parser.add_argument('--out', type=Path, default=Path('docs/study'), help='folder')
    parser.add_argument('--report', action='store_true', help='run nothing: page and figure from signal.csv')
    args = parser.parse_args(argv)
    if args.rollouts < 3:
        parser.error(f'--rollouts {args.rollouts}: gradients of at least 3 rollouts are needed to compare them')
    if not args.report:
        rows = [row for name in args.trained for row in measure(name, args.rollouts, args.seed, args.prompts)]
        args.out.mkdir(parents=True, exist_ok=True)
        write_csv(args.out / 'signal.csv', COLUMNS, rows)
    try:
        page = report(args.out)
    except ValueError as error:
        print(f'error: {error}', file=sys.stderr)
        return 2
    print(f'Done: {page}, signal.csv and signal.png beside it')
    return 0


if __name__ == '__main__':
    sys.exit(main())
