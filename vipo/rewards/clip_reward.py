"""What rewards on a CLIP in transformers' layout share."""

from __future__ import annotations

from inspect import signature
from pathlib import Path
from typing import Any, ClassVar

import torch

from vipo.registry.build import torch_dtype
from vipo.rewards.clip_towers import ClipTowers
from vipo.rewards.picture import PictureReward

#: Millions of parameters of both towers, and of the picture's alone.
MILLIONS = {
    'yuvalkirstain/PickScore_v1': (986, 632),
    'laion/CLIP-ViT-H-14-laion2B-s32B-b79K': (986, 632),
    'openai/clip-vit-large-patch14': (428, 304),
    'openai/clip-vit-base-patch16': (150, 86),
    'openai/clip-vit-base-patch32': (151, 88),
}


class ClipReward(PictureReward):
    """A reward whose option ``pretrained`` names a CLIP: a hub id or a local folder.

    Attributes:
        reads_prompts: whether the text tower is kept.
    """

    differentiable = True
    reads_prompts: ClassVar[bool] = True
    towers: ClipTowers

    @classmethod
    def hub_models(cls, options: dict[str, Any]) -> dict[str, str]:
        """What a config with these options loads, see :mod:`vipo.engine.hub`."""
        return {'pretrained': options.get('pretrained', signature(cls).parameters['pretrained'].default)}

    @classmethod
    def model_bytes(cls, options: dict[str, Any]) -> int | None:
        """Bytes of the weights for a plan, see :mod:`vipo.engine.plan`; None where the model is not known here."""
        both, picture = MILLIONS.get(cls.hub_models(options)['pretrained'], (None, None))
        millions = both if cls.reads_prompts else picture
        return None if millions is None else millions * 10**6 * torch_dtype(options.get('dtype', 'float32')).itemsize

    @classmethod
    def rehearsal(cls, options: dict[str, Any], folder: Path) -> dict[str, Any]:
        """What changes in these options for a rehearsal, see :mod:`vipo.engine.rehearsal`."""
        from vipo.rewards.twins import write_clip

        return {'pretrained': write_clip(folder / 'clip'), 'device': None}

    def move(self, device: torch.device | str) -> None:
        self.towers.to(device)
