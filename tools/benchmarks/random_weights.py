"""Models of published sizes with random weights: time and memory are those of the real ones, and nothing is fetched."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mmengine.config import Config

#: Width and depth of facebook/dinov2-small and so on.
DINOV2_SIZES = {'small': (384, 12), 'base': (768, 12), 'large': (1024, 24)}


def random_dinov2(size: str, folder: str | Path) -> str:
    """Write a DINOv2 of a published size with random weights; where it lies."""
    import torch
    from transformers import Dinov2Config, Dinov2Model

    width, depth = DINOV2_SIZES[size]
    torch.manual_seed(0)
    config = Dinov2Config(
        hidden_size=width, num_hidden_layers=depth, num_attention_heads=width // 64, image_size=518, patch_size=14
    )
    Dinov2Model(config).save_pretrained(folder)
    return str(folder)


def randomize(cfg: Config, folder: Path) -> None:
    """Give a config random weights, in place.

    The generator and the DINOv2 of the map keep their sizes. The reward is redness, which costs next to nothing, so
    that everything else has the highest share of an iteration that it can have.

    Args:
        folder: for the weights of the backbone.

    Raises:
        ConfigError: the map is of another backbone.
    """
    from vipo.registry import ConfigError

    cfg.generator.update(init='random', prompt_cache=None)
    if cfg.get('structurer'):
        backbone = cfg.structurer.get('backbone') or {}
        size = str(backbone.get('pretrained')).rpartition('/dinov2-')[2]
        if backbone.get('type') != 'DINOv2Backbone' or size not in DINOV2_SIZES:
            known = ', '.join(f'facebook/dinov2-{name}' for name in DINOV2_SIZES)
            raise ConfigError(f'--random needs structurer.backbone to be a DINOv2Backbone of {known}')
        backbone.pretrained = random_dinov2(size, folder / 'backbone')
    cfg.reward = {'type': 'RednessReward'}
    cfg.eval_rewards = None
    if cfg.get('advantage'):
        cfg.advantage.pop('combine', None)
