"""The verb: the training loop, its hooks, and everything that touches MMEngine. Start reading at ``loop.py``."""

from vipo.engine.checkpoint import PolicyCheckpointHook
from vipo.engine.hooks import BestCheckpointHook, EarlyStopHook, EMAHook, EvaluationHook, ReportHook
from vipo.engine.log_processor import PolicyLogProcessor
from vipo.engine.loop import PolicyLoop
from vipo.engine.runner import PolicyRunner, build_runner

__all__ = [
    'BestCheckpointHook',
    'EMAHook',
    'EarlyStopHook',
    'EvaluationHook',
    'PolicyCheckpointHook',
    'PolicyLogProcessor',
    'PolicyLoop',
    'PolicyRunner',
    'ReportHook',
    'build_runner',
]
