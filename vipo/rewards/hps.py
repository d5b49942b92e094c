"""Human Preference Score v2 and v2.1, and the embedded ``vipo://tiny-hps``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vipo.assets import resolve
from vipo.registry import REWARDS
from vipo.registry.build import torch_dtype
from vipo.rewards.base import Reward, RewardOutput, check_batch
from vipo.rewards.open_clip_layout import load_clip
from vipo.rewards.preprocess import OPENAI_MEAN, OPENAI_STD, normalize, resize_center_crop

_HUB = 'xswu/HPSv2'
#: Of CLIP ViT-H/14.
_PARAMETERS = 986_000_000
_FILES = {'v2.0': 'HPS_v2_compressed.pt', 'v2.1': 'HPS_v2.1_compressed.pt'}


@REWARDS.register_module()
class HPSReward(Reward):
    """Cosine similarity of picture and prompt under a CLIP that was tuned on human preferences.

    The score is ``cos(image, text)`` without a logit scale, as published (Wu et al. 2023, arXiv 2306.09341); about 0.2
    to 0.35 for the public checkpoints.

    Args:
        version: ``'v2.0'`` or ``'v2.1'``: which file of the hub repository to take.
        checkpoint: instead of the hub, a file or a folder in open_clip's layout, or a ``vipo://`` asset.
        antialias: of the bicubic resize. Published numbers depend on the torchvision of their time; True is what
            versions since 0.17 do.
        batch_size: most pictures in one forward pass.
        device, dtype: of the weights.

    Raises:
        ValueError: unknown version, or no single checkpoint file where one was named.
    """

    def __init__(
        self,
        version: str = 'v2.1',
        checkpoint: str | None = None,
        antialias: bool = True,
        batch_size: int = 64,
        device: str = 'cpu',
        dtype: str = 'float32',
    ) -> None:
        if version not in _FILES:
            raise ValueError(f'reward.version must be one of {tuple(_FILES)}, got {version!r}')
        path = self._locate(version, checkpoint)
        self.model = load_clip(path, torch_dtype(dtype)).to(device)
        self.tokenize = _tokenizer(path.parent, self.model.config.text_config.max_position_embeddings)
        self.side = self.model.config.vision_config.image_size
        self.antialias = antialias
        self.batch_size = batch_size

    @classmethod
    def hub_models(cls, options: dict[str, Any]) -> dict[str, str]:
        """What a config with these options loads, see :mod:`vipo.engine.hub`."""
        return {'checkpoint': _HUB} if options.get('checkpoint') is None else {}

    @classmethod
    def model_bytes(cls, options: dict[str, Any]) -> int | None:
        """Bytes of the weights for a plan, see :mod:`vipo.engine.plan`; None where the model is not known here."""
        width = torch_dtype(options.get('dtype', 'float32')).itemsize
        return None if options.get('checkpoint') else _PARAMETERS * width

    @classmethod
    def rehearsal(cls, options: dict[str, Any], folder: Path) -> dict[str, Any]:
        """What changes in these options for a rehearsal, see :mod:`vipo.engine.rehearsal`."""
        return {'checkpoint': 'vipo://tiny-hps', 'device': 'cpu'}

    @staticmethod
    def _locate(version: str, checkpoint: str | None) -> Path:
        if checkpoint is None:
            from huggingface_hub import hf_hub_download

            return Path(hf_hub_download(_HUB, _FILES[version]))
        path = Path(resolve(checkpoint))
        if path.is_dir():
            found = sorted([*path.glob('*.safetensors'), *path.glob('*.pt')])
            if len(found) != 1:
                raise ValueError(
                    f'reward.checkpoint: {path} must hold one .safetensors or .pt file, found {len(found)}'
                )
            return found[0]
        if not path.exists():
            raise ValueError(f'reward.checkpoint: {checkpoint!r} does not exist')
        return path

    def to(self, device: torch.device | str) -> HPSReward:
        self.model.to(device)
        return self

    def __call__(
        self, pixels: Tensor, prompts: Sequence[str], metadata: Sequence[dict[str, Any]] | None = None
    ) -> RewardOutput:
        check_batch(pixels, prompts)
        with torch.no_grad():
            scores = [
                self.similarity(pixels[i : i + self.batch_size, :, 0], prompts[i : i + self.batch_size])
                for i in range(0, len(pixels), self.batch_size)
            ]
        return RewardOutput(torch.cat(scores))

    def similarity(self, pixels: Tensor, prompts: Sequence[str]) -> Tensor:
        """Scores ``(N,)`` of images ``(N, 3, Y, X)``; differentiable with respect to the pixels."""
        weight = self.model.logit_scale
        images = resize_center_crop(pixels.to(weight.device, torch.float32), self.side, antialias=self.antialias)
        images = normalize(images, OPENAI_MEAN, OPENAI_STD).to(weight.dtype)
        ids = self.tokenize(prompts).to(weight.device)
        output = self.model(input_ids=ids, pixel_values=images)
        return (output.image_embeds.float() * output.text_embeds.float()).sum(-1)


def _tokenizer(folder: Path, context: int) -> Callable[[Sequence[str]], Tensor]:
    """The tokenizer saved beside the weights, or else open_clip's own, which comes with that package."""
    if (folder / 'tokenizer.json').exists():
        from transformers import CLIPTokenizer

        tokenizer = CLIPTokenizer.from_pretrained(folder)

        def saved(prompts: Sequence[str]) -> Tensor:
            return tokenizer(
                list(prompts), padding='max_length', truncation=True, max_length=context, return_tensors='pt'
            ).input_ids

        return saved
    import open_clip

    tokenize = open_clip.get_tokenizer('ViT-H-14', context_length=context)
    return lambda prompts: tokenize(list(prompts))
