"""Policy losses and divergences from the reference policy."""

from vipo.losses.functional import clipped_policy_loss, ratio_statistics, scalar_clip_range
from vipo.losses.kl import KL_FORMS, KLInput
from vipo.losses.policy import PolicyLoss

__all__ = ['KL_FORMS', 'KLInput', 'PolicyLoss', 'clipped_policy_loss', 'ratio_statistics', 'scalar_clip_range']
