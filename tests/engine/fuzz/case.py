"""A broken input for a tool, and the judgement of what the tool made of it."""

from __future__ import annotations

import contextlib
import faulthandler
import hashlib
import importlib
import io
import os
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from unittest import mock

import torch

from tests.engine.conftest import ROOT, SMALL, run, small_config

CONFIG = ROOT / 'configs' / 'vipo_tiny_sd3.py'
#: Options with which the run of :class:`World` goes on.
SMALL_RUN = [
    *(f'{key}={value}' for key, value in SMALL.items()),
    'generator.lora.rank=2',
    'evaluation.num_prompts=2',
]
#: What no message for people says: an exception of Python that was printed as it came.
_RAW = (
    'object has no attribute',
    'unsupported operand',
    'not subscriptable',
    'not supported between',
    'is not iterable',
    'takes no arguments',
    'positional argument',
    'object is not callable',
    "can't multiply sequence",
    'expected type',
)


@dataclass(frozen=True)
class Case:
    """One broken input.

    Attributes:
        kind: name of the generator of it.
        what: what is broken.
        tool: module of ``tools``.
        argv: its arguments.
        words: each of them must be in the message; of a tuple, one of its words.
        env: environment variables.
        codes: exit codes that say what happened.
    """

    kind: str
    what: str
    tool: str
    argv: list[str]
    words: tuple[str | tuple[str, ...], ...]
    env: dict[str, str] = field(default_factory=dict)
    codes: tuple[int, ...] = (2, 3)

    def __str__(self) -> str:
        return f'{self.kind}: {self.what}\n    {self.tool} {" ".join(self.argv)} {self.env or ""}'


class World:
    """A folder with a finished run that nothing may damage, and room for every case.

    Attributes:
        canary: work dir of the finished run.
        checkpoint: the run's only one.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.canary = folder / 'canary'
        cfg = small_config(self.canary, train_cfg__max_iters=1, generator__lora__rank=2, evaluation__num_prompts=2)
        cfg.randomness = {'seed': 0}
        run(cfg)
        self.checkpoint = self.canary / 'iter_1.pth'
        self.before = self.digests()
        self._rooms = 0

    def room(self) -> Path:
        """A new empty folder."""
        self._rooms += 1
        path = self.folder / f'room_{self._rooms}'
        path.mkdir()
        return path

    def copy_of_run(self) -> Path:
        """A copy of the finished run, to be broken."""
        return Path(shutil.copytree(self.canary, self.room() / 'run'))

    def content(self) -> dict:
        """What the checkpoint holds."""
        return torch.load(self.checkpoint, weights_only=True)

    def digests(self) -> dict[str, str]:
        """sha256 of every file of the finished run."""
        files = (p for p in sorted(self.canary.rglob('*')) if p.is_file())
        return {str(p.relative_to(self.canary)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}

    def damage(self) -> list[str]:
        """Files of the finished run that are gone or have other bytes."""
        now = self.digests()
        return [name for name, digest in self.before.items() if now.get(name) != digest]

    def clear(self) -> None:
        """Remove the rooms."""
        for path in self.folder.glob('room_*'):
            shutil.rmtree(path)


class Hung(BaseException):
    """A case took too long; no tool may catch it."""


@contextlib.contextmanager
def _watchdog(seconds: float) -> Iterator[None]:
    def expire(number: int, frame: FrameType | None) -> None:
        raise Hung

    before = signal.signal(signal.SIGALRM, expire)
    # Where a library does not come back to Python, nothing else ends it.
    faulthandler.dump_traceback_later(3 * seconds, exit=True, file=sys.__stderr__)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def judge(case: Case, world: World, limit: float = 20.0) -> tuple[list[str], float]:
    """Complaints about what a tool made of a case, and the seconds that it took.

    Args:
        limit: seconds.
    """
    out, err = io.StringIO(), io.StringIO()
    code, raised = None, ''
    began = time.perf_counter()
    place = Path.cwd()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), mock.patch.dict(os.environ, case.env):
        main = importlib.import_module(f'tools.{case.tool}').main
        try:
            with _watchdog(limit):
                code = main(case.argv)
        except SystemExit as error:
            code = error.code
        except Hung:
            raised = f'hangs: {traceback.format_exc(limit=-4)}'
        except BaseException:
            raised = traceback.format_exc(limit=-6)
        finally:
            os.chdir(place)
    seconds = time.perf_counter() - began
    said = err.getvalue()
    complaints = [f'raised\n{raised}'] if raised else []
    if not raised:
        complaints = [*_about_message(case, code, said)]
    if damaged := world.damage():
        complaints.append(f'damaged {damaged}')
        shutil.rmtree(world.canary)
        World.__init__(world, world.folder)
    world.clear()
    return complaints, seconds


def _about_message(case: Case, code: object, said: str) -> Iterator[str]:
    if code in (0, None):
        yield f'accepted; stderr: {said[-300:]!r}'
        return
    if code not in case.codes:
        yield f'exit code {code}'
    start = said.rfind('error: ')
    if start < 0:
        yield f'no "error: " in {said[-300:]!r}'
        return
    message = said[start:]
    for words in case.words:
        if not any(word in message for word in ([words] if isinstance(words, str) else words)):
            yield f'{words!r} is not in {message!r}'
    if raw := [word for word in (*_RAW, 'Traceback') if word in said]:
        yield f'{raw} in {said[-1500:]!r}'
    if len(message) > 3000:
        yield f'a message of {len(message)} characters'
