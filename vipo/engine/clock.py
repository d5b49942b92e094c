"""Times the phases of an iteration, shows that something is happening, and reads how much memory it took."""

from __future__ import annotations

import resource
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import NamedTuple

import torch

_START = time.perf_counter()
#: Seconds after which a phase is worth an estimate of its end.
_LONG = 5.0


def begin(start: float) -> None:
    """Say when the process began (``time.perf_counter()``), which is before its slow imports."""
    global _START
    _START = start


def since_start() -> float:
    """Wall-clock seconds since then."""
    return time.perf_counter() - _START


def _now() -> float:
    """Seconds, once the GPU has done what it was given: else a phase would pay for the one before."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def peak_memory() -> float:
    """MiB: of this rank's GPU since MMEngine last logged, or without one of this process since it began."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**20
    unit = 2**20 if sys.platform == 'darwin' else 2**10  # bytes there, KiB on Linux
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


class Progress(NamedTuple):
    """How far a process has come; of two, the one that compares as smaller is behind the other.

    Attributes:
        phases: entered since the start.
        share: of the phase's samples.
        marks: things done since the last sample.
        title: of the iteration, empty before the first.
        phase: its name, ``'after ...'`` once it is over.
        since: when that was, in seconds of ``time.time()``.
    """

    phases: int
    share: float
    marks: int
    title: str
    phase: str
    since: float


class PhaseClock:
    """Wall-clock seconds per phase, and a live line.

    On a terminal the line is rewritten in place. Elsewhere a line is printed whenever nothing has been for a while, so
    that a log has no silent minutes.

    Args:
        quiet_seconds: longest silence where the output is no terminal.
        enabled: False on all ranks but the first.
    """

    def __init__(self, quiet_seconds: float = 20.0, enabled: bool = True) -> None:
        self.times: dict[str, float] = {}
        self.status = ''
        self.enabled = enabled
        self._quiet = quiet_seconds
        self._live = sys.stderr.isatty()
        self._title = ''
        self._phase = ''
        self._done = 0
        self._total: int | None = None
        self._phase_began = 0.0
        self._began = self._shown = time.perf_counter()
        self._phases = self._marks = 0
        #: Replaced as a whole with every step of progress, so that another thread can read it.
        self.progress = Progress(0, 0.0, 0, '', 'loading', time.time())

    def start_iteration(self, title: str) -> None:
        """Forget the times of the last iteration."""
        self.times = {}
        self._title = title
        self._began = time.perf_counter()

    def stop_iteration(self) -> None:
        """Complete :attr:`times` with ``rest`` (what no phase covers) and ``total``."""
        total = _now() - self._began
        self.times = {**self.times, 'rest': total - sum(self.times.values()), 'total': total}
        self.clear()

    @contextmanager
    def phase(self, name: str, total: int | None = None) -> Iterator[None]:
        """Time a phase; ``total`` is the number of samples it goes through."""
        began = _now()
        self._phase, self._total, self._done, self._phase_began = name, total, 0, began
        self._phases, self._marks = self._phases + 1, 0
        self._note(name)
        self._show()
        yield
        self.times[name] = self.times.get(name, 0.0) + _now() - began
        self._phases, self._marks, self._done = self._phases + 1, 0, 0
        self._note(f'after {name}')

    def advance(self, count: int) -> None:
        """``count`` more samples of the phase are done."""
        self._done, self._marks = self._done + count, 0
        self._note(self._phase)
        self._show()

    def mark(self) -> None:
        """Something else of the phase is done, and what comes now may wait for other ranks."""
        self._marks += 1
        self._note(self._phase)

    def _note(self, phase: str) -> None:
        share = self._done / self._total if self._total else float(self._total == 0)
        self.progress = Progress(self._phases, share, self._marks, self._title, phase, time.time())

    def clear(self) -> None:
        """Wipe the live line, before a log line is printed."""
        if self._live and self.enabled:
            sys.stderr.write('\r\x1b[K')
            sys.stderr.flush()
        self._shown = time.perf_counter()

    def _left(self, now: float) -> str:
        """What a long phase will still take, at its pace so far."""
        passed = now - self._phase_began
        if passed < _LONG or not 0 < self._done < self._total:
            return ''
        return f', {timedelta(seconds=round(passed / self._done * (self._total - self._done)))} left'

    def _show(self) -> None:
        now = time.perf_counter()
        if not self.enabled or now - self._shown < (0.1 if self._live else self._quiet):
            return
        self._shown = now
        share = f' {self._done}/{self._total}{self._left(now)}' if self._total else ''
        line = ' | '.join(part for part in (self._title, f'{self._phase}{share}', self.status) if part)
        # A line that wraps could not be rewritten in place.
        width = shutil.get_terminal_size().columns - 1
        while self._live and len(line) > width and ' | ' in line:
            line = line.rpartition(' | ')[0]
        sys.stderr.write(f'\r\x1b[K{line[:width]}' if self._live else line + '\n')
        sys.stderr.flush()
