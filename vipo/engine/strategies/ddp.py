"""Every rank has the whole model."""

from __future__ import annotations

from typing import Any

from vipo.engine.strategies.base import Strategy
from vipo.registry import STRATEGIES


@STRATEGIES.register_module()
class DDP(Strategy):
    """Whole copies of the model; gradients are averaged on the last backward pass of an optimiser step.

    Args:
        find_unused_parameters: for networks of which a step leaves a part out; None decides by the generator.
        bucket_cap_mb: size of the pieces in which gradients travel, in MiB.
        gradient_as_bucket_view: gradients live in those pieces, which saves the memory of one copy of them.
    """

    def __init__(
        self,
        find_unused_parameters: bool | None = None,
        bucket_cap_mb: int = 25,
        gradient_as_bucket_view: bool = False,
    ) -> None:
        if bucket_cap_mb < 1:
            raise ValueError(f'strategy.bucket_cap_mb must be at least 1, got {bucket_cap_mb}')
        self.options: dict[str, Any] = {
            'bucket_cap_mb': bucket_cap_mb,
            'gradient_as_bucket_view': gradient_as_bucket_view,
        }
        if find_unused_parameters is not None:
            self.options['find_unused_parameters'] = find_unused_parameters

    def wrapper(self) -> dict[str, Any]:
        return dict(self.options)
