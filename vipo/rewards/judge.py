"""A generative judge behind an OpenAI-compatible endpoint (vLLM, sglang): its written scores as numbers."""

from __future__ import annotations

import json
import logging
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vipo.registry import REWARDS
from vipo.rewards.answers import UnusableAnswer, compile_patterns, read_completion, read_numbers
from vipo.rewards.base import RewardOutput, check_batch
from vipo.rewards.http_client import JsonClient, ServiceError, in_order
from vipo.rewards.service import STAND_IN, ServiceReward
from vipo.rewards.wire import encode_png, quantise

_log = logging.getLogger(__name__)
#: Unusable answers that are shown in the log.
_SHOWN = 5


def evenly_spaced(total: int, count: int) -> list[int]:
    """``count`` indices of ``total`` frames, first and last among them; all where there are no more; one is the middle.

    They are ``i (total - 1) / (count - 1)``, rounded half up.
    """
    if count >= total:
        return list(range(total))
    if count == 1:
        return [(total - 1) // 2]
    return [(2 * i * (total - 1) + count - 1) // (2 * (count - 1)) for i in range(count)]


@REWARDS.register_module()
class JudgeReward(ServiceReward):
    """Asks a vision language model for scores in words, and reads the numbers.

    Each sample is one request: its pictures as PNG, then the instruction. The score is the weighted sum of the parts,
    ``part = scale * number``. A sample is invalid, and so masked out of its group, where the answer is cut off, a
    pattern finds no number or several, or a number lies outside the range; :attr:`counts` says how often.

    Args:
        url: base address such as ``http://host:8000/v1``, or a list of addresses among which requests are spread.
        model: the name under which the server knows the model.
        patterns: name of a part -> regular expression with one group, which is its number.
        low, high: range of the numbers.
        example: an answer as the judge is expected to write it. The patterns must find their numbers in it, so that a
            wrong one shows at build; rehearsals answer with it.
        template: the instruction, a text with ``{prompt}`` in it.
        template_file: a file with the instruction, in place of ``template``.
        weights: of the parts in the score; None is their mean.
        scale: factor of every number.
        frames: most frames of a clip that are shown, evenly spaced.
        temperature: 0 takes the likeliest words, so that a sample is always judged alike.
        max_tokens: longest answer.
        options: further keys of the request, such as ``dict(seed=0)``.
        concurrency: requests in flight at a time.
        timeout, retries, backoff, max_backoff: see :class:`~vipo.rewards.RemoteReward`.
        key_variable: environment variable that holds the API key.
        check: ask every server at build whether it has the model.

    Attributes:
        counts: answers so far under ``'answers'``, and among them those that were ``'cut off'``, had ``'no match'``,
            were ``'ambiguous'`` or ``'out of range'``.

    Raises:
        ValueError: an option is out of range, the template or the patterns do not fit, or a server has no such model.
    """

    not_rehearsed = 'a local stand-in answered in place of the judge: its scores mean nothing'

    def __init__(
        self,
        url: str | list[str],
        model: str,
        patterns: dict[str, str],
        low: float,
        high: float,
        example: str,
        template: str | None = None,
        template_file: str | None = None,
        weights: dict[str, float] | None = None,
        scale: float = 1.0,
        frames: int = 16,
        temperature: float = 0.0,
        max_tokens: int = 512,
        options: dict[str, Any] | None = None,
        concurrency: int = 8,
        timeout: float = 300.0,
        retries: int = 5,
        backoff: float = 1.0,
        max_backoff: float = 30.0,
        key_variable: str | None = None,
        check: bool = True,
    ) -> None:
        for name, value in {'frames': frames, 'max_tokens': max_tokens, 'concurrency': concurrency}.items():
            if value < 1:
                raise ValueError(f'reward.{name} must be at least 1, got {value}')
        if not -math.inf < low < high < math.inf:
            raise ValueError(f'reward.low must be below reward.high, got {low} and {high}')
        self.patterns = compile_patterns(patterns)
        self.weights = _check_weights(weights, self.patterns)
        self.low, self.high, self.scale, self.frames = low, high, scale, frames
        self.template = _read_template(template, template_file)
        try:
            read_numbers(example, self.patterns, low, high)
        except UnusableAnswer as error:
            raise ValueError(f'reward.patterns do not read reward.example: {error}') from error
        self.options = {'model': model, 'temperature': temperature, 'max_tokens': max_tokens}
        self.options |= _check_options(options or {}, taken={*self.options, 'messages', 'n', 'stream'})
        self.concurrency, self.counts = concurrency, Counter()
        if url == STAND_IN:
            from vipo.rewards.stand_in import serve_example

            url = self.keep(serve_example(model, example, self.patterns, low, high))
        self.client = JsonClient(url, timeout, retries, backoff, max_backoff, key_variable)
        if check:
            for address in self.client.urls:
                self._check(address)

    def _check(self, url: str) -> None:
        try:
            answer = self.client.get(url, '/models', min(self.client.timeout, 10.0))
            names = [entry['id'] for entry in answer['data']]
        except ServiceError as error:
            raise ValueError(f'reward.url: {error}. Start the judge first, or set reward.check=False') from error
        except (KeyError, TypeError) as error:
            raise ValueError(
                f'reward.url: {url}/models gave no list of models. The address of vLLM and sglang ends in /v1'
            ) from error
        if self.options['model'] not in names:
            raise ValueError(f'reward.model: {url} has no model {self.options["model"]!r}; it has {names}')

    def __call__(
        self, pixels: Tensor, prompts: Sequence[str], metadata: Sequence[dict[str, Any]] | None = None
    ) -> RewardOutput:
        check_batch(pixels, prompts)
        levels = quantise(pixels[:, :, evenly_spaced(pixels.shape[2], self.frames)])
        answers = in_order(lambda i: self._ask(i, levels[i], prompts[i]), range(len(prompts)), self.concurrency)
        rows = [self._read(answer, prompt) for answer, prompt in zip(answers, prompts, strict=True)]
        table = torch.tensor([list(row.values()) for row in rows], device=pixels.device) * self.scale
        parts = dict(zip(self.patterns, table.T, strict=True))
        score = sum(weight * parts[name] for name, weight in self.weights.items())
        return RewardOutput(score, parts)

    def _ask(self, index: int, clip: np.ndarray, prompt: str) -> tuple[str, str]:
        pictures = [
            {'type': 'image_url', 'image_url': {'url': f'data:image/png;base64,{encode_png(frame)}'}} for frame in clip
        ]
        text = {'type': 'text', 'text': self.template.replace('{prompt}', prompt)}
        message = {**self.options, 'messages': [{'role': 'user', 'content': [*pictures, text]}]}
        try:
            return self.client.post('/chat/completions', json.dumps(message).encode(), read_completion, index)
        except ServiceError as error:
            raise ServiceError(f'sample {index}, prompt {prompt!r}: {error}', error.sample) from error

    def _read(self, answer: tuple[str, str], prompt: str) -> dict[str, float]:
        """Numbers of one sample; all of them NaN where the answer cannot be used."""
        text, ending = answer
        self.counts['answers'] += 1
        try:
            if ending != 'stop':
                raise UnusableAnswer('cut off', f'it ended by {ending!r}')
            return read_numbers(text, self.patterns, self.low, self.high)
        except UnusableAnswer as error:
            self.counts[error.kind] += 1
            unusable = sum(self.counts.values()) - self.counts['answers']
            if unusable <= _SHOWN:
                more = '; further ones are only counted' if unusable == _SHOWN else ''
                _log.warning('unusable answer (%s) for prompt %r: %r%s', error, prompt[:80], text[-200:], more)
            return dict.fromkeys(self.patterns, math.nan)


def _check_weights(weights: dict[str, float] | None, parts: Mapping[str, Any]) -> dict[str, float]:
    if weights is None:
        return dict.fromkeys(parts, 1 / len(parts))
    if not weights or not set(weights) <= set(parts):
        raise ValueError(f'reward.weights must name parts of reward.patterns ({", ".join(parts)}), got {weights}')
    if not any(weights.values()):
        raise ValueError('reward.weights: every weight is 0, so there is nothing to learn')
    return dict(weights)


def _check_options(options: dict[str, Any], taken: set[str]) -> dict[str, Any]:
    if both := sorted(taken & set(options)):
        raise ValueError(f'reward.options must not hold {both[0]!r}')
    try:
        return json.loads(json.dumps(options, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise ValueError(f'reward.options must be plain values: {error}') from error


def _read_template(template: str | None, file: str | None) -> str:
    if (template is None) == (file is None):
        raise ValueError('give the instruction of the judge in one of reward.template and reward.template_file')
    if file is not None:
        try:
            template = Path(file).expanduser().read_text(encoding='utf-8')
        except (OSError, UnicodeDecodeError) as error:
            raise ValueError(f'reward.template_file: {file!r} cannot be read: {error}') from error
    if '{prompt}' not in template:
        raise ValueError('the instruction of the judge must hold {prompt}, which is where the prompt goes')
    return template
