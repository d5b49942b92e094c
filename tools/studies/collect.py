"""From finished jobs to the CSV files that every table and figure is made from."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from tools.studies.jobs import Job
from vipo.comparison.runs import read_run
from vipo.engine.results import HeldOutResults, write_csv
from vipo.statistics import mean_interval

RESULTS = ('section', 'variant', 'seed', 'measure', 'before', 'after', 'difference', 'low', 'high')
CURVE = ('variant', 'seed', 'iteration', 'measure', 'value')
#: Logged by iteration; their mean over the run is a measure of its own.
LOGGED = ('clipped_fraction', 'clipped_inside', 'clipped_outside', 'ratio_deviation', 'seconds/total')


def write_results(jobs: Sequence[Job], folder: Path) -> int:
    """Write ``results.csv`` and ``redness.csv`` of the jobs that are done.

    Returns:
        How many they are.
    """
    finished = [job for job in jobs if job.done]
    rows = [row for job in finished for row in result_rows(job)]
    folder.mkdir(parents=True, exist_ok=True)
    write_csv(folder / 'results.csv', RESULTS, rows)
    curve = [row for job in finished if job.variant.section == 'd' for row in curve_rows(job)]
    if curve:
        write_csv(folder / 'redness.csv', CURVE, curve)
    return len(finished)


def result_rows(job: Job) -> list[list[object]]:
    """A row for each measure; one without a before has its value as the difference from nothing."""
    head = [job.variant.section, job.variant.name, job.seed]
    rows: list[list[object]] = []
    for name, of in HeldOutResults.load(job.tested).measures().items():
        change = of.get('difference') or of['value']
        means = [_cell(of[when].value) if when in of else '' for when in ('before', 'after')]
        rows.append([*head, name, *means, *(_cell(x) for x in (change.value, change.low, change.high))])
    history = read_run(job.run).history
    for key in LOGGED:
        values = np.array([record[key] for record in history if key in record])
        if len(values):
            interval = mean_interval(values)
            numbers = (interval.value, interval.low, interval.high)
            rows.append([*head, f'log/{key}', '', '', *(_cell(x) for x in numbers)])
    return rows


def curve_rows(job: Job) -> list[list[object]]:
    """Every score of every evaluation in the course of the run."""
    run = read_run(job.run)
    return [
        [job.variant.name, job.seed, iteration, measure, _cell(value)]
        for iteration, evaluation in run.evaluations.items()
        for measure, value in evaluation.means().items()
    ]


def _cell(value: float) -> str:
    return f'{value:.6g}'
