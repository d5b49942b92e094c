"""VideoAlign (VideoReward): visual quality, motion quality and text alignment of clips."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vipo.assets import resolve
from vipo.registry import REWARDS
from vipo.registry.build import closest, torch_dtype
from vipo.rewards.base import Reward, RewardOutput, check_batch, check_batch_size
from vipo.rewards.checkpoints import load_strictly, published_bytes, read_tensors
from vipo.rewards.qwen2_vl import Qwen2VLScorer, fold_lora, modern_names, read_config, round_frequencies
from vipo.rewards.qwen2_vl_frames import frame_indices
from vipo.rewards.templates import fill, read_template

_HUB, _REVISION = 'KlingTeam/VideoReward', 'b8e421fe21aec3dde5f61fdd1dc44e1d603b9727'
#: Of the published checkpoint.
_STEP = 'checkpoint-11352'
_TEMPLATE_SHA256 = 'fdb6309bac618dd0c8b1b589d3a0970a974f7856eecbb355a190b2dce54af700'
_TEMPLATE_ORIGIN = 'prompt_template.py from https://github.com/KlingAIResearch/VideoAlign'
#: Of Qwen2-VL-2B with its embedding once, as the reward uses it.
_PARAMETERS = 2_208_561_664
#: Least area of a frame, of qwen_vl_utils' reader of clips.
_FEWEST = 128 * 28 * 28
_PREFIX = 'base_model.model.'
#: What is scored, in the order of the special tokens.
DIMENSIONS = ('VQ', 'MQ', 'TA')


@REWARDS.register_module()
class VideoAlignReward(Reward):
    """Three scores of a clip by Qwen2-VL-2B, each in standard deviations of the training data (arXiv 2501.13918).

    The score is the weighted sum of the dimensions in ``weights``; each is logged as a part. A clip is looked at twice
    a second, so the rate that it is said to have decides how many frames count.

    Args:
        weights: dimension -> weight, of ``VQ`` (visual quality), ``MQ`` (motion quality), ``TA`` (text alignment). The
            paper's is VQ + MQ.
        checkpoint: instead of the published one, a folder or hub repository in its layout: ``model_config.json``, and
            in ``checkpoint-*/`` the file ``model.pth`` and the folder ``tokenizer/``.
        template: the file with the instruction text, see :func:`~vipo.rewards.templates.read_template`.
        template_sha256: of the text; None takes a text of your own.
        fps: frames a second of a clip; a record's ``metadata['fps']`` goes before it. DanceGRPO and the paper say 8.
        normalized: subtract the mean and divide by the std of the checkpoint's ``inference_config``; False for raw
            outputs.
        positions: ``'1d'`` as the checkpoint was trained, or ``'3d'``, see
            :class:`~vipo.rewards.qwen2_vl.Qwen2VLScorer`.
        batch_size: most clips in one forward pass.
        device: of the weights, which then stay there; None follows the run.
        dtype: of the weights; the head works in float32.

    Raises:
        ValueError: an unknown dimension, no template, or a checkpoint that does not fit.
    """

    differentiable = True

    def __init__(
        self,
        weights: Mapping[str, float] | None = None,
        checkpoint: str | None = None,
        template: str | None = None,
        template_sha256: str | None = _TEMPLATE_SHA256,
        fps: float = 8.0,
        normalized: bool = True,
        positions: str = '1d',
        batch_size: int = 4,
        device: str | None = None,
        dtype: str = 'bfloat16',
    ) -> None:
        self.weights: Mapping[str, float] = dict({'VQ': 1.0, 'MQ': 1.0} if weights is None else weights)
        for name in self.weights:
            if name not in DIMENSIONS:
                raise ValueError(f'reward.weights: {name!r} is none of {DIMENSIONS}.{closest(name, DIMENSIONS)}')
        if not any(self.weights.values()):
            raise ValueError('reward.weights: every weight is 0, so there is nothing to learn')
        frame_indices(53, fps)  # refuses a rate that is not positive
        self.template = read_template(template, template_sha256, _TEMPLATE_ORIGIN)
        self.fps, self.normalized = fps, normalized
        self.batch_size = check_batch_size(batch_size)
        folder = _locate(checkpoint)
        described = _describe(folder)
        self.moments = [_moments(described, name) for name in DIMENSIONS] if normalized else [(0.0, 1.0)] * 3
        self.scorer = load_scorer(folder, described, torch_dtype(dtype), positions)
        self.place(device)
        self.sample_fps = described['data_config']['fps']

    @classmethod
    def hub_models(cls, options: dict[str, Any]) -> dict[str, str]:
        """What a config with these options loads, see :mod:`vipo.engine.hub`."""
        return {'checkpoint': options.get('checkpoint') or _HUB}

    @classmethod
    def hub_files(cls, options: dict[str, Any]) -> dict[str, list[str]]:
        """The files of these that are loaded, see :mod:`vipo.engine.hub`."""
        published = ['model_config.json', f'{_STEP}/model.pth', f'{_STEP}/tokenizer/tokenizer.json']
        return {} if options.get('checkpoint') else {'checkpoint': published}

    @classmethod
    def hub_revisions(cls, options: dict[str, Any]) -> dict[str, str]:
        """The commit from which they are taken, see :mod:`vipo.engine.hub`."""
        return {} if options.get('checkpoint') else {'checkpoint': _REVISION}

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
        from vipo.rewards.qwen2_vl_twin import save_videoalign_twin, twin_options

        return twin_options(save_videoalign_twin(folder / 'videoalign'))

    def move(self, device: torch.device | str) -> None:
        self.scorer.to(device)

    def __call__(
        self, pixels: Tensor, prompts: Sequence[str], metadata: Sequence[dict[str, Any]] | None = None
    ) -> RewardOutput:
        with torch.no_grad():
            scores = self._by_dimension(pixels, prompts, metadata).cpu()
        parts = {name: scores[:, i] for i, name in enumerate(DIMENSIONS)}
        total = sum(weight * parts[name] for name, weight in self.weights.items())
        return RewardOutput(total, parts=parts)

    def differentiable_scores(
        self, pixels: Tensor, prompts: Sequence[str], metadata: Sequence[dict[str, Any]] | None = None
    ) -> Tensor:
        scores = self._by_dimension(pixels, prompts, metadata)
        return scores @ scores.new_tensor([self.weights.get(name, 0.0) for name in DIMENSIONS])

    def _by_dimension(
        self, pixels: Tensor, prompts: Sequence[str], metadata: Sequence[dict[str, Any]] | None
    ) -> Tensor:
        """Scores ``(B, 3)``, clips of the same rate in batches together; differentiable."""
        check_batch(pixels, prompts)
        rates = [float((record or {}).get('fps', self.fps)) for record in metadata or [{}] * len(prompts)]
        order, scores = [], []
        for rate in dict.fromkeys(rates):
            alike = [i for i, r in enumerate(rates) if r == rate]
            clips, texts = (pixels if len(alike) == len(pixels) else pixels[alike]), [prompts[i] for i in alike]
            for start in range(0, len(alike), self.batch_size):
                piece = slice(start, start + self.batch_size)
                scores.append(self.score_clips(clips[piece], texts[piece], rate))
            order += alike
        return torch.cat(scores)[torch.tensor(order).argsort()]

    def score_clips(self, pixels: Tensor, prompts: Sequence[str], fps: float | None = None) -> Tensor:
        """Scores ``(N, 3)`` by :data:`DIMENSIONS` of clips ``(N, 3, F, Y, X)``; differentiable."""
        index = frame_indices(pixels.shape[2], self.fps if fps is None else fps, self.sample_fps)
        frames = pixels.transpose(1, 2).index_select(1, index.to(pixels.device))
        texts = [fill(self.template, prompt) for prompt in prompts]
        raw = self.scorer(frames, texts, 'video').squeeze(-1)
        mean, std = raw.new_tensor(self.moments).unbind(1)
        return (raw - mean) / std


def load_scorer(folder: Path, described: Mapping[str, Any], dtype: torch.dtype, positions: str = '1d') -> Qwen2VLScorer:
    """Load the published layout with every key accounted for; adapters are folded into the weights.

    Args:
        folder: see :class:`VideoAlignReward`.
        described: its ``model_config.json``.

    Raises:
        ValueError: a file is missing or damaged, or keys or shapes are not the model's.
    """
    from transformers import Qwen2Tokenizer, Qwen2VLModel

    step = _checkpoint_folder(folder)
    tokenizer = Qwen2Tokenizer.from_pretrained(step / 'tokenizer')
    state = read_tensors(step / 'model.pth')
    foreign = [k for k in state if not k.startswith(_PREFIX)]
    if foreign:
        raise ValueError(f'{step / "model.pth"}: {foreign[0]!r} does not begin with {_PREFIX!r}')
    lora = described['peft_lora_config']
    rank = lora['lora_r']
    scale = lora['lora_alpha'] / (rank**0.5 if lora.get('use_rslora') else rank)
    state = fold_lora({k.removeprefix(_PREFIX): v for k, v in state.items()}, scale)
    state.pop('lm_head.weight', None)  # predicts words, which nobody asks for
    head = state.pop('rm_head.weight', None)
    config = read_config(folder, '2b', len(tokenizer))
    if head is None or head.shape != (1, config.text_config.hidden_size):
        found = 'missing' if head is None else f'of shape {tuple(head.shape)}'
        raise ValueError(f'{step / "model.pth"}: rm_head.weight is {found}, not (1, {config.text_config.hidden_size})')
    model = load_strictly(lambda: Qwen2VLModel(config), modern_names(state), step / 'model.pth')
    model = round_frequencies(model).to(dtype)
    readout = load_strictly(lambda: nn.Linear(head.shape[1], 1, bias=False), {'weight': head.float()}, 'rm_head')
    tokens = [f'<|{name}_reward|>' for name in DIMENSIONS]
    most = described['data_config']['max_frame_pixels']
    return Qwen2VLScorer(model, readout, tokenizer, tokens, min(_FEWEST, most), most, positions)


def _locate(checkpoint: str | None) -> Path:
    from huggingface_hub import snapshot_download

    if checkpoint is None:
        return Path(snapshot_download(_HUB, revision=_REVISION))
    folder = Path(resolve(checkpoint))
    if not folder.exists():  # resolve() has made sure that it reads like a hub id
        return Path(snapshot_download(checkpoint))
    if not folder.is_dir():
        raise ValueError(f'reward.checkpoint: {checkpoint!r} is no folder')
    return folder


def _checkpoint_folder(folder: Path) -> Path:
    found = sorted(p.parent for p in folder.glob('checkpoint-*/model.pth'))
    if len(found) != 1:
        raise ValueError(f'reward.checkpoint: {folder} must hold one checkpoint-*/model.pth, found {len(found)}')
    if not (found[0] / 'tokenizer').is_dir():
        raise ValueError(f'reward.checkpoint: {found[0]} has no folder "tokenizer"')
    return found[0]


def _describe(folder: Path) -> dict[str, Any]:
    """``model_config.json``, checked as far as it is used."""
    path = folder / 'model_config.json'
    if not path.is_file():
        raise ValueError(f'reward.checkpoint: {path} does not exist')
    try:
        described = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f'reward.checkpoint: {path} is no JSON: {error}') from error
    needed = {
        'data_config': ('fps', 'max_frame_pixels'),
        'model_config': ('output_dim', 'reward_token', 'use_special_tokens'),
        'peft_lora_config': ('lora_r', 'lora_alpha'),
    }
    missing = [f'{a}.{b}' for a, names in needed.items() for b in names if b not in described.get(a, {})]
    if missing:
        raise ValueError(f'{path} lacks {", ".join(missing)}')
    model = described['model_config']
    if (model['output_dim'], model['reward_token'], model['use_special_tokens']) != (1, 'special', True):
        raise ValueError(f'{path}: only a checkpoint with one output at each special token can be read')
    return described


def _moments(described: Mapping[str, Any], name: str) -> tuple[float, float]:
    found = described.get('inference_config') or {}
    try:
        return found[f'{name}_mean'], found[f'{name}_std']
    except KeyError as error:
        raise ValueError(
            f'model_config.json has no inference_config.{error.args[0]}; reward.normalized=False takes raw outputs'
        ) from None
