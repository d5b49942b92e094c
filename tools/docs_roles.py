"""Lets the site's API reference read our docstrings: their roles, and what they say of several arguments together.

mkdocs.yml names this file as an extension of mkdocstrings.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import griffe

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tools.list_options import plain


class Roles(griffe.Extension):
    """Writes docstrings in the form that the site's parser knows."""

    def on_instance(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        if obj.docstring is not None:
            obj.docstring.value = one_each(plain(obj.docstring.value))


def one_each(text: str) -> str:
    """An argument list in which what is said of several names together is said of each."""
    entry = r'^( +)(\w+(?:, \w+)+)(: .*(?:\n\1 +.*)*)'
    return re.sub(entry, lambda m: '\n'.join(m[1] + name + m[3] for name in m[2].split(', ')), text, flags=re.MULTILINE)
