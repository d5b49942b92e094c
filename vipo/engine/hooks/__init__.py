"""Hooks of a run: the average of the weights, evaluation and what follows its scores, the closing report."""

from vipo.engine.hooks.best_checkpoint import BestCheckpointHook
from vipo.engine.hooks.early_stop import EarlyStopHook
from vipo.engine.hooks.ema import EMAHook
from vipo.engine.hooks.evaluation import EvaluationHook
from vipo.engine.hooks.held_out import HeldOutHook
from vipo.engine.hooks.report import ReportHook

__all__ = ['BestCheckpointHook', 'EMAHook', 'EarlyStopHook', 'EvaluationHook', 'HeldOutHook', 'ReportHook']
