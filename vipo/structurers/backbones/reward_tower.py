"""The vision tower of the run's own reward: what the reward sees, at no memory of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vipo.registry import BACKBONES, ConfigError
from vipo.rewards.base import Reward
from vipo.rewards.clip_towers import ClipTowers
from vipo.rewards.preprocess import OPENAI_MEAN, OPENAI_STD
from vipo.rewards.weighted import WeightedReward
from vipo.structurers.backbones.attention import blocks_of, first_token_attention, outputs_of, projections_of
from vipo.structurers.backbones.base import Backbone, Features
from vipo.structurers.backbones.preparation import Preparation
from vipo.structurers.backbones.transformer import block_number


@BACKBONES.register_module()
class RewardTowerBackbone(Backbone):
    """Patch features of the CLIP that the run's reward is made of (HPSv2, PickScore, ...): the same weights.

    A run binds the reward itself; in a notebook, ``backbone.bind(reward)`` does. The weights go where the reward goes:
    :meth:`to` moves nothing.

    Args:
        part: which part of a weighted reward, by name, where several are made of a CLIP.
        layer: the block whose output is taken; -1 is the last, -2 the one before.
        input_size, max_tokens: see :class:`~vipo.structurers.backbones.transformer.TransformerBackbone`. None keeps
            the picture's own size, whatever size the reward scores pictures at.
        cls_attention: also return the CLS token's attention in that block.

    Raises:
        ValueError: the sizes contradict each other.
    """

    def __init__(
        self,
        part: str | None = None,
        layer: int = -1,
        input_size: int | None = None,
        max_tokens: int | None = None,
        cls_attention: bool = False,
    ) -> None:
        self.part, self.layer = part, layer
        self._sizes = {'input_size': input_size, 'max_tokens': max_tokens}
        Preparation(1, **self._sizes)  # says now what is wrong with them
        self.has_cls_attention = cls_attention
        self.towers: ClipTowers | None = None

    @classmethod
    def model_bytes(cls, options: dict[str, Any]) -> int:
        """Bytes of the weights for a plan: those of the reward are counted there."""
        return 0

    @classmethod
    def rehearsal(cls, options: dict[str, Any], folder: Path) -> dict[str, Any]:
        """What changes in these options for a rehearsal, see :mod:`vipo.engine.rehearsal`."""
        from vipo.structurers.backbones.twins import small

        return {k: v for k, v in small(options).items() if k != 'device'}

    def bind(self, reward: Reward) -> None:
        """Take the vision tower of this reward.

        Raises:
            ConfigError: the reward has none, or several and ``part`` does not choose, or too few blocks.
        """
        found = clip_towers(reward)
        name = type(reward).__name__
        if self.part is not None:
            found = {k: v for k, v in found.items() if k == self.part or k.startswith(f'{self.part}/')}
        if not found:
            which = f'part {self.part!r} of {name}' if self.part is not None else name
            raise ConfigError(
                f'structurer.backbone: RewardTowerBackbone looks through the CLIP of the reward, and {which} has none. '
                "HPSReward has; or give the map a model of its own: dict(type='CLIPBackbone', pretrained=...)"
            )
        if len(found) > 1:
            raise ConfigError(
                f'structurer.backbone: {len(found)} parts of {name} are made of a CLIP; choose one with '
                f'structurer.backbone.part: {", ".join(found)}'
            )
        self.towers = next(iter(found.values()))
        config = self.towers.model.config.vision_config
        try:
            self._block = block_number(self.layer, config.num_hidden_layers)
        except ValueError as error:
            raise ConfigError(f'structurer.{error}') from error
        self.preparation = Preparation(config.patch_size, OPENAI_MEAN, OPENAI_STD, **self._sizes)

    @torch.no_grad()
    def __call__(self, pixels: Tensor) -> Features:
        if self.towers is None:
            raise ConfigError('RewardTowerBackbone has no reward yet: call backbone.bind(reward) first')
        model = self.towers.model.vision_model
        config = self.towers.model.config.vision_config
        block = blocks_of(model, config.num_hidden_layers)[self._block]
        x = self.preparation(pixels, next(model.parameters()))
        grid = x.shape[-2] // config.patch_size, x.shape[-1] // config.patch_size
        # The reward needs the blocks behind this one and its own attention kernels, so both are watched, not changed.
        watched = {'block': block, **(projections_of(block) if self.has_cls_attention else {})}
        with outputs_of(watched) as seen:
            model(pixel_values=x, interpolate_pos_encoding=True)
        attention = None
        if self.has_cls_attention:
            attention = first_token_attention(seen['query'], seen['key'], config.num_attention_heads, prefix=1)
            attention = attention.unflatten(1, grid)
        return Features(seen['block'][:, 1:].float().mT.unflatten(2, grid), attention)


def clip_towers(reward: Any) -> dict[str, ClipTowers]:
    """The CLIPs that a reward is made of, by the names of the parts that lead to them; ``''`` for the reward itself."""
    if isinstance(getattr(reward, 'towers', None), ClipTowers):
        return {'': reward.towers}
    if isinstance(reward, WeightedReward):
        inner = {name: clip_towers(part.reward) for name, part in reward.parts.items()}
        return {f'{name}/{k}'.strip('/'): v for name, found in inner.items() for k, v in found.items()}
    wrapped = getattr(reward, 'reward', None)
    return clip_towers(wrapped) if isinstance(wrapped, Reward) else {}
