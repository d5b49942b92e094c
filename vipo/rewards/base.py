"""The contract of a reward: pixels and prompts in, one score per sample out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor


@dataclass
class RewardOutput:
    """What a reward returns.

    Attributes:
        scores: ``(B,)`` float32.
        parts: named components of the score, each ``(B,)``, for logging.
        valid: ``(B,)`` bool; a sample whose score could not be had is masked out of its group. Non-finite scores
            are marked invalid whatever the reward said.
    """

    scores: Tensor
    parts: dict[str, Tensor] = field(default_factory=dict)
    valid: Tensor | None = None

    def __post_init__(self) -> None:
        self.scores = self.scores.detach().float()
        finite = self.scores.isfinite()
        self.valid = finite if self.valid is None else self.valid.to(finite.device) & finite


class Reward(ABC):
    """A frozen judge of samples. Not part of the trained module tree.

    A subclass that loads a model tells the framework about it by three class methods, each given the options of its
    config: ``hub_models(options) -> {option: hub id}`` (what has to be within reach), ``model_bytes(options)`` (for a
    plan) and ``rehearsal(options, folder) -> changed options`` (a tiny twin of its own class, written to ``folder``).
    One that loads single files of a repository names them in ``hub_files(options) -> {option: [name]}``.

    Attributes:
        differentiable: whether scores have a gradient with respect to the pixels.
        weights: the parts of which the score is a weighted sum, but for a constant, and their weights; None where it is
            no such sum. The advantages of these parts can be summed in place of the parts, see :mod:`vipo.advantages`.
        pinned: whether the weights have a device of their own.
    """

    differentiable: ClassVar[bool] = False
    weights: Mapping[str, float] | None = None
    pinned: bool = False

    @abstractmethod
    def __call__(
        self, pixels: Tensor, prompts: Sequence[str], metadata: Sequence[dict[str, Any]] | None = None
    ) -> RewardOutput:
        """Score a batch.

        Args:
            pixels: ``(B, 3, F, Y, X)`` in [0, 1]; an image has F = 1.
            prompts: B prompts.
            metadata: B records from the prompt file, for rewards that need more than the prompt.
        """

    def differentiable_scores(
        self, pixels: Tensor, prompts: Sequence[str], metadata: Sequence[dict[str, Any]] | None = None
    ) -> Tensor:
        """Scores ``(B,)`` with a gradient with respect to ``pixels``, where :attr:`differentiable` says so.

        Args:
            pixels, prompts, metadata: as in :meth:`__call__`.
        """
        raise NotImplementedError(f'{type(self).__name__} has no gradient')

    def to(self, device: torch.device | str) -> Reward:
        """Move the weights, unless :meth:`place` has put them on a device of their own."""
        if not self.pinned:
            self.move(device)
        return self

    def move(self, device: torch.device | str) -> None:  # noqa: B027 - many have no weights
        """Move the weights, if there are any; a subclass says how."""

    def place(self, device: torch.device | str | None) -> None:
        """Put the weights on a device for good; None leaves them to whoever calls :meth:`to`."""
        self.pinned = device is not None
        if device is not None:
            self.move(device)


def check_batch_size(size: int) -> int:
    """The number itself.

    Raises:
        ValueError: it is below 1.
    """
    if size < 1:
        raise ValueError(f'batch_size must be at least 1, got {size}')
    return size


def check_pixels(pixels: Tensor) -> None:
    """Refuse what is no batch of pictures.

    Raises:
        ValueError: the pixels are not ``(B, 3, F, Y, X)`` floats.
    """
    if pixels.ndim != 5 or pixels.shape[1] != 3 or not pixels.is_floating_point():
        raise ValueError(
            f'pixels must be floats (B, 3, F, Y, X) in [0, 1], got {tuple(pixels.shape)} {pixels.dtype}; an '
            'image batch (B, 3, Y, X) becomes one by pixels[:, :, None]'
        )


def check_batch(pixels: Tensor, prompts: Sequence[str]) -> None:
    """Refuse what is no batch of pictures and prompts.

    Raises:
        ValueError: the pixels are not ``(B, 3, F, Y, X)`` floats, or the counts differ.
    """
    check_pixels(pixels)
    if len(prompts) != len(pixels):
        raise ValueError(f'{len(pixels)} samples but {len(prompts)} prompts')


def find_culprit(
    error: Exception,
    reward: Reward,
    pixels: Tensor,
    prompts: Sequence[str],
    metadata: Sequence[dict[str, Any]] | None = None,
) -> tuple[int | None, Exception]:
    """After ``error`` of a batch: the number of the sample at fault, and its own error.

    The samples are tried one by one. The number is None where none fails alone, and where the error has an attribute
    ``sample`` that is None, which says that no sample is at fault (a server that is down) and that trying is in vain.
    """
    if getattr(error, 'sample', 0) is None:
        return None, error
    for i, prompt in enumerate(prompts):
        try:
            reward(pixels[i : i + 1], [prompt], None if metadata is None else metadata[i : i + 1])
        except Exception as own:
            return i, own
    return None, error
