"""Where a clip moves."""

from __future__ import annotations

from torch import Tensor

from vipo.registry import ALLOCATORS
from vipo.structurers.allocators.base import Allocator
from vipo.structurers.functional import gaussian_blur, minmax


@ALLOCATORS.register_module()
class MotionAllocator(Allocator):
    """How much the features of a position change from frame to frame.

    The energy of a frame is ``|f_t - f_(t-1)|^2 + |f_(t+1) - f_t|^2``, halved where both exist, so that nothing is
    delayed. It is scaled to [0, 1] over the whole clip: a frame in which little moves gets little. A still clip has no
    preference anywhere; pictures are refused. Changes of less than a thousandth of what feature vectors usually
    differ from their mean are rounding.

    Args:
        sigma: of a Gaussian on the patch grid, in patches; 0 for none.

    Raises:
        ValueError: sigma is negative.
    """

    over_clip = True
    needs_clips = True

    def __init__(self, sigma: float = 1.0) -> None:
        if sigma < 0:
            raise ValueError(f'allocator.sigma must not be negative, got {sigma}')
        self.sigma = sigma

    def __call__(self, features: Tensor, cls_attention: Tensor | None = None) -> Tensor:
        energy = features.new_zeros(features[:, :, 0].shape)
        if features.shape[1] > 1:
            change = (features[:, 1:] - features[:, :-1]).square().sum(2)
            usual = (features - features.mean((1, 3, 4), keepdim=True)).square().sum(2).mean((1, 2, 3), keepdim=True)
            change = change * (change > 1e-6 * usual)
            energy[:, 1:] += change
            energy[:, :-1] += change
            energy[:, 1:-1] /= 2
        return minmax(gaussian_blur(energy, self.sigma), (1, 2, 3))
