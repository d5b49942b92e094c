"""Hooks of a run: the average of the weights, evaluation, the log line, the closing report."""

from vipo.engine.hooks.ema import EMAHook
from vipo.engine.hooks.evaluation import EvaluationHook
from vipo.engine.hooks.report import ReportHook

__all__ = ['EMAHook', 'EvaluationHook', 'ReportHook']
