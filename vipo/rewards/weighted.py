"""Several rewards as one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from vipo.registry import REWARDS
from vipo.registry.build import check_options, config_path
from vipo.rewards.base import Reward, RewardOutput
from vipo.rewards.function import as_reward


@REWARDS.register_module()
class WeightedReward(Reward):
    """``sum_k weight_k (score_k - mean_k) / std_k``, each part logged by its name.

    A sample is valid where all parts are whose weight is not 0; those of weight 0 are only logged. The parts of a
    reward that is itself a weighted sum, and is not rescaled here, become parts of this one, named ``name/part``.

    Args:
        parts: name -> ``dict(reward=dict(type=...), weight=1.0, mean=0.0, std=1.0)``. Mean and std bring rewards of
            different scales together: what the reward gives the untrained generator, for one.

    Raises:
        ValueError: no parts, all weights zero, or a std that is not positive.
    """

    def __init__(self, parts: Mapping[str, Mapping[str, Any]]) -> None:
        if not parts:
            raise ValueError('parts is empty')
        self.parts: dict[str, _Part] = {}
        for name, options in parts.items():
            check_options(_Part, options, f'{config_path()}.parts.{name}')
            self.parts[name] = _Part(**options, name=f'parts.{name}.reward')
        if not any(part.weight for part in self.parts.values()):
            raise ValueError('parts: every weight is 0, so there is nothing to learn')
        self.weights: Mapping[str, float] = {
            key: part.weight * weight
            for name, part in self.parts.items()
            for key, weight in part.terms(name).items()
            if part.weight * weight
        }

    @property
    def differentiable(self) -> bool:
        return all(part.reward.differentiable for part in self.parts.values() if part.weight)

    def move(self, device: torch.device | str) -> None:
        for part in self.parts.values():
            part.reward.to(device)

    def __call__(
        self, pixels: Tensor, prompts: Sequence[str], metadata: Sequence[dict[str, Any]] | None = None
    ) -> RewardOutput:
        total, valid = torch.zeros(len(prompts)), torch.ones(len(prompts), dtype=torch.bool)
        logged: dict[str, Tensor] = {}
        for name, part in self.parts.items():
            try:
                output = part.reward(pixels, prompts, metadata)
            except Exception as error:
                raise _told(error, f'part {name!r} ({type(part.reward).__name__})') from error
            logged[name] = (output.scores.cpu() - part.mean) / part.std
            logged |= {f'{name}/{key}': value.cpu() for key, value in output.parts.items()}
            if part.weight:  # what is only watched decides nothing
                total += part.weight * logged[name]
                valid &= output.valid.cpu()
        return RewardOutput(total, parts=logged, valid=valid)

    def differentiable_scores(
        self, pixels: Tensor, prompts: Sequence[str], metadata: Sequence[dict[str, Any]] | None = None
    ) -> Tensor:
        terms = [
            part.weight * (part.reward.differentiable_scores(pixels, prompts, metadata) - part.mean) / part.std
            for part in self.parts.values()
            if part.weight
        ]
        return torch.stack(terms).sum(0)


def _told(error: Exception, where: str) -> Exception:
    """The error with its place, and with what it says of the sample at fault."""
    told = RuntimeError(f'{where}: {type(error).__name__}: {error}')
    if hasattr(error, 'sample'):
        told.sample = error.sample
    return told


class _Part:
    """One part; its arguments are the options that a config gives."""

    def __init__(
        self,
        reward: Mapping[str, Any] | Reward,
        weight: float = 1.0,
        mean: float = 0.0,
        std: float = 1.0,
        name: str = 'reward',
    ) -> None:
        if not std > 0:
            raise ValueError(f'{name.removesuffix(".reward")}.std must be positive, got {std}')
        self.reward = as_reward(REWARDS.build(reward, at=name))
        self.weight, self.mean, self.std = weight, mean, std

    def terms(self, name: str) -> dict[str, float]:
        """Parts of the sum, and their weights in it, that this one stands for."""
        if self.reward.weights is None or (self.mean, self.std) != (0.0, 1.0):
            return {name: 1.0}
        return {f'{name}/{key}': weight for key, weight in self.reward.weights.items()}
