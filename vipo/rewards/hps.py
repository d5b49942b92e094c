"""Human Preference Score v2 and v2.1, and the embedded ``vipo://tiny-hps``."""

from __future__ import annotations

from collections.abc import Sequence
from inspect import signature
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vipo.registry import REWARDS
from vipo.registry.build import torch_dtype
from vipo.rewards.base import check_batch_size
from vipo.rewards.checkpoints import locate_file, published_bytes
from vipo.rewards.clip_towers import ClipTowers
from vipo.rewards.picture import PictureReward

_HUB = 'xswu/HPSv2'
#: Of CLIP ViT-H/14.
_PARAMETERS = 986_000_000
_FILES = {'v2.0': 'HPS_v2_compressed.pt', 'v2.1': 'HPS_v2.1_compressed.pt'}


@REWARDS.register_module()
class HPSReward(PictureReward):
    """Cosine similarity of picture and prompt under a CLIP that was tuned on human preferences.

    The score is ``cos(image, text)`` without a logit scale, as published (Wu et al. 2023, arXiv 2306.09341); about 0.2
    to 0.35 for the public checkpoints.

    Args:
        version: ``'v2.0'`` or ``'v2.1'``: which file of the hub repository to take.
        checkpoint: instead of the hub, a file or a folder in open_clip's layout, or a ``vipo://`` asset.
        antialias: of the bicubic resize. Published numbers depend on the torchvision of their time; True is what
            versions since 0.17 do.
        batch_size: most pictures in one forward pass.
        device: of the weights, which then stay there; None follows the run.
        dtype: of the weights.

    Raises:
        ValueError: unknown version, or no single checkpoint file where one was named.
    """

    differentiable = True

    def __init__(
        self,
        version: str = 'v2.1',
        checkpoint: str | None = None,
        antialias: bool = True,
        batch_size: int = 64,
        device: str | None = None,
        dtype: str = 'float32',
    ) -> None:
        if version not in _FILES:
            raise ValueError(f'reward.version must be one of {tuple(_FILES)}, got {version!r}')
        path = locate_file(checkpoint, _HUB, _FILES[version], 'reward.checkpoint')
        self.towers = ClipTowers.from_open_clip(path, torch_dtype(dtype), antialias)
        self.place(device)
        self.batch_size = check_batch_size(batch_size)

    @classmethod
    def hub_models(cls, options: dict[str, Any]) -> dict[str, str]:
        """What a config with these options loads, see :mod:`vipo.engine.hub`."""
        return {'checkpoint': _HUB} if options.get('checkpoint') is None else {}

    @classmethod
    def hub_files(cls, options: dict[str, Any]) -> dict[str, list[str]]:
        """The files of :meth:`hub_models` that are loaded."""
        name = _FILES.get(options.get('version', signature(cls).parameters['version'].default))
        return {'checkpoint': [name]} if name else {}

    @classmethod
    def model_bytes(cls, options: dict[str, Any]) -> int | None:
        """Bytes of the weights for a plan, see :mod:`vipo.engine.plan`; None where the model is not known here."""
        return published_bytes(options, _PARAMETERS)

    @classmethod
    def rehearsal(cls, options: dict[str, Any], folder: Path) -> dict[str, Any]:
        """What changes in these options for a rehearsal, see :mod:`vipo.engine.rehearsal`."""
        from vipo.rewards.twins import write_open_clip

        return {'checkpoint': write_open_clip(folder / 'hps', _FILES['v2.1']), 'device': None}

    def move(self, device: torch.device | str) -> None:
        self.towers.to(device)

    def score_pictures(self, pixels: Tensor, prompts: Sequence[str]) -> Tensor:
        return self.towers.cosine(pixels, prompts)
