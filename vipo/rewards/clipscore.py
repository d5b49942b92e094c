"""CLIPScore, in the variants that go by that name."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor

from vipo.registry import REWARDS
from vipo.registry.build import torch_dtype
from vipo.rewards.base import check_batch_size
from vipo.rewards.clip_reward import ClipReward
from vipo.rewards.clip_towers import ClipTowers

#: Variant -> score of a cosine and the model's logit scale.
VARIANTS: dict[str, Callable[[Tensor, float], Tensor]] = {
    'cosine': lambda cosine, _: cosine,
    'torchmetrics': lambda cosine, _: 100 * cosine.clamp(min=0),
    'paper': lambda cosine, _: 2.5 * cosine.clamp(min=0),
    'logit': lambda cosine, logit_scale: logit_scale * cosine / 30,
}


@REWARDS.register_module()
class CLIPScoreReward(ClipReward):
    """Similarity of picture and prompt under a CLIP as it was published, tuned on nobody's preferences.

    Args:
        variant: ``'cosine'`` is ``cos(image, text)``; ``'torchmetrics'`` is ``100 max(cos, 0)``; ``'paper'`` is
            ``2.5 max(cos, 0)`` (Hessel et al. 2021, arXiv 2104.08718); ``'logit'`` is ``exp(logit_scale) cos / 30``,
            what published trainers use. Where the cosine is negative the middle two have no gradient.
        pretrained: hub id or local folder in transformers' layout, with its tokenizer. The paper's numbers are of
            ``'openai/clip-vit-base-patch32'``.
        template: text around each prompt, with ``{}`` in its place; the paper's is ``'A photo depicts {}'``. None
            leaves prompts as they are.
        batch_size: most pictures in one forward pass.
        device: of the weights, which then stay there; None follows the run.
        dtype: of the weights.

    Raises:
        ValueError: the checkpoint does not fit its config, the variant is unknown, or the template has no single
            ``{}``.
    """

    def __init__(
        self,
        variant: str = 'cosine',
        pretrained: str = 'openai/clip-vit-large-patch14',
        template: str | None = None,
        batch_size: int = 64,
        device: str | None = None,
        dtype: str = 'float32',
    ) -> None:
        if variant not in VARIANTS:
            raise ValueError(f'reward.variant must be one of {tuple(VARIANTS)}, got {variant!r}')
        if template is not None and template.count('{}') != 1:
            raise ValueError(f'reward.template must hold {{}} once, where the prompt goes, got {template!r}')
        self.towers = ClipTowers.from_pretrained(pretrained, torch_dtype(dtype))
        self.place(device)
        self.variant = variant
        self.template = template
        self.batch_size = check_batch_size(batch_size)

    def score_pictures(self, pixels: Tensor, prompts: Sequence[str]) -> Tensor:
        if self.template is not None:
            prompts = [self.template.replace('{}', prompt) for prompt in prompts]
        return VARIANTS[self.variant](self.towers.cosine(pixels, prompts), self.towers.logit_scale)
