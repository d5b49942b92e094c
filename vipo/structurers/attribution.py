"""Where the reward looks: maps made from the reward model itself."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from vipo.registry import STRUCTURERS, ConfigError
from vipo.rewards.base import Reward, check_pixels
from vipo.structurers.base import Structurer, check_normalization, normalized
from vipo.structurers.functional import align_in_time, gaussian_blur, resize_to_grid

METHODS = ('gradient_input', 'gradient', 'similarity')


@STRUCTURERS.register_module()
class RewardAttributionStructurer(Structurer):
    """How much the reward depends on each position.

    ``'gradient_input'``: ``|sum_c g (x - baseline)|``, with the gradient g of the score with respect to the pixels x;
    ``'gradient'``: ``|g|``, summed over colours; both averaged over the pixels of a position (Simonyan et al. 2013,
    arXiv 1312.6034; Shrikumar et al. 2016, arXiv 1605.01713). ``'similarity'``: how much nearer to the prompt a patch
    of the reward's CLIP is than the farthest one.

    The reward is the run's own, shared and not loaded twice: :meth:`bind` receives it.

    Args:
        method: one of :data:`METHODS`.
        baseline: grey level that counts as "nothing there" in ``'gradient_input'``; None is middle grey, 0.5.
        sigma: of a Gaussian on the latent grid, in latent positions; gradients are grainy. 0 for none.
        batch_size: most samples in one pass through the reward.
        normalize: one of :data:`vipo.structurers.base.NORMALIZATIONS`, see :class:`PerceptualStructurer`.

    Raises:
        ValueError: an option is unknown, out of range, or of no effect with this method.
    """

    needs_prompts = True

    def __init__(
        self,
        method: str = 'gradient_input',
        baseline: float | None = None,
        sigma: float = 1.0,
        batch_size: int = 8,
        normalize: str = 'mean',
    ) -> None:
        if method not in METHODS:
            raise ValueError(f'structurer.method must be one of {METHODS}, got {method!r}')
        if sigma < 0 or batch_size < 1:
            raise ValueError(f'need sigma >= 0 and batch_size >= 1, got {sigma} and {batch_size}')
        if baseline is not None and method != 'gradient_input':
            raise ValueError(f"structurer.baseline has no effect with method={method!r}, only with 'gradient_input'")
        self.normalize = check_normalization(normalize)
        self.baseline = 0.5 if baseline is None else baseline
        self.method, self.sigma, self.batch_size = method, sigma, batch_size
        self.reward: Reward | None = None
        self.counts: Counter[str] = Counter()

    def bind(self, reward: Reward) -> None:
        """Take the reward to be explained.

        Raises:
            ConfigError: it has no gradient, or no CLIP where patches are to be compared.
        """
        kind = type(reward).__name__
        if self.method == 'similarity':
            if not hasattr(getattr(getattr(reward, 'towers', None), 'model', None), 'text_model'):
                raise ConfigError(
                    f"structurer.method='similarity' needs a reward that is a CLIP with its text tower, and {kind} is "
                    "none; method='gradient_input' works for every differentiable reward"
                )
        elif not reward.differentiable:
            raise ConfigError(f'structurer.method={self.method!r} needs a reward with a gradient, and {kind} has none')
        self.reward = reward

    def __call__(
        self,
        pixels: Tensor,
        grid: tuple[int, int, int],
        prompts: Sequence[str] | None = None,
        metadata: Sequence[dict[str, Any]] | None = None,
    ) -> Tensor:
        check_pixels(pixels)
        if self.reward is None:
            raise ConfigError('RewardAttributionStructurer has no reward yet; outside a run, call bind(reward)')
        if prompts is None or len(prompts) != len(pixels):
            raise ValueError(f'{len(pixels)} samples but {0 if prompts is None else len(prompts)} prompts')
        pieces = [slice(i, i + self.batch_size) for i in range(0, len(pixels), self.batch_size)]
        parts = [self._raw(pixels[p], prompts[p], None if metadata is None else metadata[p]) for p in pieces]
        maps = torch.cat(parts).float()
        broken = ~maps.isfinite().all(-1).all(-1).all(-1)
        silent = ~broken & (maps.amax((1, 2, 3)) <= 0)
        self.counts.update(frames=len(maps), constant=int(silent.sum()), broken=int(broken.sum()))
        maps = maps.masked_fill(broken[:, None, None, None], 0.0)
        maps = gaussian_blur(self._pooled(maps, grid), self.sigma)
        if maps.shape[1] == 1 and grid[0] > 1:  # the reward saw one frame
            maps = maps.expand(-1, grid[0], -1, -1)
        return normalized(align_in_time(maps, grid[0]).to(pixels.device)[:, None], self.normalize)

    def _pooled(self, maps: Tensor, grid: tuple[int, int, int]) -> Tensor:
        """Mean over the pixels of each latent position; patches of a CLIP are interpolated instead."""
        if self.method == 'similarity':
            return resize_to_grid(maps, *grid[1:])
        return F.adaptive_avg_pool2d(maps, grid[1:])

    def _raw(self, pixels: Tensor, prompts: Sequence[str], metadata: Sequence[dict[str, Any]] | None) -> Tensor:
        """``(N, F, h, w)``, non-negative."""
        if self.method == 'similarity':
            return self._similarity(pixels, prompts)
        with torch.enable_grad():
            x = pixels.detach().float().requires_grad_()
            scores = self.reward.differentiable_scores(x, list(prompts), metadata)
            (gradient,) = torch.autograd.grad(scores.sum(), x)
        if self.method == 'gradient':
            return gradient.abs().sum(1)
        return (gradient * (x.detach() - self.baseline)).sum(1).abs()

    @torch.no_grad()
    def _similarity(self, pixels: Tensor, prompts: Sequence[str]) -> Tensor:
        frames = pixels.shape[2]
        stills = pixels.transpose(1, 2).flatten(0, 1)
        repeated = [p for p in prompts for _ in range(frames)]
        maps = self.reward.towers.patch_similarity(stills, repeated)
        maps = maps.unflatten(0, (-1, frames))
        return maps - maps.amin((1, 2, 3), keepdim=True)
