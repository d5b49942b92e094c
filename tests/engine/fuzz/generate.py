"""All kinds of broken input, dealt by a seed."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator

from tests.engine.fuzz import arguments, checkpoints, configs, files, runs
from tests.engine.fuzz.case import Case, World

#: Kind -> how many of it are dealt in a round. What makes its inputs broken stands in its docstring.
KINDS: dict[Callable[[random.Random, World], Case], int] = {
    **configs.KINDS,
    **checkpoints.KINDS,
    **files.KINDS,
    **arguments.KINDS,
    **runs.KINDS,
}


def generate(world: World, seed: int, count: int, only: Iterable[str] | None = None) -> Iterator[Case]:
    """Cases, each with files of its own; a case has to be judged before the next is taken.

    Args:
        only: names of kinds.
    """
    round_ = [kind for kind, share in KINDS.items() for _ in range(share) if only is None or kind.__name__ in only]
    for i in range(count):
        kind = round_[i % len(round_)]
        yield kind(random.Random(f'{seed} {i} {kind.__name__}'), world)
