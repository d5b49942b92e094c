"""Files that are whole or not there, and the sha256 that is written beside a checkpoint."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from vipo.registry import ConfigError

#: What a full disk and a used-up quota say.
_FULL = (errno.ENOSPC, errno.EDQUOT)
#: Bytes from which a second thread saves time.
_WORTH_A_THREAD = 2**20
_SHA256 = re.compile(r'[0-9a-f]{64}')


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Call ``write(temporary_path)``, flush to disk, and only then put the file in its place.

    A process that dies at any moment leaves either the old file or the new one under ``path``, never a part. Where
    ``write`` raises, what it wrote is removed again.
    """
    temporary = path.with_name(f'.{path.name}.partial')
    try:
        write(temporary)
        with open(temporary, 'rb') as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


class HashedWriter:
    """A new file, and the sha256 of what is written to it, computed by a second thread during the writing.

    Attributes:
        error: what the file raised; ``torch.save`` reports it as a wrong position in its archive.
    """

    def __init__(self, path: Path) -> None:
        self._file = open(path, 'wb')  # noqa: SIM115, __exit__ closes it
        self._digest = hashlib.sha256()
        self._second = ThreadPoolExecutor(1)
        self.error: OSError | None = None

    def __enter__(self) -> HashedWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self._second.shutdown()
        self._file.close()

    def write(self, data: bytes) -> int:
        if len(data) < _WORTH_A_THREAD:
            self._digest.update(data)
            return self._to_file(data)
        hashed = self._second.submit(self._digest.update, data)
        try:
            return self._to_file(data)
        finally:
            hashed.result()

    def flush(self) -> None:
        self._file.flush()

    def sha256(self) -> str:
        """Of everything so far, in hexadecimal."""
        return self._digest.hexdigest()

    def _to_file(self, data: bytes) -> int:
        try:
            return self._file.write(data)
        except OSError as error:
            self.error = error
            raise


def sha256_of(path: Path) -> str:
    """The sha256 of a file's bytes, in hexadecimal."""
    digest = hashlib.sha256()
    with open(path, 'rb') as file:
        while part := file.read(2**22):
            digest.update(part)
    return digest.hexdigest()


def manifest_of(path: Path) -> Path:
    """The file beside a checkpoint that holds its sha256, in the format of ``sha256sum``."""
    return path.with_name(f'{path.name}.sha256')


def record_sha256(path: Path, sha256: str) -> None:
    """Write the manifest of a file."""
    write_atomically(manifest_of(path), lambda temporary: temporary.write_text(f'{sha256}  {path.name}\n'))


def recorded_sha256(path: Path) -> str | None:
    """What the manifest of a file says, None where there is none.

    Raises:
        ConfigError: it does not begin with a sha256.
    """
    manifest = manifest_of(path)
    try:
        line = manifest.read_text(errors='replace')
    except FileNotFoundError:
        return None
    if not _SHA256.fullmatch(line[:64]):
        raise ConfigError(f'{manifest} holds no sha256; without that file {path.name} is loaded uncompared')
    return line[:64]


def is_full(error: OSError) -> bool:
    """Whether there is no room left, on the disk or in a quota."""
    return error.errno in _FULL


def describe_failure(path: Path, error: OSError, needed: int | None = None) -> str:
    """Why a file could not be written, and of a full disk how much is missing.

    Args:
        needed: bytes that the file takes, about.
    """
    if not is_full(error):
        return f'{path} could not be written: {error.strerror or error}'
    free = shutil.disk_usage(path.parent).free
    takes = '' if needed is None else f'it takes about {readable(needed)}, and '
    return f'{path} could not be written: {error.strerror}; {takes}{path.parent} has {readable(free)} free'


def readable(size: int) -> str:
    """Bytes with a decimal unit, in three digits."""
    value, unit = float(size), 'bytes'
    for larger in ('kB', 'MB', 'GB', 'TB'):
        if value < 999.5:
            break
        value, unit = value / 1000, larger
    return f'{value:.3g} {unit}'
