"""Which numbers the keys of the shipped config take."""

from __future__ import annotations

from typing import Any


class Bounds:
    """The numbers that a key takes.

    Args:
        least: smallest legal one; ``above`` says that it is itself illegal.
        most: largest legal one; ``below`` says that it is itself illegal.
        whole: integers alone.
        optional: None is legal.
        huge: a number that no machine and no model could follow, where there is one.
    """

    def __init__(
        self,
        least: float | None = None,
        most: float | None = None,
        *,
        whole: bool = True,
        above: bool = False,
        below: bool = False,
        optional: bool = False,
        huge: int | None = None,
    ) -> None:
        self.least, self.most, self.whole = least, most, whole
        self.above, self.below, self.optional, self.huge = above, below, optional, huge

    def broken(self) -> list[Any]:
        """Values outside."""
        values: list[Any] = ['many', [[1]], {'a': 1}, True, float('nan'), float('inf'), float('-inf')]
        if self.least is not None:
            values += [self.least - 1, -(10**12)]
            values += [self.least] if self.above else []
        if self.most is not None:
            values += [self.most + 1, 10**12]
            values += [self.most] if self.below else []
        if self.whole:
            values += [1.5, 2.0, '3']
        if self.huge is not None:
            values += [self.huge]
        if not self.optional:
            values += [None]
        return values


def _count(**more: Any) -> Bounds:
    return Bounds(1, **more)


def _real(least: float | None = 0, most: float | None = None, **more: Any) -> Bounds:
    return Bounds(least, most, whole=False, **more)


#: Every number of the shipped config. A new one has to be given its bounds here, see ``test_fuzz.py``.
NUMBERS: dict[str, Bounds] = {
    'generator.resolution': Bounds(8, 256),
    'generator.guidance_scale': _real(),
    'generator.max_sequence_length': _count(),
    'structurer.allocator.components': _count(huge=10**6),
    'structurer.allocator.sigma': _real(),
    'loss.clip_range': _real(above=True),
    'loss.kl_weight': _real(),
    'advantage.eps': _real(),
    'advantage.clip': _real(above=True, optional=True),
    'rollout.num_steps': Bounds(2),
    'rollout.kernel.eta': _real(above=True),
    'rollout.selector.size': _count(huge=99),
    'rollout.selector.first': Bounds(0, huge=99),
    'rollout.selector.last': Bounds(0, optional=True),
    'batch.prompts_per_iteration': _count(),
    'batch.group_size': Bounds(2),
    'batch.updates_per_iteration': _count(huge=10**6),
    'batch.micro_batch_size': _count(),
    'train_dataloader.num_workers': Bounds(0),
    'train_cfg.max_iters': _count(),
    'optim_wrapper.optimizer.lr': _real(),
    'optim_wrapper.optimizer.betas.0': _real(0, 1, below=True),
    'optim_wrapper.optimizer.betas.1': _real(0, 1, below=True),
    'optim_wrapper.optimizer.weight_decay': _real(),
    'optim_wrapper.clip_grad.max_norm': _real(above=True),
    'param_scheduler.0.start_factor': _real(0, 1),
    'param_scheduler.0.begin': Bounds(0),
    'param_scheduler.0.end': Bounds(1),
    'ema.decay': _real(0, 1, below=True),
    'evaluation.num_prompts': _count(),
    'evaluation.num_steps': _count(),
    'evaluation.batch_size': _count(),
    'default_hooks.logger.interval': _count(),
    'default_hooks.checkpoint.interval': _count(),
    'default_hooks.checkpoint.keep': _count(),
    'default_hooks.evaluation.interval': Bounds(0),
    'default_hooks.report.gallery': _count(),
    'env_cfg.dist_cfg.timeout': _real(above=True),
    'randomness.seed': Bounds(0, 2**32 - 1),
}
