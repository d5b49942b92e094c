"""Runs beside each other: read their work dirs, compare what they scored, and write one report."""

from vipo.comparison.groups import Group, group_runs
from vipo.comparison.report import write_report
from vipo.comparison.runs import Run, read_run

__all__ = ['Group', 'Run', 'group_runs', 'read_run', 'write_report']
