"""Any plain callable as a reward."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from vipo.registry import REWARDS
from vipo.registry.build import config_path, find_dotted
from vipo.rewards.base import Reward, RewardOutput


@REWARDS.register_module()
class FunctionReward(Reward):
    """Wraps ``function(pixels, prompts, metadata) -> scores``.

    Args:
        function: the callable, or its dotted path such as ``'my_rewards.brightness'``. It returns B numbers (a tensor,
            an array or a list), or a :class:`RewardOutput`.

    Raises:
        ConfigError: the path leads to nothing, or to something that cannot be called.
    """

    def __init__(self, function: Callable[..., Any] | str) -> None:
        self.function = find_dotted(function, f'{config_path()}.function') if isinstance(function, str) else function
        if not callable(self.function):
            raise ValueError(f'reward.function must be callable, got {self.function!r}')

    def __call__(
        self, pixels: Tensor, prompts: Sequence[str], metadata: Sequence[dict[str, Any]] | None = None
    ) -> RewardOutput:
        result = self.function(pixels, prompts, metadata)
        return result if isinstance(result, RewardOutput) else RewardOutput(torch.as_tensor(result))


def as_reward(reward: Reward | Callable[..., Any]) -> Reward:
    """A reward as it is, anything else callable wrapped in a :class:`FunctionReward`."""
    return reward if isinstance(reward, Reward) else FunctionReward(reward)
