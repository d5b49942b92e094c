"""Encoded prompts on disk, so that gigabytes of text encoders leave memory before training begins."""

from __future__ import annotations

import hashlib
import json
import os
import uuid
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

#: Encodings in memory; one of FLUX takes 4 MB.
_KEPT = 256


class PromptCache:
    """One safetensors file per text, named by everything that its encoding depends on.

    Another encoder, length or precision is another name: what belongs to something else is never read. Files are
    written whole or not at all, so that several processes can share a folder.

    Args:
        folder: where the files lie; made on first use.
        identity: what an encoding depends on beside the text, see :func:`fingerprint`.
    """

    def __init__(self, folder: str | Path, identity: dict[str, Any]) -> None:
        self.folder = Path(folder).expanduser()
        self._identity = json.dumps(identity, sort_keys=True)
        self._known: OrderedDict[str, dict[str, Tensor]] = OrderedDict()

    def path(self, text: str) -> Path:
        """The file of a text."""
        key = hashlib.sha256(f'{self._identity}\n{text}'.encode()).hexdigest()
        return self.folder / key[:2] / f'{key}.safetensors'

    def missing(self, texts: Iterable[str]) -> list[str]:
        """The texts that are not encoded yet, each once, in their order."""
        return [t for t in dict.fromkeys(texts) if t not in self._known and not self.path(t).exists()]

    def read(self, text: str) -> dict[str, Tensor]:
        """The encoding of one text, without a batch axis; the last few hundred stay in memory.

        Raises:
            ValueError: the file is damaged.
        """
        if text not in self._known:
            from safetensors import SafetensorError
            from safetensors.torch import load_file

            path = self.path(text)
            try:
                self._known[text] = load_file(path)
            except SafetensorError as error:
                raise ValueError(f'{path} is damaged ({error}); remove it, and it is encoded anew') from error
        self._known.move_to_end(text)
        while len(self._known) > _KEPT:
            self._known.popitem(last=False)
        return self._known[text]

    def fill(
        self,
        texts: Sequence[str],
        encode: Callable[[list[str]], dict[str, Tensor]],
        batch: int,
        advance: Callable[[int], None] = lambda _: None,
    ) -> None:
        """Encode and store texts.

        Args:
            encode: texts -> named tensors whose first axis is that of the texts.
            batch: texts at once.
            advance: told how many more are stored.
        """
        for start in range(0, len(texts), batch):
            part = list(texts[start : start + batch])
            tensors = encode(part)
            for i, text in enumerate(part):
                self.write(text, {k: v[i] for k, v in tensors.items()})
            advance(len(part))

    def write(self, text: str, tensors: dict[str, Tensor]) -> None:
        """Store the encoding of one text."""
        from safetensors.torch import save_file

        path = self.path(text)
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f'.{path.name}.{uuid.uuid4().hex}.partial')
        try:
            save_file({k: v.cpu().contiguous() for k, v in tensors.items()}, partial, metadata={'text': text})
            os.replace(partial, path)
        finally:
            partial.unlink(missing_ok=True)


def fingerprint(folder: str | Path, parts: Iterable[str]) -> str:
    """What identifies the named subfolders of a model without reading gigabytes.

    Small files count whole; of a large one its name, size, first and last 64 KiB count, where a safetensors file has
    its header and the end of its weights.
    """
    digest = hashlib.sha256()
    for part in sorted(parts):
        for path in sorted(p for p in (Path(folder) / part).rglob('*') if p.is_file()):
            size = path.stat().st_size
            digest.update(f'{path.relative_to(folder)} {size}\n'.encode())
            with open(path, 'rb') as file:
                if size <= 2**20:
                    digest.update(file.read())
                else:
                    digest.update(file.read(2**16))
                    file.seek(-(2**16), os.SEEK_END)
                    digest.update(file.read())
    return digest.hexdigest()
