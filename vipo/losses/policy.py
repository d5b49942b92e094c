"""The registered policy loss: options around :mod:`vipo.losses.functional`."""

from __future__ import annotations

import torch
from torch import Tensor

from vipo.losses.functional import MODES, clipped_policy_loss, ratio_statistics, scalar_clip_range
from vipo.losses.kl import KL_FORMS, KLInput
from vipo.registry import LOSSES


@LOSSES.register_module()
class PolicyLoss:
    """Clipped policy loss, per position (ViPO) or scalar (GRPO), with an optional KL to the reference policy.

    Args:
        mode: ``'position'`` or ``'scalar'``.
        clip_range: of the ratio of one position.
        clip_exponent: with a map M, the range of a position is ``clip_range * |M(p)| ** clip_exponent``: 1 lets
            positions that matter move farther, -1 less far, 0 all alike. |M| is kept within [0.1, 10] for this.
        scalar_clip_range: of the ratio in scalar mode; None divides ``clip_range`` by the square root of the number
            of positions, so that it binds about as often.
        kl_weight: 0 leaves the reference policy out, and its forward passes with it.
        kl_form: one of :data:`vipo.losses.kl.KL_FORMS`.

    Raises:
        ValueError: an option is unknown or out of range.
    """

    def __init__(
        self,
        mode: str = 'position',
        clip_range: float = 0.2,
        clip_exponent: float = 0.0,
        scalar_clip_range: float | None = None,
        kl_weight: float = 0.0,
        kl_form: str = 'gaussian',
    ) -> None:
        if mode not in MODES:
            raise ValueError(f'loss.mode must be one of {MODES}, got {mode!r}')
        if kl_form not in KL_FORMS:
            raise ValueError(f'loss.kl_form must be one of {tuple(KL_FORMS)}, got {kl_form!r}')
        for name, value in (('clip_range', clip_range), ('scalar_clip_range', scalar_clip_range)):
            if value is not None and not value > 0:
                raise ValueError(f'loss.{name} must be positive, got {value}')
        if scalar_clip_range is not None and mode != 'scalar':
            raise ValueError("loss.scalar_clip_range is that of loss.mode='scalar' and has no effect here")
        if kl_weight < 0:
            raise ValueError(f'loss.kl_weight must not be negative, got {kl_weight}')
        self.mode = mode
        if clip_exponent and mode == 'scalar':
            raise ValueError("loss.clip_exponent needs a ratio per position: loss.mode='position'")
        self.clip_range = clip_range
        self.clip_exponent = clip_exponent
        self.scalar_clip_range = scalar_clip_range
        self.kl_weight = kl_weight
        self.kl_form = kl_form

    @property
    def needs_reference(self) -> bool:
        """Whether :meth:`__call__` wants a ``kl_input``."""
        return self.kl_weight > 0

    def __call__(
        self,
        new_log_prob: Tensor,
        old_log_prob: Tensor,
        advantage: Tensor,
        allocation: Tensor | None = None,
        kl_input: KLInput | None = None,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss of a batch of transitions of one denoising step.

        Args:
            new_log_prob, old_log_prob: ``(B, T, H, W)``.
            advantage: ``(B,)``, or ``(B, T, H, W)`` where every position has its own.
            allocation: the map ``(B, 1, T, H, W)``, None for ones.
            kl_input: the transition under both policies; needed where ``kl_weight > 0``.

        Returns:
            The scalar loss, averaged over samples, and detached values to log.
        """
        _check_shapes(new_log_prob, old_log_prob, advantage, allocation)
        clip = self.clip_range
        if self.mode == 'scalar':
            positions = old_log_prob[0].numel()
            clip = self.scalar_clip_range or scalar_clip_range(self.clip_range, positions)
        elif self.clip_exponent and allocation is not None:
            clip = self.clip_range * allocation.squeeze(1).abs().clamp(0.1, 10) ** self.clip_exponent
        per_sample, log_ratio, signed = clipped_policy_loss(
            new_log_prob, old_log_prob, advantage, allocation, clip_range=clip, mode=self.mode
        )
        loss = per_sample.mean()
        seen = allocation if self.mode == 'position' else None
        logs = {'policy_loss': loss.detach(), **ratio_statistics(log_ratio, signed, clip, seen)}
        if self.needs_reference:
            if kl_input is None:
                raise ValueError('loss.kl_weight is positive, so kl_input must be given')
            divergence = KL_FORMS[self.kl_form](kl_input).mean()
            loss = loss + self.kl_weight * divergence
            logs['kl'] = divergence.detach()
        return loss, logs


def _check_shapes(new: Tensor, old: Tensor, advantage: Tensor, allocation: Tensor | None) -> None:
    batch, *grid = old.shape
    wanted = {
        'new_log_prob': (new, (batch, *grid)),
        'advantage': (advantage, (batch,) if advantage.ndim == 1 else (batch, *grid)),
        'allocation': (allocation, (batch, 1, *grid)),
    }
    for name, (tensor, shape) in wanted.items():
        if tensor is not None and tuple(tensor.shape) != shape:
            raise ValueError(f'{name} has shape {tuple(tensor.shape)}, expected {shape}')
    if old.ndim != 4:
        raise ValueError(f'log-probs must be (B, T, H, W), got {tuple(old.shape)}')
    assert not torch.is_grad_enabled() or not old.requires_grad
