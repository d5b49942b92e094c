"""From finished jobs to the CSV files that every table and figure is made from."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tools.studies.jobs import Job
from vipo.comparison.runs import read_run
from vipo.engine.results import HeldOutResults, write_csv
from vipo.registry import ConfigError
from vipo.statistics import Interval, mean_interval
from vipo.visualization.gallery import policies

RESULTS = ('section', 'variant', 'seed', 'measure', 'before', 'after', 'difference', 'low', 'high', 'settings')
CURVE = ('variant', 'seed', 'iteration', 'measure', 'value')
#: Variants of the gallery, and how many prompts it shows.
SHOWN = ('grpo', 'vipo', 'oracle', 'oracle_background', 'red_grpo', 'red_vipo', 'red_background')
_COLUMNS = 8
#: Logged by iteration; their mean over the run is a measure of its own.
LOGGED = ('clipped_fraction', 'clipped_inside', 'clipped_outside', 'ratio_deviation', 'seconds/total')


def recorded(jobs: Sequence[Job], folder: Path) -> set[tuple[str, int]]:
    """Variant and seed of the jobs that ``results.csv`` already holds, whose runs may lie on another machine.

    Raises:
        ConfigError: it holds one of them with other settings, or with other embedded models; or the run of a finished
            job was made with another config.
    """
    for job in jobs:
        if job.done:
            job.check()
    found = {_key(row): row.get('settings') for row in _read(folder / 'results.csv')}
    here = {job.key: job for job in jobs if job.key in found}
    changed = [job.label for key, job in here.items() if job.settings != found[key]]
    if changed:
        raise ConfigError(
            f'{folder / "results.csv"} was made with other settings ({changed[0]}, {len(changed)} in all); name '
            'another folder with --out, or remove the file to begin anew'
        )
    return set(here)


def write_results(jobs: Sequence[Job], folder: Path) -> int:
    """Write ``results.csv`` and ``redness.csv``: of the jobs whose runs are here and done, and what the files already
    hold of others.

    Returns:
        How many jobs they are.
    """
    recorded(jobs, folder)
    finished = [job for job in jobs if job.done]
    rows = [row for job in finished for row in result_rows(job)]
    curve = [row for job in finished if job.variant.section == 'd' for row in curve_rows(job)]
    order = {job.key: number for number, job in enumerate(jobs)}
    here = {job.key for job in finished}
    keys = set(here)
    for name, columns, table in (('results.csv', RESULTS, rows), ('redness.csv', CURVE, curve)):
        table += [row for row in _read(folder / name) if _key(row) not in here]
        keys |= {_key(row) for row in table}
        if table:
            folder.mkdir(parents=True, exist_ok=True)
            table.sort(key=lambda row: order.get(_key(row), len(order)))
            write_csv(folder / name, columns, [[row[column] for column in columns] for row in table])
    return len(keys)


def write_gallery(jobs: Sequence[Job], folder: Path) -> Path | None:
    """Write ``gallery.png``: the same prompts and seeds before training and after what is planned of :data:`SHOWN`.

    They are of the first seed whose runs are all here; without one nothing is written, and None returned.
    """
    done = {job.key: job for job in jobs if job.done}
    shown = [name for name in SHOWN if any(job.variant.name == name for job in jobs)]
    seeds = [seed for seed in sorted({job.seed for job in jobs}) if all((name, seed) in done for name in shown)]
    if not seeds:
        return None
    rows: dict[str, np.ndarray] = {}
    for name in shown:
        with np.load(done[name, seeds[0]].tested / 'pictures.npz') as pictures:
            prompts = pictures['prompts'][:_COLUMNS].tolist()
            rows.setdefault('before training', pictures['before'][:_COLUMNS, :, 0])
            rows[name] = pictures['after'][:_COLUMNS, :, 0]
    path = folder / 'gallery.png'
    policies(prompts, rows, path, f'The first held-out prompts, one seed of each, training seed {seeds[0]}')
    return path


def result_rows(job: Job) -> list[dict[str, Any]]:
    """A row for each measure; one without a before has its value as the difference from nothing."""
    rows = []
    for name, of in HeldOutResults.load_measures(job.tested).items():
        before, after = (of[when].value if when in of else None for when in ('before', 'after'))
        rows.append(_row(job, name, of.get('difference') or of['value'], before, after))
    history = read_run(job.run).history
    for key in LOGGED:
        values = np.array([record[key] for record in history if key in record])
        if len(values):
            rows.append(_row(job, f'log/{key}', mean_interval(values)))
    return rows


def curve_rows(job: Job) -> list[dict[str, Any]]:
    """Every score of every evaluation in the course of the run."""
    return [
        dict(zip(CURVE, (*job.key, iteration, measure, _cell(value)), strict=True))
        for iteration, evaluation in read_run(job.run).evaluations.items()
        for measure, value in evaluation.means().items()
    ]


def _row(job: Job, measure: str, change: Interval, *means: float | None) -> dict[str, Any]:
    numbers = (*(means or (None, None)), change.value, change.low, change.high)
    cells = (job.variant.section, *job.key, measure, *map(_cell, numbers), job.settings)
    return dict(zip(RESULTS, cells, strict=True))


def _read(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    with open(path, newline='', encoding='utf-8') as file:
        return list(csv.DictReader(file))


def _key(row: Mapping[str, Any]) -> tuple[str, int]:
    return row['variant'], int(row['seed'])


def _cell(value: float | None) -> str:
    return '' if value is None else f'{value:.6g}'
