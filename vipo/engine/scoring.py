"""Calls rewards, and makes their failures speak."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from vipo.rewards.base import Reward, RewardOutput, find_culprit


class RunStopped(RuntimeError):
    """The run cannot go on. The message says why and what to do; nothing that was saved is touched."""


class RewardFailure(RunStopped):
    """A reward raised. The message names the sample, the prompt and the reward.

    Attributes:
        sample: number of the sample at fault; None where none is in particular.
    """

    def __init__(self, message: str, sample: int | None = None) -> None:
        super().__init__(message)
        self.sample = sample


def score(
    reward: Reward, name: str, pixels: Tensor, prompts: Sequence[str], metadata: Sequence[dict[str, Any]] | None = None
) -> RewardOutput:
    """Score a batch.

    Raises:
        RewardFailure: the reward raised; the samples are then tried one by one to find the culprit.
        RunStopped: the reward returned something else than one score per sample.
    """
    try:
        output = reward(pixels, prompts, metadata)
    except Exception as error:
        index, cause = find_culprit(error, reward, pixels, prompts, metadata)
        which = (
            f'sample {index}, prompt {prompts[index]!r}'
            if index is not None
            else f'a batch of {len(prompts)} samples ({_why_all(error)}), first prompt {prompts[0]!r}'
        )
        raise RewardFailure(
            f'{name} ({type(reward).__name__}) failed on {which}: {type(cause).__name__}: {cause}', index
        ) from error
    if isinstance(output, RewardOutput):
        for part, value in {'valid': output.valid, **output.parts}.items():
            if value.shape != (len(prompts),):
                raise RunStopped(
                    f'{name} ({type(reward).__name__}): {part} of {len(prompts)} samples has shape {tuple(value.shape)}'
                )
    if not isinstance(output, RewardOutput) or output.scores.shape != (len(prompts),):
        shape = tuple(output.scores.shape) if isinstance(output, RewardOutput) else type(output).__name__
        raise RunStopped(
            f'{name} ({type(reward).__name__}) must return RewardOutput with {len(prompts)} scores, got {shape}'
        )
    return output


def _why_all(error: Exception) -> str:
    return 'by no fault of theirs' if getattr(error, 'sample', 0) is None else 'none of them fails alone'


def check_valid(valid: Tensor, limit: float) -> None:
    """Stop a run whose rewards are mostly invalid.

    Args:
        valid: ``(N,)`` bool, of the samples of all ranks, so that all of them stop or none.
        limit: largest share that may be invalid.

    Raises:
        RunStopped: more than the share ``limit`` is invalid.
    """
    share = (~valid).float().mean().item()
    if share > limit:
        raise RunStopped(
            f'{share:.0%} of the rewards of this rollout are invalid (NaN or refused by the reward); more than '
            f'train_cfg.max_invalid_fraction={limit:g} stops the run. Look at the pictures and at the reward.'
        )
