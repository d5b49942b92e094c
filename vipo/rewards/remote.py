"""A reward that lives in another process, perhaps on another machine."""

from __future__ import annotations

import math
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vipo.registry import REWARDS
from vipo.rewards.base import RewardOutput, check_batch
from vipo.rewards.http_client import JsonClient, ServiceError, in_order
from vipo.rewards.service import STAND_IN, ServiceReward
from vipo.rewards.wire import VERSION, WireError, check_metadata, quantise, read_answer, read_weights, write_request


@REWARDS.register_module()
class RemoteReward(ServiceReward):
    """Scores of a server that speaks the protocol of ``docs/reward-service.md``, such as ``tools/serve_reward.py``.

    Pixels travel as pictures of 8 bits, so scores are those of the pixels rounded to 256 levels. Scoring has to be
    pure: after a broken connection the same request is sent again, to the next server where there are several.
    A batch of N samples takes at most ``ceil(N / batch_size / concurrency)`` times what one request may take, and that
    is ``(retries + 1) * timeout`` and the waits between the attempts.

    Args:
        url: address of the server, ``http://host:port``, or a list of addresses among which requests are spread.
        batch_size: most samples in one request.
        concurrency: requests in flight at a time.
        timeout: seconds for one attempt of a request.
        retries: attempts after the first, where a connection fails or breaks, a server does not answer in time or not
            in JSON, or the status is 429 or 5xx. Any other answer is final.
        backoff, max_backoff: seconds before the second attempt, doubled for each further one, and the most of them.
        key_variable: environment variable that holds the bearer token of the servers, where they want one.
        check: ask every server at build who it is, so that a wrong address shows before anything else is loaded.
            Without it nobody knows whether the score is a weighted sum, and its parts' advantages cannot be summed.

    Raises:
        ValueError: an option is out of range, or a server does not answer or is none of this protocol.
    """

    def __init__(
        self,
        url: str | list[str],
        batch_size: int = 16,
        concurrency: int = 1,
        timeout: float = 120.0,
        retries: int = 5,
        backoff: float = 1.0,
        max_backoff: float = 30.0,
        key_variable: str | None = None,
        check: bool = True,
    ) -> None:
        if batch_size < 1 or concurrency < 1:
            raise ValueError(
                f'reward.batch_size and reward.concurrency must be at least 1, got {batch_size} and {concurrency}'
            )
        if url == STAND_IN:
            from vipo.rewards.stand_in import serve_brightness

            url = self.keep(serve_brightness())
        self.client = JsonClient(url, timeout, retries, backoff, max_backoff, key_variable)
        self.batch_size, self.concurrency = batch_size, concurrency
        if check:
            weights = [self._check(address) for address in self.client.urls]
            if any(w != weights[0] for w in weights):
                raise ValueError(f'reward.url: the servers weigh the parts of their score differently: {weights}')
            self.weights = weights[0]

    def _check(self, url: str) -> dict[str, float] | None:
        """The weights that a server has for its parts."""
        try:
            info = self.client.get(url, '/info', min(self.client.timeout, 10.0))
        except ServiceError as error:
            raise ValueError(
                f'reward.url: {error}. Start the server first (tools/serve_reward.py), or set reward.check=False'
            ) from error
        if not isinstance(info, dict) or info.get('version') != VERSION:
            version = info.get('version') if isinstance(info, dict) else None
            raise ValueError(f'reward.url: {url} speaks version {version!r} of the protocol, and this side {VERSION}')
        most = info.get('max_batch')
        if isinstance(most, int) and most < self.batch_size:
            raise ValueError(f'reward.batch_size is {self.batch_size}, and {url} takes at most {most} samples')
        try:
            return read_weights(info)
        except WireError as error:
            raise ValueError(f'reward.url: the answer of {url} to GET /info cannot be used: {error}') from error

    def __call__(
        self, pixels: Tensor, prompts: Sequence[str], metadata: Sequence[dict[str, Any]] | None = None
    ) -> RewardOutput:
        check_batch(pixels, prompts)
        check_metadata(metadata)
        if not len(prompts):
            return RewardOutput(pixels.new_zeros(0))
        levels = quantise(pixels)

        def ask(number: int) -> RewardOutput:
            piece = slice(number * self.batch_size, (number + 1) * self.batch_size)
            records = None if metadata is None else metadata[piece]
            return self._ask(number, levels[piece], prompts[piece], records)

        parts = in_order(ask, range(math.ceil(len(prompts) / self.batch_size)), self.concurrency)
        return _join(parts, self.weights or {}, pixels.device)

    def _ask(
        self, number: int, levels: np.ndarray, prompts: Sequence[str], metadata: Sequence[Any] | None
    ) -> RewardOutput:
        """Request ``number`` of a batch."""
        name = uuid.uuid4().hex
        body = write_request(levels, prompts, metadata, name)
        try:
            return self.client.post('/score', body, lambda answer: read_answer(answer, name, len(prompts)), number)
        except ServiceError as error:
            start, known = number * self.batch_size, error.sample is not None and error.sample < len(prompts)
            sample = start + error.sample if known else None
            which = f'sample {sample}' if known else f'samples {start} to {start + len(prompts) - 1}'
            prompt = prompts[error.sample if known else 0]
            raise ServiceError(f'{which}, prompt {prompt!r}: {error}', sample) from error


def _join(parts: list[RewardOutput], weights: Mapping[str, float], device: torch.device) -> RewardOutput:
    """Answers to consecutive requests as one.

    Raises:
        ServiceError: they differ in the names of their parts, or one that the score is a sum of is missing.
    """
    first = parts[0]
    if any(p.parts.keys() != first.parts.keys() for p in parts):
        raise ServiceError('the answers to the requests of one batch differ in their parts')
    if lacking := sorted(set(weights) - set(first.parts)):
        raise ServiceError(f'the server says that its score is a sum of {sorted(weights)}, and sends no {lacking[0]!r}')
    return RewardOutput(
        torch.cat([p.scores for p in parts]).to(device),
        {name: torch.cat([p.parts[name] for p in parts]).to(device) for name in first.parts},
        torch.cat([p.valid for p in parts]).to(device),
    )
