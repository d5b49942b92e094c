"""Arguments that the tools have in common."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from mmengine.config import DictAction


class CfgOptions(DictAction):
    """MMEngine's ``KEY=VALUE`` options; one that is none is refused in the words of the command line."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        option_string: str | None = None,
    ) -> None:
        for value in values or ():
            if '=' not in value:
                raise argparse.ArgumentError(self, f'{value!r} is no KEY=VALUE')
            for left, right in ('()', '[]'):
                if value.count(left) != value.count(right):
                    raise argparse.ArgumentError(self, f'{value!r} opens and closes another number of {left}{right}')
        super().__call__(parser, namespace, values, option_string)


def positive(text: str) -> int:
    """A whole number from 1.

    Raises:
        ArgumentTypeError: it is none.
    """
    try:
        value = int(text)
    except ValueError:
        value = 0
    if value < 1:
        raise argparse.ArgumentTypeError(f'must be a whole number from 1, got {text!r}')
    return value
