"""The contract of a strategy."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from vipo.generators.base import Generator


class Strategy:
    """How ranks share a model. Used where there is a process group; a single process needs none."""

    #: Whether the model arrives divided among the ranks, so that MMEngine neither moves, wraps nor broadcasts it.
    shards: bool = False
    #: Backend of the process group on GPUs; None leaves it to ``env_cfg.dist_cfg``.
    backend: str | None = None

    def shard(self, generator: Generator) -> None:
        """Divide what is trained among the ranks, in place; called before anything refers to its parameters."""

    @contextmanager
    def gathered(self, generator: Generator) -> Iterator[None]:
        """Within this context many passes without gradients are made, and no weight changes."""
        yield

    def wrapper(self) -> dict[str, Any]:
        """Options of MMEngine's wrapper around the model."""
        return {}

    def describe(self) -> str:
        """One line for the start of a run."""
        return type(self).__name__
