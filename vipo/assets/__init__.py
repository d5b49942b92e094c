"""The embedded models, and how a ``pretrained`` or ``checkpoint`` option is turned into a place to load from."""

from __future__ import annotations

import os
from pathlib import Path

SCHEME = 'vipo://'
#: Characters in a name of a file or folder, on any file system.
_LONGEST = 255
_HERE = Path(__file__).resolve().parent


def resolve(name: str) -> str:
    """``vipo://tiny-sd3`` -> the folder in this package; a local path or a hub id is returned as it is.

    Raises:
        ValueError: there is no such embedded asset, or a name that can only be a local path does not exist.
    """
    if name.startswith(SCHEME):
        path = _HERE / name.removeprefix(SCHEME)
        if not path.exists():
            known = sorted(SCHEME + p.name for p in _HERE.iterdir() if p.is_dir() and not p.name.startswith('_'))
            raise ValueError(f'there is no embedded asset {name!r}; known: {", ".join(known)}')
        return str(path)
    looks_local = name.startswith(('/', './', '../', '~')) or name.count('/') > 1
    path = Path(os.path.expanduser(name))  # a user that does not exist stays in it
    if max(map(len, path.parts), default=0) > _LONGEST:
        raise ValueError(f'{name[:50]!r}... is no name of a model: a part of it has more than {_LONGEST} characters')
    if looks_local and not path.exists():
        raise ValueError(
            f'{name!r} does not exist. Give an existing folder or file, a hub id "owner/name" or vipo://...'
        )
    return str(path) if path.exists() else name
