"""The policy loss as a pure function, and what is logged beside it."""

from __future__ import annotations

import math

import torch
from torch import Tensor

MODES = ('position', 'scalar')


def clipped_policy_loss(
    new_log_prob: Tensor,
    old_log_prob: Tensor,
    advantage: Tensor,
    allocation: Tensor | None = None,
    *,
    clip_range: float | Tensor,
    mode: str = 'position',
) -> tuple[Tensor, Tensor, Tensor]:
    """PPO's clipped objective (Schulman et al. 2017, arXiv 1707.06347, eq. 7) for every position.

    ``mode='position'`` is ViPO (arXiv 2511.18719): with ``rho(p) = exp(l_new(p) - l_old(p))`` and
    ``A^p = M(p) A`` the loss is ``-mean_p min(rho A^p, clip(rho, 1 - eps, 1 + eps) A^p)``.
    ``mode='scalar'`` is GRPO: log-probs are averaged over all positions before the ratio is taken. A map then only
    scales a sample's loss by its mean: no spatial credit is left (the named test ``test_scalar_mode_collapses``).

    Args:
        new_log_prob, old_log_prob: ``(B, T, H, W)``.
        advantage: ``(B,)``, or ``(B, T, H, W)`` where every position has its own.
        allocation: ``(B, 1, T, H, W)``, the map M; None is a map of ones.
        clip_range: eps above, in the unit of the mode's log-ratio; a tensor ``(B, T, H, W)`` for one per position.

    Returns:
        The loss of each sample, ``(B,)``; its detached log-ratio, ``(B, T, H, W)`` or ``(B, 1, 1, 1)``; and ``A^p`` in
        the shape of that.

    Raises:
        ValueError: unknown mode, or an advantage per position in scalar mode.
    """
    if mode not in MODES:
        raise ValueError(f'mode must be one of {MODES}, got {mode!r}')
    if mode == 'scalar' and advantage.ndim > 1:
        raise ValueError("mode='scalar' has one ratio for all positions and takes one advantage per sample")
    log_ratio = new_log_prob - old_log_prob
    weight = torch.ones_like(old_log_prob) if allocation is None else allocation.squeeze(1)
    if mode == 'scalar':
        log_ratio = log_ratio.mean(dim=(1, 2, 3), keepdim=True)
        weight = weight.mean(dim=(1, 2, 3), keepdim=True)
    ratio = log_ratio.exp()
    signed = weight * (advantage[:, None, None, None] if advantage.ndim == 1 else advantage)
    surrogate = torch.minimum(ratio * signed, ratio.clamp(1 - clip_range, 1 + clip_range) * signed)
    return -surrogate.mean(dim=(1, 2, 3)), log_ratio.detach(), signed


def scalar_clip_range(clip_range: float, positions: int) -> float:
    """The clip range of scalar mode that binds about as often as ``clip_range`` does per position.

    Averaging N log-ratios of independent positions shrinks their spread by ``sqrt(N)``, and a clip range has no
    meaning apart from that spread.
    """
    return clip_range / math.sqrt(positions)


@torch.no_grad()
def ratio_statistics(
    log_ratio: Tensor, signed: Tensor, clip_range: float | Tensor, allocation: Tensor | None = None
) -> dict[str, Tensor]:
    """What to watch: ``clipped_fraction`` (of the terms whose gradient the clip removes), ``ratio_deviation``
    (max |ratio - 1|) and ``approx_kl`` (Schulman's estimator ``(ratio - 1) - log ratio``).

    With a map, ``clipped_inside`` and ``clipped_outside`` are that fraction where the map is above its sample's mean
    and elsewhere, as means over samples; of a constant map both are the fraction of the whole.

    Args:
        log_ratio, signed: as :func:`clipped_policy_loss` returns them.
        clip_range: as it was given there.
        allocation: the map ``(B, 1, T, H, W)``; none in scalar mode.
    """
    ratio = log_ratio.exp()
    clipped = (((ratio > 1 + clip_range) & (signed > 0)) | ((ratio < 1 - clip_range) & (signed < 0))).float()
    logs = {
        'clipped_fraction': clipped.mean(),
        'ratio_deviation': (ratio - 1).abs().amax(),
        'approx_kl': (ratio - 1 - log_ratio).mean(),
    }
    if allocation is not None and allocation.squeeze(1).shape == clipped.shape:
        maps = allocation.squeeze(1)
        inside = (maps > maps.mean((1, 2, 3), keepdim=True)).float()
        whole = clipped.mean((1, 2, 3))
        for name, place in (('inside', inside), ('outside', 1 - inside)):
            count = place.sum((1, 2, 3))
            part = (clipped * place).sum((1, 2, 3)) / count.clamp(min=1)
            logs[f'clipped_{name}'] = torch.where(count > 0, part, whole).mean()
    return logs
