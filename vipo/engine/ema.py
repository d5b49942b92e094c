"""An exponential moving average of the trained weights alone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from vipo.engine.sharding import local, spread_like
from vipo.registry import ConfigError

#: The way out where a checkpoint does not fit.
OTHER_CONFIG = (
    'LoRA rank, targets, full or LoRA training and the model must be those that the checkpoint was saved with.'
)


class TrainableEMA:
    """Averages the parameters with ``requires_grad``; evaluation and export use the average.

    Args:
        module: whose parameters.
        decay: weight of the old average at each update.

    Raises:
        ConfigError: the decay is not in [0, 1).
    """

    def __init__(self, module: nn.Module, decay: float = 0.9) -> None:
        if not 0 <= decay < 1:
            raise ConfigError(f'ema.decay must be in [0, 1), got {decay}')
        self.decay = decay
        self._parameters = {n: p for n, p in module.named_parameters() if p.requires_grad}
        #: Divided among the ranks as the parameters are.
        self.average: dict[str, Tensor] = {n: p.detach().clone() for n, p in self._parameters.items()}

    @torch.no_grad()
    def update(self) -> None:
        """One step of the average, after an optimiser step."""
        for name, parameter in self._parameters.items():
            average = self.average[name] = self.average[name].to(parameter.device)
            local(average).lerp_(local(parameter), 1 - self.decay)

    @contextmanager
    @torch.no_grad()
    def applied(self) -> Iterator[None]:
        """Within this context the module has the averaged weights."""
        kept = {n: p.detach().clone() for n, p in self._parameters.items()}
        for name, parameter in self._parameters.items():
            parameter.copy_(self.average[name])
        try:
            yield
        finally:
            for name, parameter in self._parameters.items():
                parameter.copy_(kept[name])

    def load(self, average: dict[str, Tensor]) -> None:
        """Take over a saved average, whole on every rank.

        Raises:
            ConfigError: its names or shapes are not the module's.
        """
        shapes = {n: v.shape for n, v in average.items()}
        if shapes != {n: v.shape for n, v in self.average.items()}:
            raise ConfigError(
                'the checkpoint does not belong to this config: its averaged weights are of other parameters. '
                + OTHER_CONFIG
            )
        self.average = {n: spread_like(v, self._parameters[n]).clone() for n, v in average.items()}
