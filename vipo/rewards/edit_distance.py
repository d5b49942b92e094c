"""How well a text was written, from what was read of it."""

from __future__ import annotations

from collections.abc import Sequence


def edit_distance(a: str, b: str) -> int:
    """Fewest insertions, deletions and replacements of one character that turn ``a`` into ``b`` (Levenshtein)."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        above_left, row[0] = row[0], i
        for j, y in enumerate(b, 1):
            above_left, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, above_left + (x != y))
    return row[-1]


def squeeze(text: str) -> str:
    """A text in lower case without white space."""
    return ''.join(text.split()).lower()


def text_match(target: str, lines: Sequence[str]) -> float:
    """``1 - d / len(target)`` in [0, 1]; case and white space do not count (as flow_grpo scores it).

    ``d`` is 0 where the target stands anywhere in the lines, joined in their order, and else their edit distance, at
    most the target's length.

    Raises:
        ValueError: the target has no character.
    """
    wanted, found = squeeze(target), squeeze(''.join(lines))
    if not wanted:
        raise ValueError(f'there is nothing to look for in the target {target!r}')
    distance = 0 if wanted in found else min(edit_distance(found, wanted), len(wanted))
    return 1 - distance / len(wanted)
