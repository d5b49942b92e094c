"""The head that ImageReward and the LAION aesthetic score share: linear layers with nothing between them."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class LinearHead(nn.Module):
    """Five linear layers from ``width`` to one number, under the published names ``layers.{0,2,4,6,7}``.

    The gaps are dropout, which does nothing outside training.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(width, 1024),
            nn.Dropout(0.2),
            nn.Linear(1024, 128),
            nn.Dropout(0.2),
            nn.Linear(128, 64),
            nn.Dropout(0.1),
            nn.Linear(64, 16),
            nn.Linear(16, 1),
        )

    def fold(self) -> tuple[Tensor, Tensor]:
        """The one affine map ``x @ weight + bias`` that the layers amount to, multiplied out in float64.

        Returns:
            Weight ``(width,)`` and bias ``()``, float32.
        """
        weight = torch.eye(self.layers[0].in_features, dtype=torch.float64)
        bias = torch.zeros(self.layers[0].in_features, dtype=torch.float64)
        for layer in self.layers:
            if isinstance(layer, nn.Linear):
                weight = layer.weight.double() @ weight
                bias = layer.weight.double() @ bias + layer.bias.double()
        return weight[0].float(), bias[0].float()
