"""Rewards -> group-relative scalar advantages."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

SCALES = ('group', 'global', 'none')
COMBINATIONS = ('rewards', 'advantages')
#: What the allocation map multiplies: the paper's method, and its ablation.
MAPPED = ('advantage', 'reward')


def combined_advantages(
    rewards: Tensor,
    group: Tensor,
    valid: Tensor | None = None,
    *,
    parts: Mapping[str, Tensor] | None = None,
    weights: Mapping[str, float] | None = None,
    maps: Tensor | None = None,
    combine: str = 'rewards',
    map_on: str = 'advantage',
    clip: float | None = None,
    **options: Any,
) -> Tensor:
    """Advantages of a reward, or of each of its parts by itself, summed by their weights.

    A sum of rewards is ruled by the part that varies most; in a sum of advantages each part counts by its weight alone.
    The paper sums the advantages of visual and motion quality.

    Args:
        rewards, group, valid: as in :func:`group_advantages`.
        parts: values ``(B,)`` by name.
        weights: of the parts that count.
        maps: allocation maps ``(B, 1, T, H, W)``, used where ``map_on`` is ``'reward'``.
        combine: ``'rewards'``: the advantage of ``rewards``; ``'advantages'``: of each part, summed.
        map_on: ``'advantage'``: the loss multiplies the map and nothing happens here. ``'reward'``: every position has
            the reward ``r M(p)``, and its own mean and std in the group; the differences between maps then count as
            differences in reward, which is why the paper does not do it. Where a signed map is negative, the sample
            with the higher reward has the lower one.
        clip: bound on the absolute advantage after summing.
        options: of :func:`group_advantages`.

    Returns:
        ``(B,)`` float32, or ``(B, T, H, W)`` where the map is on the reward.

    Raises:
        ValueError: an unknown name, a ``clip`` that is not positive, advantages are to be summed and there are no
            weighted parts, or a map is to be applied and there is none.
    """
    if combine not in COMBINATIONS:
        raise ValueError(f'advantage.combine must be one of {COMBINATIONS}, got {combine!r}')
    if map_on not in MAPPED:
        raise ValueError(f'advantage.map_on must be one of {MAPPED}, got {map_on!r}')
    if clip is not None and not clip > 0:
        raise ValueError(f'advantage.clip must be positive or None, got {clip}')
    if map_on == 'reward':
        if maps is None:
            raise ValueError("advantage.map_on='reward' needs allocation maps: set a structurer")
        rewards, parts = _mapped(rewards, maps), {k: _mapped(v, maps) for k, v in (parts or {}).items()}
    if combine == 'rewards':
        return group_advantages(rewards, group, valid, clip=clip, **options)
    if not weights:
        raise ValueError(
            "advantage.combine='advantages' needs a reward that is a weighted sum of parts, such as WeightedReward or "
            'VideoAlignReward'
        )
    terms = [w * group_advantages((parts or {})[name], group, valid, **options) for name, w in weights.items()]
    total = torch.stack(terms).sum(0)
    return total if clip is None else total.clamp(-clip, clip)


def _mapped(rewards: Tensor, maps: Tensor) -> Tensor:
    return rewards[:, None, None, None] * maps.squeeze(1)


def group_advantages(
    rewards: Tensor,
    group: Tensor,
    valid: Tensor | None = None,
    *,
    scale: str = 'group',
    ddof: int = 0,
    eps: float = 1e-4,
    clip: float | None = None,
) -> Tensor:
    """``A_i = (r_i - mean_group) / (std + eps)`` over the valid samples of each group.

    Args:
        rewards: ``(B,)``, or ``(B, ...)`` for advantages at every place of the other axes by itself.
        group: ``(B,)`` int64, equal for samples of one prompt.
        valid: ``(B,)`` bool; an invalid sample takes no part in its group's statistics and gets advantage 0.
        scale: divide by the std of the ``'group'``, of all valid samples after centring by group (``'global'``), or
            by nothing (``'none'``).
        ddof: 0 for the population std, 1 for the sample std.
        eps: added to the std.
        clip: bound on the absolute advantage, None for no bound.

    Returns:
        The shape of ``rewards``, float32; 0 where invalid, and in groups with fewer than two valid samples, where
        nothing is relative.

    Raises:
        ValueError: unknown scale, a negative ``eps``, ids that are not int64, or shapes that differ.
    """
    if scale not in SCALES:
        raise ValueError(f'advantage.scale must be one of {SCALES}, got {scale!r}')
    if not eps >= 0:
        raise ValueError(f'advantage.eps must not be negative, got {eps}')
    if group.dtype != torch.int64:
        raise ValueError(f'group ids must be int64, got {group.dtype}: smaller types wrap around or collide')
    if rewards.ndim < 1 or group.ndim != 1 or len(rewards) != len(group):
        raise ValueError(f'rewards {tuple(rewards.shape)} and group {tuple(group.shape)} must be equally many')
    valid = torch.ones_like(group, dtype=torch.bool) if valid is None else valid
    valid = valid & rewards.isfinite().flatten(1).all(1) if rewards.ndim > 1 else valid & rewards.isfinite()
    weight = valid.reshape(-1, *[1] * (rewards.ndim - 1)).expand_as(rewards).double()
    values = torch.where(weight > 0, rewards.double(), 0.0)
    _, index = torch.unique(group, return_inverse=True)

    def total(x: Tensor) -> Tensor:
        groups = int(index.max()) + 1 if len(x) else 0
        return x.new_zeros(groups, *x.shape[1:]).index_add_(0, index, x)[index]

    count = total(weight)
    weight = weight * (count > 1)
    centred = (values - total(values * weight) / count.clamp(min=1)) * weight
    if scale == 'group':
        std = (total(centred.square()) / (count - ddof).clamp(min=1)).sqrt()
    elif scale == 'global':
        std = (centred.square().sum() / (weight.sum() - ddof).clamp(min=1)).sqrt()
    else:
        std = 1.0 - eps
    out = torch.where(centred == 0, 0.0, centred / (std + eps)).float()  # equal rewards with eps 0: 0, not 0 / 0
    return out if clip is None else out.clamp(-clip, clip)
