"""Instruction texts that belong to a checkpoint, read from the user's copy as data."""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterator
from pathlib import Path
from string import Formatter

FIELD = 'text_prompt'


def read_template(path: str | None, sha256: str | None, origin: str) -> str:
    """The text with ``{text_prompt}`` in it that a reward was trained with.

    The texts are their authors' and not part of this package. A ``.py`` file is parsed, never executed: the text is
    looked for among the string constants of its top level, each alone and each pair joined, by its checksum.

    Args:
        path: the upstream source file, or a text file that holds nothing but the template.
        sha256: of the text in UTF-8; None takes any text file, for a reward that was trained with another text.
        origin: where the file comes from, for messages.

    Raises:
        ValueError: there is no file, or the text in it is another.
    """
    if path is None or not Path(path).is_file():
        named = 'reward.template is not given' if path is None else f'reward.template: {path!r} is no file'
        raise ValueError(
            f'{named}. The score needs the instruction text that the checkpoint was trained with. It is not part of '
            f'this package: download {origin} and name the file in reward.template; it is read, not executed'
        )
    content = Path(path).read_bytes().decode()
    candidates = list(_constants(content)) if path.endswith('.py') else [content]
    if sha256 is None:
        if path.endswith('.py'):
            raise ValueError(f'reward.template: without a checksum {path!r} must be a text file, not Python source')
        return _checked(content, path)
    for text in candidates:
        if hashlib.sha256(text.encode()).hexdigest() == sha256:
            return _checked(text, path)
    raise ValueError(
        f'reward.template: no text in {path!r} has the sha256 {sha256} of the one that the checkpoint was trained '
        f'with. Take the file from {origin}, byte by byte: blanks at the ends of lines count. '
        'reward.template_sha256=None takes a text of your own'
    )


def fill(template: str, prompt: str) -> str:
    """The template with the prompt in it."""
    return template.format(**{FIELD: prompt})


def _checked(template: str, path: str) -> str:
    try:
        fields = [name for _, name, _, _ in Formatter().parse(template) if name is not None]
    except ValueError as error:
        raise ValueError(f'reward.template: {path!r} is no template: {error}') from error
    if fields != [FIELD]:
        raise ValueError(f'reward.template: {path!r} must contain {{{FIELD}}} once and no other field, found {fields}')
    return template


def _constants(source: str) -> Iterator[str]:
    try:
        tree = ast.parse(source)
    except SyntaxError as error:
        raise ValueError(f'reward.template: the file is no Python source: {error}') from error
    texts = [
        node.value.value
        for node in tree.body
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
    ]
    yield from texts
    yield from (a + b for a in texts for b in texts)
