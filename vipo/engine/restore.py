"""A generator with the weights of a checkpoint, without a runner around it."""

from __future__ import annotations

from pathlib import Path

from mmengine.config import Config

from vipo.engine.checkpoint import load_tensors_only, locate
from vipo.engine.config import read_config
from vipo.engine.policy import Policy
from vipo.engine.verify import require_whole
from vipo.generators.base import Generator
from vipo.registry import GENERATORS, ConfigError


def config_of(checkpoint: str | Path, imports: bool = True) -> Config:
    """The config that a run left beside its checkpoints.

    Args:
        imports: see :func:`~vipo.engine.config.read_config`.

    Raises:
        ConfigError: there is none, or there are several.
    """
    found = sorted(Path(checkpoint).parent.glob('*.py'))
    if len(found) != 1:
        raise ConfigError(
            f'{Path(checkpoint).parent} holds {len(found)} config files, one was expected; name it with --config'
        )
    return read_config(found[0], imports)


def load_generator(cfg: Config, checkpoint: str | Path | None = None, averaged: bool = True) -> Generator:
    """Build the generator of a config and load what was trained.

    Args:
        checkpoint: None leaves the generator as it was before training.
        averaged: take the averaged weights (EMA) where the checkpoint has them, as evaluation does.

    Raises:
        ConfigError: the checkpoint is missing or damaged, or belongs to another config.
    """
    if checkpoint is not None:
        require_whole(locate(str(checkpoint)))
    generator = GENERATORS.build(cfg.generator, at='generator')
    if checkpoint is None:
        return generator
    saved = load_tensors_only(str(checkpoint), map_location='cpu')
    policy = Policy(generator)
    state = dict(saved['state_dict'])
    if averaged and 'ema' in saved:
        state |= saved['ema']
    # Only what was trained is in it; the policy itself refuses a state that lacks a part of that or has more.
    policy.load_state_dict(state, strict=False)
    return generator
