"""What the study compares, as data: each variant is a shipped config, what it changes, and why it is there."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

#: Section -> what it asks.
SECTIONS = {
    'a': 'GRPO, the all-ones map, and ViPO with each orientation and normalisation',
    'b': "the paper's ablations: what the map multiplies, how components are combined, smoothing, backbone",
    'd': 'redness: how long the named objects survive a reward that does not know them',
    'e': 'oracle maps from the scenes as an upper bound, and their controls',
    'f': 'where clipping binds: clip range, its shape, and the reduction of the log-probs',
    'g': 'step size: is a difference between methods one of learning rates?',
    'h': 'a reward that sees nothing but the objects: does a map help where the signal is?',
}
#: Of every variant that does not ask what it does.
LEARNING_RATE = 2e-5
#: Of every variant, so that all of them cost the same and are judged alike.
COMMON: dict[str, Any] = {
    'train_cfg.max_iters': 60,
    'optim_wrapper.optimizer.lr': LEARNING_RATE,
    'batch.prompts_per_iteration': 6,
    'evaluation.num_prompts': 128,
    'eval_rewards.judge': {'type': 'SceneJudge'},
    'eval_rewards.pick': {'type': 'PickScoreReward', 'pretrained': 'vipo://tiny-pick'},
}
#: What ``--quick`` changes of these.
QUICK: dict[str, Any] = {'train_cfg.max_iters': 30, 'evaluation.num_prompts': 64}
#: Samples of each prompt in the test of a finished run.
SAMPLES = 2


@dataclass(frozen=True)
class Variant:
    """A line of the study's tables.

    Attributes:
        why: one line that says what it is there for.
        base: name of a config in ``configs/``.
        options: config keys and their values; ``None`` removes a section.
        quick: whether ``--quick`` has it.
    """

    name: str
    section: str
    why: str
    base: str = 'vipo_tiny_sd3'
    options: dict[str, Any] = field(default_factory=dict)
    quick: bool = False


def _allocator(**options: Any) -> dict[str, Any]:
    return {f'structurer.allocator.{key}': value for key, value in options.items()}


def _structurer(**options: Any) -> dict[str, Any]:
    return {'structurer': {'_delete_': True, **options}}


def _learning_rate(factor: float) -> dict[str, Any]:
    return {'optim_wrapper.optimizer.lr': factor * LEARNING_RATE}


#: Scores by a part of the picture that is known.
_FIT = {
    'reward': {'_delete_': True, 'type': 'SceneFitReward'},
    'eval_rewards.hps': {'type': 'HPSReward', 'checkpoint': 'vipo://tiny-hps'},
}
_LOOKS_AT_CLS = {'structurer.backbone.cls_attention': True}

VARIANTS = (
    Variant(
        'grpo', 'a', 'the baseline: one ratio and one advantage for the whole picture', 'grpo_tiny_sd3', quick=True
    ),
    Variant(
        'uniform',
        'a',
        'a ratio for each position without a map: what is left to the map',
        'uniform_tiny_sd3',
        quick=True,
    ),
    Variant('vipo', 'a', 'the shipped default: pressure away from the border, mean one', quick=True),
    Variant(
        'vipo_as_computed',
        'a',
        "the sign that PCA happens to give, as in the paper's code",
        options=_allocator(orientation='as_computed'),
    ),
    Variant(
        'vipo_reversed', 'a', 'the opposite sign: does the sign matter?', options=_allocator(orientation='reversed')
    ),
    Variant(
        'vipo_cls_attention',
        'a',
        'the sign by where the CLS token looks',
        options=_allocator(orientation='cls_attention') | _LOOKS_AT_CLS,
    ),
    Variant(
        'vipo_feature_norm',
        'a',
        'the sign by the length of the features',
        options=_allocator(orientation='feature_norm'),
    ),
    Variant('vipo_minority', 'a', 'the sign by which side is smaller', options=_allocator(orientation='minority')),
    Variant(
        'vipo_minmax',
        'a',
        "the reference's [0, 1]: the size of a step depends on the picture",
        options={'structurer.normalize': 'minmax'},
    ),
    Variant(
        'vipo_signed', 'a', 'below the average is pushed the other way', options={'structurer.normalize': 'signed'}
    ),
    Variant(
        'vipo_on_reward', 'b', 'the map on the reward in place of the advantage', options={'advantage.map_on': 'reward'}
    ),
    Variant('vipo_average', 'b', 'components with equal weights', options=_allocator(combine='average')),
    Variant('vipo_first', 'b', 'the first component alone, which is also K = 1', options=_allocator(combine='first')),
    Variant('vipo_k5', 'b', 'five components', options=_allocator(components=5)),
    Variant('vipo_sigma0', 'b', 'no smoothing', options=_allocator(sigma=0.0)),
    Variant('vipo_sigma2', 'b', 'twice the smoothing', options=_allocator(sigma=2.0)),
    Variant(
        'vipo_reward_tower',
        'b',
        "the reward's own image tower as the backbone",
        options={'structurer.backbone': {'_delete_': True, 'type': 'RewardTowerBackbone'}},
    ),
    Variant(
        'vipo_attribution',
        'b',
        'no backbone: where the reward has its gradient',
        options=_structurer(type='RewardAttributionStructurer'),
    ),
    Variant('red_grpo', 'd', 'redness alone, without a map', 'grpo_tiny_redness', quick=True),
    Variant('red_vipo', 'd', 'redness alone, pressure on the objects', 'vipo_tiny_redness', quick=True),
    Variant(
        'red_background',
        'd',
        'redness alone, pressure on everything but the objects',
        'vipo_tiny_redness',
        _structurer(type='SceneOracleStructurer', where='background'),
    ),
    Variant('oracle', 'e', 'pressure where the prompt puts its objects', 'oracle_tiny_sd3', quick=True),
    Variant(
        'oracle_background',
        'e',
        'the opposite: pressure everywhere else',
        'oracle_tiny_sd3',
        {'structurer.where': 'background'},
    ),
    Variant(
        'oracle_random', 'e', 'as much pressure on a blob elsewhere', 'oracle_tiny_sd3', {'structurer.where': 'random'}
    ),
    Variant('vipo_clip_0.05', 'f', 'a quarter of the clip range', options={'loss.clip_range': 0.05}),
    Variant('vipo_clip_0.01', 'f', 'a range that binds', options={'loss.clip_range': 0.01}),
    Variant('grpo_clip_0.05', 'f', 'the same for the baseline', 'grpo_tiny_sd3', {'loss.clip_range': 0.05}),
    Variant('grpo_clip_0.01', 'f', 'the same for the baseline', 'grpo_tiny_sd3', {'loss.clip_range': 0.01}),
    Variant(
        'vipo_clip_wide_inside',
        'f',
        'a range that grows with the map',
        options={'loss.clip_range': 0.05, 'loss.clip_exponent': 1.0},
    ),
    Variant(
        'vipo_mean',
        'f',
        'log-probs averaged over channels, with a range as much smaller',
        options={'rollout.kernel.reduction': 'mean', 'loss.clip_range': 0.025},
    ),
    Variant('grpo_lr_half', 'g', 'is ViPO only a smaller step?', 'grpo_tiny_sd3', _learning_rate(0.5)),
    Variant('grpo_lr_x2', 'g', 'twice the learning rate', 'grpo_tiny_sd3', _learning_rate(2)),
    Variant('grpo_lr_x4', 'g', 'four times', 'grpo_tiny_sd3', _learning_rate(4)),
    Variant('vipo_lr_x2', 'g', 'twice the learning rate', options=_learning_rate(2)),
    Variant('vipo_lr_x4', 'g', 'four times', options=_learning_rate(4)),
    Variant('fit_grpo', 'h', 'without a map', 'grpo_tiny_sd3', _FIT),
    Variant('fit_vipo', 'h', 'the shipped default', options=_FIT),
    Variant(
        'fit_attribution',
        'h',
        'no backbone: where the reward has its gradient',
        options=_structurer(type='RewardAttributionStructurer') | _FIT,
    ),
    Variant('fit_oracle', 'h', 'pressure where the prompt puts its objects', 'oracle_tiny_sd3', _FIT),
    Variant(
        'fit_places',
        'h',
        'pressure on all that the reward sees: the objects and what is just beside them',
        'oracle_tiny_sd3',
        _FIT | {'structurer.where': 'places'},
    ),
    Variant(
        'fit_background', 'h', 'pressure everywhere else', 'oracle_tiny_sd3', _FIT | {'structurer.where': 'background'}
    ),
)


def find(names: list[str] | None, quick: bool) -> list[Variant]:
    """The variants of these names or sections, all where there are none; of ``--quick``, those that it has.

    Raises:
        ValueError: a name is none.
    """
    offered = [variant for variant in VARIANTS if variant.quick or not quick]
    if not names:
        return offered
    unknown = set(names) - {v.name for v in offered} - {v.section for v in offered}
    if unknown:
        known = ', '.join([*SECTIONS, *(v.name for v in offered)])
        raise ValueError(f'no variant or section {", ".join(sorted(unknown))}; known: {known}')
    return [variant for variant in offered if variant.name in names or variant.section in names]
