"""The contract of a generator: prompts -> conditioning -> velocities -> pixels."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn


@dataclass
class Conditioning:
    """Encoded prompts: named tensors whose first axis is the batch.

    Attributes:
        tensors: of each prompt once.
        rows: which of these prompts each sample of the batch has; None is each in its turn. Indexing makes the copies.
    """

    tensors: dict[str, Tensor]
    rows: Tensor | None = None

    def __len__(self) -> int:
        return len(next(iter(self.tensors.values())) if self.rows is None else self.rows)

    def __getitem__(self, index: Tensor | slice | list[int]) -> Conditioning:
        if self.rows is not None:
            index = self.rows[index]
        return Conditioning({k: v[index] for k, v in self.tensors.items()})

    def to(self, device: torch.device | str) -> Conditioning:
        """Move every tensor."""
        return Conditioning({k: v.to(device) for k, v in self.tensors.items()}, self.rows)

    def take(self, rows: Tensor) -> Conditioning:
        """A batch with the prompts ``(N,)`` int64 of this one; no memory is spent on copies."""
        return Conditioning(self.tensors, rows if self.rows is None else self.rows[rows])


class Generator(ABC):
    """One model family behind one latent layout, ``(B, C, T, H, W)`` float32.

    Convention: ``x_sigma = (1 - sigma) x0 + sigma noise``, velocity ``v = noise - x0``.
    Only :attr:`denoiser` holds what is trained; everything else stays outside the runner's module tree.
    """

    #: The network that predicts velocities and carries the trainable parameters.
    denoiser: nn.Module
    #: Where the denoiser computes once its weights are divided among ranks: parts may wait in main memory.
    divided_on: torch.device | None = None

    @property
    @abstractmethod
    def device(self) -> torch.device:
        """Where the denoiser computes."""

    @abstractmethod
    def to(self, device: torch.device | str) -> Generator:
        """Move every part of the pipeline."""

    @abstractmethod
    def encode(self, prompts: Sequence[str]) -> Conditioning:
        """Encode prompts (and what guidance needs), without gradients."""

    def unencoded(self, prompts: Sequence[str]) -> list[str]:
        """Texts that a generator which stores encodings has yet to encode for these prompts, each once.

        Args:
            prompts: with repetitions, in any order.
        """
        return []

    def encode_ahead(  # noqa: B027 - most generators keep nothing
        self, texts: Sequence[str], advance: Callable[[int], None] = lambda _: None
    ) -> None:
        """Called once before sampling: encode and store texts that :meth:`unencoded` names.

        Args:
            texts: all of them, or a rank's share.
            advance: told how many more were encoded.
        """

    @abstractmethod
    def latent_shape(self) -> tuple[int, int, int, int]:
        """``(C, T, H, W)`` of one sample at the configured resolution."""

    @abstractmethod
    def sigmas(self, num_steps: int) -> Tensor:
        """The family's sigma schedule, ``(num_steps + 1,)``."""

    @abstractmethod
    def velocity(self, latents: Tensor, sigma: float, conditioning: Conditioning) -> Tensor:
        """Predicted velocity, guidance included; the same code in rollout and replay.

        Args:
            latents: ``(B, C, T, H, W)``.
            sigma: noise level shared by the batch.
            conditioning: of length B.

        Returns:
            ``(B, C, T, H, W)`` float32.
        """

    @abstractmethod
    def decode(self, latents: Tensor) -> Tensor:
        """Pixels ``(B, 3, F, Y, X)`` in [0, 1], without gradients."""

    @abstractmethod
    def save_pretrained(self, folder: str | Path) -> None:
        """Write what was trained in the layout that plain diffusers loads."""

    @contextmanager
    @abstractmethod
    def reference(self) -> Iterator[None]:
        """Within this context :meth:`velocity` is that of the model before training."""

    @property
    def has_reference(self) -> bool:
        """Whether :meth:`reference` can be entered, which a KL term needs."""
        return True

    @property
    def autoencoder(self) -> nn.Module | None:
        """What :meth:`decode` runs, where it can be moved on its own."""
        return None

    @property
    def text_models(self) -> tuple[nn.Module, ...]:
        """What :meth:`encode` runs, where it can be moved on its own."""
        return ()

    def frozen_networks(self) -> list[nn.Module]:
        """Whole copies of the denoiser that :meth:`reference` uses."""
        return []

    def trainable_parameters(self) -> list[nn.Parameter]:
        """The parameters with ``requires_grad``."""
        return [p for p in self.denoiser.parameters() if p.requires_grad]
