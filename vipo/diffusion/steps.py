"""Which denoising steps explore and which are trained, chosen anew for every iteration."""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from dataclasses import dataclass

from vipo.randomness import derive_seed
from vipo.registry import STEP_SELECTORS


@dataclass(frozen=True)
class StepPlan:
    """Step indices of one iteration; the last step (to sigma 0) is in neither set.

    Attributes:
        stochastic: steps that are sampled with noise; the others follow the ODE.
        trained: the stochastic steps whose transitions are kept and trained on, ascending.
    """

    stochastic: frozenset[int]
    trained: tuple[int, ...]


class StepSelector(ABC):
    """Chooses a :class:`StepPlan` from the iteration alone, the same on every rank."""

    @abstractmethod
    def choose(self, num_steps: int, rng: random.Random) -> StepPlan:
        """The plan for a rollout of ``num_steps`` steps."""

    def __call__(self, num_steps: int, seed: int, iteration: int) -> StepPlan:
        plan = self.choose(num_steps, random.Random(derive_seed('steps', seed, iteration)))
        assert plan.trained and set(plan.trained) <= plan.stochastic and max(plan.stochastic) < num_steps - 1
        return plan


def _trainable(num_steps: int) -> range:
    if num_steps < 2:
        raise ValueError(
            f'a rollout of {num_steps} step(s) has nothing to train: the last step is deterministic. '
            'Set rollout.num_steps to 2 or more.'
        )
    return range(num_steps - 1)


@STEP_SELECTORS.register_module()
class RandomFraction(StepSelector):
    """Every step but the last explores; a random fraction of them is trained (DanceGRPO, ViPO: 60 %).

    Args:
        fraction: in (0, 1]; at least one step is trained.

    Raises:
        ValueError: the fraction is not in (0, 1], or a rollout has fewer than 2 steps.
    """

    def __init__(self, fraction: float = 0.6) -> None:
        if not 0 < fraction <= 1:
            raise ValueError(f'fraction must be in (0, 1], got {fraction}')
        self.fraction = fraction

    def choose(self, num_steps: int, rng: random.Random) -> StepPlan:
        steps = _trainable(num_steps)
        count = max(1, round(self.fraction * len(steps)))
        return StepPlan(frozenset(steps), tuple(sorted(rng.sample(steps, count))))


@STEP_SELECTORS.register_module()
class Window(StepSelector):
    """``size`` neighbouring steps explore and are trained; all others follow the ODE.

    Args:
        size: number of steps in the window.
        first, last: the window lies within these steps; ``last`` None means the last but one of the rollout.

    Raises:
        ValueError: the size or the first step is out of range, or the window does not fit into the rollout.
    """

    def __init__(self, size: int = 2, first: int = 0, last: int | None = None) -> None:
        if size < 1 or first < 0:
            raise ValueError(f'size must be at least 1 and first not negative, got size={size}, first={first}')
        self.size, self.first, self.last = size, first, last

    def choose(self, num_steps: int, rng: random.Random) -> StepPlan:
        end = _trainable(num_steps)[-1]
        if self.last is not None:
            end = min(self.last, end)
        if end - self.first + 1 < self.size:
            raise ValueError(
                f'a window of {self.size} steps does not fit between steps {self.first} and {end} of {num_steps}; '
                'make the window smaller or the rollout longer'
            )
        start = rng.randint(self.first, end - self.size + 1)
        window = range(start, start + self.size)
        return StepPlan(frozenset(window), tuple(window))
