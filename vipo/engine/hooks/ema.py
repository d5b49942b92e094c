"""Keeps the average of the trained weights up to date."""

from __future__ import annotations

from typing import Any

from mmengine.hooks import Hook
from mmengine.runner import Runner

from vipo.registry import HOOKS


@HOOKS.register_module()
class EMAHook(Hook):
    """Updates the run's EMA once per policy iteration; see the config section ``ema``."""

    priority = 'NORMAL'

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: dict | None = None
    ) -> None:
        if runner.components.ema is not None:
            runner.components.ema.update()
