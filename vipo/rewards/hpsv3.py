"""Human Preference Score v3: Qwen2-VL-7B with a head for mean and spread."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vipo.assets import resolve
from vipo.registry import REWARDS
from vipo.registry.build import torch_dtype
from vipo.rewards.base import check_batch_size
from vipo.rewards.checkpoints import check_vocabulary, load_strictly, locate_file, published_bytes, read_tensors
from vipo.rewards.picture import PictureReward
from vipo.rewards.qwen2_vl import Qwen2VLScorer, modern_names, read_config, round_frequencies
from vipo.rewards.qwen2_vl_frames import FACTOR
from vipo.rewards.templates import fill, read_template

_HUB, _FILE = 'MizzenAI/HPSv3', 'HPSv3.safetensors'
_TOKENIZER = 'Qwen/Qwen2-VL-7B-Instruct'
_TEMPLATE_SHA256 = 'f6ee57479d4e9eee76b49c00dc962e1e696a5a2b3cc32cebd9b1fa76fe27502c'
_TEMPLATE_ORIGIN = 'hpsv3/dataset/data_collator_qwen.py from https://github.com/MizzenAI/HPSv3'
#: Of Qwen2-VL-7B without the head that predicts words.
_PARAMETERS = 7_745_000_000
#: The area of every picture on which it was trained.
_PIXELS = 256 * 28 * 28
_TOKEN = '<|Reward|>'
_EMBEDDING = 'model.embed_tokens.weight'


@REWARDS.register_module()
class HPSv3Reward(PictureReward):
    """The mean of the preference that HPSv3 predicts (arXiv 2508.03789), about 0 to 12.

    Args:
        checkpoint: instead of the hub, ``HPSv3.safetensors`` or a folder that holds it.
        tokenizer: Qwen2-VL's, a folder or hub id; the special token is added where it lacks.
        template: the file with the instruction text, see :func:`~vipo.rewards.templates.read_template`.
        template_sha256: of the text; None takes a text of your own.
        positions: ``'1d'`` as the checkpoint was trained, or ``'3d'``, see
            :class:`~vipo.rewards.qwen2_vl.Qwen2VLScorer`.
        pixels: area to which every picture is resized, rounded to whole tokens of 28 x 28. The default is that of the
            training; less is quicker and another score.
        batch_size: most pictures in one forward pass.
        device: of the weights, which then stay there; None follows the run.
        dtype: of the weights; the head works in float32.

    Raises:
        ValueError: no template, an area below one token, or a checkpoint that does not fit.
    """

    differentiable = True

    def __init__(
        self,
        checkpoint: str | None = None,
        tokenizer: str = _TOKENIZER,
        template: str | None = None,
        template_sha256: str | None = _TEMPLATE_SHA256,
        positions: str = '1d',
        pixels: int = _PIXELS,
        batch_size: int = 8,
        device: str | None = None,
        dtype: str = 'bfloat16',
    ) -> None:
        if pixels < FACTOR**2:
            raise ValueError(f'reward.pixels must be at least {FACTOR**2}, one token, got {pixels}')
        self.template = read_template(template, template_sha256, _TEMPLATE_ORIGIN)
        self.batch_size = check_batch_size(batch_size)
        path = locate_file(checkpoint, _HUB, _FILE, 'reward.checkpoint')
        self.scorer = load_scorer(path, tokenizer, torch_dtype(dtype), positions, pixels)
        self.place(device)

    @classmethod
    def hub_models(cls, options: dict[str, Any]) -> dict[str, str]:
        """What a config with these options loads, see :mod:`vipo.engine.hub`."""
        checkpoint = {} if options.get('checkpoint') else {'checkpoint': _HUB}
        return {**checkpoint, 'tokenizer': options.get('tokenizer', _TOKENIZER)}

    @classmethod
    def hub_files(cls, options: dict[str, Any]) -> dict[str, list[str]]:
        """The files of these that are loaded, see :mod:`vipo.engine.hub`."""
        return {'checkpoint': [_FILE]}

    @classmethod
    def check_files(cls, options: dict[str, Any]) -> None:
        """Look for the instruction text before anything is loaded, see :mod:`vipo.engine.hub`."""
        read_template(options.get('template'), options.get('template_sha256', _TEMPLATE_SHA256), _TEMPLATE_ORIGIN)

    @classmethod
    def model_bytes(cls, options: dict[str, Any]) -> int | None:
        """Bytes of the weights for a plan, see :mod:`vipo.engine.plan`; None where the model is not known here."""
        return published_bytes(options, _PARAMETERS, 'bfloat16')

    @classmethod
    def rehearsal(cls, options: dict[str, Any], folder: Path) -> dict[str, Any]:
        """What changes in these options for a rehearsal, see :mod:`vipo.engine.rehearsal`."""
        from vipo.rewards.qwen2_vl_twin import TWIN_PIXELS, save_hpsv3_twin, twin_options

        place = save_hpsv3_twin(folder / 'hpsv3')
        return {**twin_options(place), 'tokenizer': str(place / 'tokenizer'), 'pixels': TWIN_PIXELS}

    def move(self, device: torch.device | str) -> None:
        self.scorer.to(device)

    def score_pictures(self, pixels: Tensor, prompts: Sequence[str]) -> Tensor:
        return self.mean_and_spread(pixels, prompts)[:, 0]

    def mean_and_spread(self, pixels: Tensor, prompts: Sequence[str]) -> Tensor:
        """Both outputs ``(N, 2)`` of the head for pictures ``(N, 3, Y, X)``: the mean, and what spread follows from."""
        return self.scorer(pixels[:, None], [fill(self.template, p) for p in prompts], 'image')[:, 0]


def make_head(width: int) -> nn.Sequential:
    """The published head; dropout does nothing here and keeps the numbers of the layers."""
    hidden = (1024, 16)
    return nn.Sequential(
        nn.Linear(width, hidden[0]),
        nn.ReLU(),
        nn.Dropout(0.05),
        nn.Linear(hidden[0], hidden[1]),
        nn.ReLU(),
        nn.Linear(hidden[1], 2),
    )


def load_scorer(
    path: Path, tokenizer: str, dtype: torch.dtype, positions: str = '1d', pixels: int = _PIXELS
) -> Qwen2VLScorer:
    """Load the published file with every key accounted for.

    Raises:
        ValueError: the file is damaged, or keys or shapes are not the model's.
    """
    from transformers import Qwen2Tokenizer, Qwen2VLModel

    words = Qwen2Tokenizer.from_pretrained(resolve(tokenizer))
    if _TOKEN not in words.get_vocab():
        words.add_special_tokens({'additional_special_tokens': [_TOKEN]})
    state = read_tensors(path)
    state.pop('lm_head.weight', None)  # predicts words, which nobody asks for
    head = {k.removeprefix('rm_head.'): state.pop(k).float() for k in [k for k in state if k.startswith('rm_head.')]}
    config = read_config(path.parent, '7b', len(words))
    # the published embedding has a row for each token, the special one included
    check_vocabulary(words, len(state.get(_EMBEDDING, words)), tokenizer)
    model = load_strictly(lambda: Qwen2VLModel(config), modern_names(state), path)
    model = round_frequencies(model).to(dtype)
    readout = load_strictly(lambda: make_head(config.text_config.hidden_size), head, f'rm_head of {path}')
    return Qwen2VLScorer(model, readout, words, [_TOKEN], pixels, pixels, positions)
