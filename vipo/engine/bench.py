"""What a test is made of: a generator that can go back to its start, rewards, and spaces to compare pictures in."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.dist import is_distributed
from torch import Tensor

from vipo.diffusion.kernels import Kernel
from vipo.engine.checkpoint import locate
from vipo.engine.components import EvaluationOptions, build_strategy
from vipo.engine.evaluation import plain
from vipo.engine.restore import load_generator
from vipo.engine.rewards import build_rewards
from vipo.engine.strategies.base import Strategy
from vipo.generators.base import Generator
from vipo.generators.pipeline import PipelineGenerator
from vipo.registry import KERNELS, STRUCTURERS, ConfigError
from vipo.registry.build import check_options
from vipo.registry.lookup import check_sections, component_class, components_of
from vipo.rewards.base import Reward
from vipo.scenes.grammar import Scene, parse_prompt
from vipo.structurers.backbones.base import Backbone
from vipo.structurers.backbones.reward_tower import RewardTowerBackbone, clip_towers
from vipo.structurers.base import bind_reward, every_part

_TOWER = RewardTowerBackbone.__name__


@dataclass
class Bench:
    """What a test needs of a config.

    Attributes:
        rewards: by name; the trained one is ``'reward'``.
        spaces: feature spaces in which pictures are compared, by name.
        scenes: of the embedded world, one for each prompt; None where a prompt names no scene.
        kernel: of the rollouts; the KL to the start is that of its transitions.
        identities: ``rewards``, ``spaces`` and ``kernel`` as plain values, to tell what can be compared with what.
        trained: whether a checkpoint was loaded, so that there is a before and an after.
    """

    generator: Generator
    rewards: dict[str, Reward]
    structurer: Callable[..., Tensor] | None
    spaces: dict[str, Backbone]
    evaluation: EvaluationOptions
    scenes: list[Scene] | None
    kernel: Kernel
    strategy: Strategy
    trained: bool
    identities: dict[str, Any]

    def to(self, device: torch.device | str) -> Bench:
        """Move everything with weights."""
        for part in (self.generator, *self.rewards.values(), self.structurer, *self.spaces.values()):
            if hasattr(part, 'to'):
                part.to(device)
        return self


def build_bench(
    cfg: Config, checkpoint: str | Path | None, averaged: bool = True, features: Config | None = None
) -> Bench:
    """Build what a test needs; cheap parts first, so that a mistake shows before weights are loaded.

    Args:
        checkpoint: None tests the generator as it was before training.
        averaged: take the averaged weights (EMA) where the checkpoint has them.
        features: a config whose structurer's backbone is a further feature space.

    Raises:
        ConfigError: the config has no prompts to test on, the checkpoint is missing or another model's, or the
            generator cannot go back to its start.
    """
    if not cfg.get('evaluation'):
        raise ConfigError('the config has no section evaluation: name a file of prompts with --prompts')
    options = dict(cfg.evaluation)
    check_options(EvaluationOptions, options, 'evaluation', internal=['records'])
    evaluation = EvaluationOptions(**options)
    kernel = KERNELS.build(cfg.rollout.kernel, at='rollout.kernel')
    strategy = build_strategy(cfg)
    if checkpoint is not None:
        locate(str(checkpoint))
    cls = component_class(cfg.generator.get('type'))
    ours = isinstance(cls, type) and issubclass(cls, PipelineGenerator)
    if ours and checkpoint is not None and cfg.generator.get('lora') is None:
        cfg.generator.keep_reference = True
    check_sections(cfg)
    generator = load_generator(cfg, checkpoint, averaged)
    if checkpoint is not None and not generator.has_reference:
        raise ConfigError(
            f'{type(generator).__name__} cannot go back to its weights before training (Generator.reference), so that '
            'there is nothing to compare the checkpoint with'
        )
    rewards = build_rewards(cfg, evaluation=True)
    structurers = [
        STRUCTURERS.build(c.structurer, at='structurer')
        for c in (cfg, features)
        if c is not None and c.get('structurer') is not None
    ]
    for structurer in structurers:
        bind_reward(structurer, rewards['reward'])
    if is_distributed():
        strategy.shard(generator)
    return Bench(
        generator=generator,
        rewards=rewards,
        structurer=structurers[0] if cfg.get('structurer') is not None else None,
        spaces=feature_spaces(structurers, rewards['reward']),
        evaluation=evaluation,
        scenes=scenes_of([record['prompt'] for record in evaluation.records]),
        kernel=kernel,
        strategy=strategy,
        trained=checkpoint is not None,
        identities=_identities(cfg, features),
    )


def _identities(cfg: Config, features: Config | None) -> dict[str, Any]:
    spaces: dict[str, Any] = {}
    for source in (cfg, features):
        for key, section in components_of({} if source is None else {'structurer': source.get('structurer')}):
            name = getattr(component_class(section['type']), '__name__', '')
            if key.endswith('backbone') and name:
                spaces.setdefault(name, {**section, 'reward': cfg.reward if name == _TOWER else None})
    spaces.setdefault(_TOWER, {'type': _TOWER, 'reward': cfg.reward})
    rewards = {'reward': cfg.reward, **(cfg.get('eval_rewards') or {})}
    return plain({'rewards': rewards, 'spaces': spaces, 'kernel': cfg.rollout.kernel})


def feature_spaces(structurers: list[Any], reward: Reward) -> dict[str, Backbone]:
    """The backbones of the maps, and the image tower of the trained reward where it is made of a CLIP, by class name.

    The tower is there for comparisons: a baseline without a map has it too.
    """
    found = [part for structurer in structurers for part in every_part(structurer) if isinstance(part, Backbone)]
    for part, towers in clip_towers(reward).items():
        tower = RewardTowerBackbone(part=part or None, input_size=towers.side)
        tower.bind(reward)
        found.append(tower)
    spaces: dict[str, Backbone] = {}
    for backbone in found:
        name = type(backbone).__name__
        if name not in spaces:
            spaces[name] = backbone
    return spaces


def scenes_of(prompts: list[str]) -> list[Scene] | None:
    """The scenes that the prompts name; None where one names none, as prompts for full-size models do."""
    try:
        return [parse_prompt(prompt) for prompt in prompts]
    except ValueError:
        return None
