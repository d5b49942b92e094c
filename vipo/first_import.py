"""Importing yapf, which MMEngine needs, where several processes do so for the first time."""

from __future__ import annotations

import importlib
import pickle
import time


def import_yapf(attempts: int = 10, wait: float = 0.2) -> None:
    """Import yapf, again where its cache was caught half written.

    At the first import after an installation yapf writes its grammars to the user's cache, and gives a file its name
    before all of it is there. Of ranks that start together one may read an empty file.

    Args:
        attempts: how often, with ``wait`` seconds in between, in which the writer ends.

    Raises:
        ImportError: the cache stays damaged.
    """
    for attempt in range(attempts):
        if attempt:
            time.sleep(wait)
        try:
            importlib.import_module('yapf')
            return
        except (EOFError, pickle.UnpicklingError) as error:
            problem = error
    raise ImportError(
        f'yapf cannot read what it keeps in the cache folder of this user ({problem}); remove the folder YAPF there '
        '(on Linux ~/.cache/YAPF)'
    ) from problem
