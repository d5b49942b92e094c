"""Reads what a generative judge writes."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from vipo.rewards.wire import WireError


class UnusableAnswer(ValueError):
    """An answer without the scores that were asked for.

    Attributes:
        kind: one of few words, for counting.
    """

    def __init__(self, kind: str, detail: str) -> None:
        super().__init__(detail)
        self.kind = kind


def compile_patterns(patterns: dict[str, str]) -> dict[str, re.Pattern[str]]:
    """Part -> regular expression.

    Raises:
        ValueError: there are none, or one is no regular expression with one group.
    """
    if not patterns:
        raise ValueError('reward.patterns must name at least one part')
    compiled = {}
    for name, pattern in patterns.items():
        try:
            compiled[name] = re.compile(pattern)
        except re.error as error:
            raise ValueError(f'reward.patterns.{name}: {error}') from error
        if compiled[name].groups != 1:
            raise ValueError(f'reward.patterns.{name} must have one group, has {compiled[name].groups}; others (?:...)')
    return compiled


def read_numbers(answer: str, patterns: Mapping[str, re.Pattern[str]], low: float, high: float) -> dict[str, float]:
    """The number that each pattern finds in an answer.

    Raises:
        UnusableAnswer: a pattern finds nothing, several numbers that differ, or one outside ``low`` to ``high``.
            Nothing is guessed.
    """
    numbers = {}
    for name, pattern in patterns.items():
        found = {_number(match[1]) for match in pattern.finditer(answer)}
        if not found:
            raise UnusableAnswer('no match', f'{name} is not found')
        if len(found) > 1:
            raise UnusableAnswer('ambiguous', f'{name} has {len(found)} different numbers')
        number = found.pop()
        if not low <= number <= high:  # not a number is neither
            raise UnusableAnswer('out of range', f'{name} is {number:g}, outside {low:g} to {high:g}')
        numbers[name] = number
    return numbers


def _number(text: str | None) -> float:
    try:
        return float(text or '')
    except ValueError:
        return math.nan


def read_completion(answer: Any) -> tuple[str, str]:
    """Text of a chat completion, empty where there is none, and why it ended.

    Raises:
        WireError: it is none.
    """
    try:
        (choice,) = answer['choices']
        text, ending = choice['message']['content'] or '', str(choice['finish_reason'])
    except (KeyError, TypeError, ValueError) as error:
        raise WireError('no chat completion with one choice') from error
    if not isinstance(text, str):
        raise WireError(f'a chat completion whose content is {type(text).__name__}')
    return text, ending
