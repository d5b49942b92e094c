"""The nouns of a run, built from its config before anything slow happens."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from mmengine.config import Config
from mmengine.dist import get_rank, get_world_size, is_distributed
from torch import Tensor, nn

from vipo.advantages import combined_advantages, group_advantages
from vipo.datasets.prompts import read_prompts
from vipo.diffusion.kernels import Kernel
from vipo.diffusion.steps import StepSelector
from vipo.engine.batch import BatchPlan
from vipo.engine.ema import TrainableEMA
from vipo.engine.policy import Policy
from vipo.engine.rewards import check_eval_names
from vipo.engine.strategies.base import Strategy
from vipo.generators.base import Generator
from vipo.generators.pipeline import PipelineGenerator
from vipo.registry import GENERATORS, KERNELS, LOSSES, REWARDS, STEP_SELECTORS, STRATEGIES, STRUCTURERS, ConfigError
from vipo.registry.build import check_options, closest
from vipo.registry.lookup import check_sections, component_class
from vipo.rewards.base import Reward
from vipo.rewards.function import as_reward
from vipo.structurers.base import bind_reward, uses_reward


@dataclass
class RolloutOptions:
    """How trajectories are sampled.

    Attributes:
        num_steps: denoising steps.
        kernel: the stochastic transition.
        selector: which steps explore and are trained.
        share_initial_noise: the samples of a group start from the same noise.
        antithetic: the samples of a group come in pairs that take opposite noise at every step. What depends on the
            size of the noise and not on its direction then cancels out of the gradient.

    Raises:
        ConfigError: eta is 0, which explores nothing.
    """

    num_steps: int
    kernel: Kernel
    selector: StepSelector
    share_initial_noise: bool = False
    antithetic: bool = False

    def __post_init__(self) -> None:
        if self.kernel.eta == 0:
            raise ConfigError('rollout.kernel.eta is 0: the ODE explores nothing, so there is nothing to learn from')


@dataclass
class EvaluationOptions:
    """Deterministic sampling of held-out prompts, with the same seeds every time.

    Attributes:
        prompts: prompt file.
        num_prompts: how many of them.
        num_steps: denoising steps of the ODE.
        batch_size: samples per forward pass.
        seed: of the initial noise; it does not follow the seed of the run, so that runs can be compared.

    Raises:
        ConfigError: a count is below 1, or the prompt file cannot be used.
    """

    prompts: str
    num_prompts: int = 128
    num_steps: int = 10
    batch_size: int = 32
    seed: int = 1234
    records: list[dict[str, Any]] = field(default_factory=list, init=False)

    def __post_init__(self) -> None:
        for name in ('num_prompts', 'num_steps', 'batch_size'):
            if getattr(self, name) < 1:
                raise ConfigError(f'evaluation.{name} must be at least 1, got {getattr(self, name)}')
        self.records = read_prompts(self.prompts)[: self.num_prompts]


#: Frozen parts that can wait in main memory while others work.
OFFLOADABLE = ('autoencoder', 'text_encoders', 'reward', 'eval_rewards', 'map')


@dataclass
class Components:
    """Everything that the loop uses, under the name that it has in the config.

    Attributes:
        offload: names of :data:`OFFLOADABLE` that are on the device only while they work.
    """

    generator: Generator
    policy: Policy
    reward: Reward
    eval_rewards: dict[str, Reward]
    structurer: Callable[..., Tensor] | None
    loss: Callable[..., tuple[Tensor, dict[str, Tensor]]]
    advantage: dict[str, Any]
    rollout: RolloutOptions
    batch: BatchPlan
    evaluation: EvaluationOptions | None
    ema: TrainableEMA | None
    strategy: Strategy
    offload: tuple[str, ...] = ()
    device: torch.device | str = 'cpu'

    def to(self, device: torch.device | str) -> Components:
        """Move what is frozen; the runner moves the policy."""
        self.device = device
        _move((self.generator, self.reward, *self.eval_rewards.values(), self.structurer), device)
        for name in self.offload:
            _move(self._parts(name), 'cpu')
        return self

    @property
    def divided(self) -> bool:
        """Whether each rank has a part of the weights; a single process has all of them whatever the strategy is."""
        return is_distributed() and self.strategy.shards

    @contextmanager
    def sampling(self) -> Iterator[None]:
        """Within this context many passes without gradients are made; ranks that share the weights prepare for it."""
        with self.strategy.gathered(self.generator) if self.divided else nullcontext():
            yield

    @contextmanager
    def working(self, *names: str) -> Iterator[None]:
        """Within this context these parts are on the device; those of :attr:`offload` leave it afterwards.

        A map that is made with the reward's own weights brings the reward along.
        """
        if 'map' in names and uses_reward(self.structurer):
            names = tuple(dict.fromkeys((*names, 'reward')))
        moved = [self._parts(name) for name in names if name in self.offload]
        for parts in moved:
            _move(parts, self.device)
        try:
            yield
        finally:
            for parts in moved:
                _move(parts, 'cpu')

    def _parts(self, name: str) -> tuple[Any, ...]:
        return {
            'autoencoder': (self.generator.autoencoder,),
            'text_encoders': self.generator.text_models,
            'reward': (self.reward,),
            'eval_rewards': tuple(self.eval_rewards.values()),
            'map': (self.structurer,),
        }[name]

    @property
    def judges(self) -> dict[str, Reward]:
        """The trained reward and the evaluation-only ones, by name."""
        return {'reward': self.reward, **self.eval_rewards}


def build_components(cfg: Config) -> Components:
    """Build from a config; cheap parts first, so that a mistake shows before weights are loaded.

    Raises:
        ConfigError: a section is missing, or something in it is wrong.
    """
    batch = build_batch_plan(cfg)
    rollout = dict(cfg.rollout)
    for key in ('kernel', 'selector', 'num_steps'):
        if key not in rollout:
            raise ConfigError(f'config key rollout.{key} is missing')
    rollout['kernel'] = KERNELS.build(rollout['kernel'], at='rollout.kernel')
    rollout['selector'] = STEP_SELECTORS.build(rollout['selector'], at='rollout.selector')
    options = _build(RolloutOptions, 'rollout', rollout)
    if options.antithetic and batch.group_size % 2:
        raise ConfigError(
            f'rollout.antithetic pairs the samples of a group: batch.group_size={batch.group_size} is odd'
        )
    options.selector(options.num_steps, seed=0, iteration=0)
    evaluation = _build(EvaluationOptions, 'evaluation', dict(cfg.evaluation)) if cfg.get('evaluation') else None
    offload = _check_offload(cfg.get('offload') or ())
    if 'file' in cfg.train_dataloader.dataset:
        read_prompts(cfg.train_dataloader.dataset.file)
    advantage = dict(cfg.get('advantage') or {})
    two = torch.zeros(2)
    shared = {'rewards': two, 'group': two.long()}
    known = [k for k in inspect.signature(group_advantages).parameters if k not in (*shared, 'valid')]
    known += ['combine', 'map_on']
    for key in advantage:
        if key not in known:
            hint = f'{closest(key, known)} Known: {", ".join(known)}'
            raise ConfigError(f'config key advantage.{key} is not known.{hint}')
    plain = {k: v for k, v in advantage.items() if k not in ('combine', 'map_on')}
    check_options(group_advantages, {**shared, **plain}, 'advantage')
    combined_advantages(**shared, **advantage, parts={'': two}, weights={'': 1.0}, maps=torch.ones(2, 1, 1, 1, 1))
    strategy = build_strategy(cfg)
    loss = LOSSES.build(cfg.loss, at='loss')
    if cfg.get('structurer') is not None and getattr(loss, 'mode', 'position') == 'scalar':
        raise ConfigError(
            "loss.mode='scalar' averages over positions before the ratio is taken, so a map would only scale whole "
            "samples by its mean. Set structurer=None for GRPO, or loss.mode='position' for ViPO."
        )
    mapped = cfg.get('structurer') is not None and advantage.get('map_on') != 'reward'
    if getattr(loss, 'clip_exponent', 0.0) and not mapped:
        raise ConfigError(
            'loss.clip_exponent needs a map in the loss: a structurer, and the map on the advantage '
            "(advantage.map_on='advantage')"
        )
    if advantage.get('map_on') == 'reward' and cfg.get('structurer') is None:
        raise ConfigError("advantage.map_on='reward' needs a structurer, and the config has none")
    check_eval_names(cfg.get('eval_rewards') or {})
    check_sections(cfg)
    check_generator(cfg, needs_reference=getattr(loss, 'needs_reference', False))
    structurer = None
    if cfg.get('structurer') is not None:
        structurer = STRUCTURERS.build(cfg.structurer, at='structurer')
    reward = as_reward(REWARDS.build(cfg.reward, at='reward'))
    if advantage.get('combine') == 'advantages' and not reward.weights:
        raise ConfigError(
            "advantage.combine='advantages' needs a reward that is a weighted sum of parts, and "
            f'{type(reward).__name__} is none; WeightedReward and VideoAlignReward are'
        )
    if structurer is not None:
        bind_reward(structurer, reward)
    extra = {
        name: as_reward(REWARDS.build(c, at=f'eval_rewards.{name}'))
        for name, c in (cfg.get('eval_rewards') or {}).items()
    }
    generator = GENERATORS.build(cfg.generator, at='generator')
    if getattr(loss, 'needs_reference', False) and not generator.has_reference:
        raise ConfigError(_NO_REFERENCE)
    policy = Policy(generator)
    if is_distributed():
        strategy.shard(generator)  # before the average and the optimiser take hold of the parameters
    return Components(
        generator=generator,
        policy=policy,
        reward=reward,
        eval_rewards=extra,
        structurer=structurer,
        loss=loss,
        advantage=advantage,
        rollout=options,
        batch=batch,
        evaluation=evaluation,
        ema=TrainableEMA(policy, **cfg.ema) if cfg.get('ema') else None,
        strategy=strategy,
        offload=offload,
    )


_NO_REFERENCE = (
    'loss.kl_weight needs the reference policy, and training all weights keeps none: set '
    'generator.keep_reference=True (it costs the memory of one more denoiser), or train with LoRA'
)


def check_generator(cfg: Config, needs_reference: bool = False) -> None:
    """Find what is wrong with the section ``generator`` from the config files of its model, before weights are loaded.

    Args:
        needs_reference: whether the loss wants the policy before training.

    Raises:
        ConfigError: an option does not fit the model.
    """
    cls = component_class(cfg.generator.get('type')) if isinstance(cfg.generator, Mapping) else None
    if not (isinstance(cls, type) and issubclass(cls, PipelineGenerator)):
        return
    if cfg.generator.get('init') == 'meta':
        raise ConfigError("generator.init='meta' makes a model without weights, for plans; it cannot be trained")
    if cfg.generator.get('dtype') == 'float16':
        raise ConfigError("generator.dtype='float16' loses small gradients, as losses are not scaled: take 'bfloat16'")
    GENERATORS.build({**cfg.generator, 'init': 'meta'}, at='generator')
    if needs_reference and cfg.generator.get('lora') is None and not cfg.generator.get('keep_reference'):
        raise ConfigError(_NO_REFERENCE)


def _check_offload(names: Iterable[str]) -> tuple[str, ...]:
    if isinstance(names, str):
        raise ConfigError(f'offload must be a list of names, got the text {names!r}: offload=[{names}]')
    for name in names:
        if name not in OFFLOADABLE:
            raise ConfigError(
                f'offload: there is no part {name!r}.{closest(name, OFFLOADABLE)} Known: {", ".join(OFFLOADABLE)}'
            )
    return tuple(names)


def _move(parts: Iterable[Any], device: torch.device | str) -> None:
    for part in parts:
        if hasattr(part, 'to'):
            part.to(device)


def build_strategy(cfg: Config) -> Strategy:
    """How ranks share the model; whole copies of it unless the config says otherwise.

    Raises:
        ConfigError: there is no such strategy, or an option is wrong.
    """
    return STRATEGIES.build(cfg.get('strategy') or {'type': 'DDP'}, at='strategy')


def build_batch_plan(cfg: Config) -> BatchPlan:
    """The section ``batch``, divided among the processes there are.

    Raises:
        ConfigError: an option is unknown, or the sizes cannot be divided.
    """
    return _build(BatchPlan, 'batch', {**cfg.batch, 'world_size': get_world_size(), 'rank': get_rank()})


def _build(cls: type, where: str, options: dict[str, Any]) -> Any:
    check_options(cls, options, where, internal=['world_size', 'rank', 'records'])
    return cls(**options)


def count_parameters(module: nn.Module) -> tuple[int, int]:
    """Trainable and all parameters."""
    sizes = [(p.numel(), p.requires_grad) for p in module.parameters()]
    return sum(n for n, trainable in sizes if trainable), sum(n for n, _ in sizes)
