"""Knows where every rank is, and ends a run in which ranks wait for one that is missing."""

from __future__ import annotations

import json
import os
import socket
import sys
import threading
import time
import traceback
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from types import FrameType
from typing import NoReturn

from torch.distributed import DistError, PrefixStore, Store, TCPStore

from vipo.engine.clock import PhaseClock, Progress

#: Seconds that a rank has to end by itself once another one has said why it stopped.
_GRACE = 3.0
#: Seconds that the rank which keeps the store waits before it leaves, for ranks that have not yet read why.
_PATIENCE = 5.0
#: Where a rank is that waits for the others.
_COLLECTIVE = (f'{os.sep}torch{os.sep}distributed{os.sep}', f'{os.sep}mmengine{os.sep}dist{os.sep}')
_LIBRARY = f'{os.sep}torch{os.sep}'
_UNREACHABLE = 'the process that keeps the store of the run cannot be reached any more'
_ADVICE = 'What was saved is untouched: the same command with --resume goes on from the last checkpoint.'


@dataclass
class Place:
    """Where a rank is, as it tells the others.

    Attributes:
        position: of two ranks, the one whose position compares as smaller is behind.
        title: of the iteration, empty before the first.
        since: when it last got on with its work, in seconds of ``time.time()``.
        told: when it said so.
        line: the line of code it is at.
    """

    rank: int
    host: str
    pid: int
    position: list[float]
    title: str
    phase: str
    since: float
    told: float
    line: str

    def describe(self) -> str:
        """Phase, iteration, since when, and where in the code."""
        at = datetime.fromtimestamp(self.since).strftime('%H:%M:%S')
        title = f' of {self.title}' if self.title else ''
        return (
            f'phase {self.phase!r}{title}, no progress since {at} ({time.time() - self.since:.0f} s), '
            f'at {self.line} (host {self.host}, pid {self.pid})'
        )


class Watchdog:
    """A thread on each rank that publishes where the rank is and looks whether the run still gets on.

    A run is over when no rank has got on for longer than ``timeout`` and they are not all at the same place: those that
    are behind are missing, and the others wait for them. Each rank finds that by itself and ends its process, the
    missing one as well if its threads still run. A rank that only works slowly keeps the run alive.

    Clocks of the machines have to agree within a small part of ``timeout``.

    Args:
        store: any rank can write to it and read from it while another one hangs.
        timeout: seconds; longer than any single step of the work (a micro-batch, a call of a reward).
        main: ident of the thread that works.
    """

    def __init__(self, store: Store, rank: int, world_size: int, timeout: float, main: int | None = None) -> None:
        self.rank = rank
        self.world_size = world_size
        self.timeout = timeout
        self.interval = min(1.0, timeout / 10)
        #: Tells how far the rank is; until there is one, it is loading.
        self.clock: PhaseClock | None = None
        self._store = store
        self._main = main or threading.main_thread().ident
        self._began = time.time()
        self._waits = False
        self._changed = self._began  # when it began to wait, or ceased to
        self._said: str | None = None
        self._over = threading.Event()
        self._ending = threading.Lock()
        self.publish()
        self._thread = threading.Thread(target=self._run, name='vipo watchdog', daemon=True)
        self._thread.start()

    def place(self) -> Place:
        """Where this rank is now."""
        frame = sys._current_frames().get(self._main)
        waits, line = _whereabouts(frame)
        if waits != self._waits:
            self._waits, self._changed = waits, time.time()
        progress = Progress(0, 0.0, 0, '', 'loading', self._began) if self.clock is None else self.clock.progress
        return Place(
            rank=self.rank,
            host=socket.gethostname(),
            pid=os.getpid(),
            position=[progress.phases, progress.share, progress.marks, int(waits)],
            title=progress.title,
            phase=progress.phase,
            since=max(progress.since, self._changed),
            told=time.time(),
            line=line,
        )

    def publish(self) -> Place:
        """Tell the others where this rank is."""
        place = self.place()
        self._store.set(f'place/{self.rank}', json.dumps(asdict(place)))
        return place

    def read(self) -> list[Place]:
        """Where all ranks are, in rank order."""
        return [Place(**json.loads(text)) for text in self._store.multi_get(self._keys())]

    def _keys(self) -> list[str]:
        return [f'place/{rank}' for rank in range(self.world_size)]

    def note(self, message: str) -> None:
        """Tell the others why this rank stops; the first to say so is heard."""
        place = self.place()
        text = json.dumps({'rank': self.rank, 'phase': place.phase, 'title': place.title, 'message': message})
        self._store.compare_set('stopped', '', text)

    def stopped(self) -> str | None:
        """Which other rank stopped and why, None where none has said so."""
        if self._said is None and self._store.check(['stopped']):
            said = json.loads(self._store.get('stopped'))
            title = f' of {said["title"]}' if said['title'] else ''
            if said['rank'] != self.rank:
                self._hear()
                self._said = f'rank {said["rank"]} stopped in phase {said["phase"]!r}{title}: {said["message"]}'
        return self._said

    def _hear(self) -> None:
        """Tell the rank that keeps the store that this one needs it no more."""
        self._store.set(f'heard/{self.rank}', '')

    def _wait_for_others(self) -> None:
        """The store ends with the process that keeps it: until the others know why the run is over."""
        if self.rank != 0 or os.environ.get('TORCHELASTIC_USE_AGENT_STORE') == 'True':
            return
        others = [f'heard/{rank}' for rank in range(1, self.world_size)]
        until = time.time() + _PATIENCE
        while not self._store.check(others) and time.time() < until:
            time.sleep(0.05)

    def missing(self, places: list[Place]) -> list[Place]:
        """Those that the others wait for; empty while any rank gets on, and where all are at the same place."""
        if min(time.time() - place.since for place in places) < self.timeout:
            return []
        behind = min(place.position for place in places)
        absent = [place for place in places if place.position == behind]
        return absent if len(absent) < len(places) else []

    def accuse(self, absent: list[Place]) -> str:
        """The message for a rank that is missing."""
        who = '; '.join(f'rank {place.rank} is missing: {place.describe()}' for place in absent)
        names = [place.rank for place in absent]
        others = [rank for rank in range(self.world_size) if rank not in names]
        whom = 'itself' if self.rank in names else 'one that waits'
        return (
            f'{who}. Rank(s) {others} have waited for longer than env_cfg.dist_cfg.timeout={self.timeout:g} s; this is '
            f'rank {self.rank}, {whom}. {_ADVICE}'
        )

    def explain(self, error: BaseException) -> str:
        """What a rank says that has lost the others in a collective operation."""
        try:
            return self._explain(str(error).splitlines()[0][:160])
        except DistError as unreachable:
            return f'rank {self.rank} lost the others ({error}), and {_UNREACHABLE} ({unreachable}). {_ADVICE}'

    def _explain(self, error: str) -> str:
        until = time.time() + _GRACE
        while (said := self.stopped()) is None and time.time() < until:
            time.sleep(0.1)
        if said is not None:
            return f'{said} This is rank {self.rank}.'
        places = self.read()
        if absent := self.missing(places):
            return self.accuse(absent)
        others = [place for place in places if place.rank != self.rank]
        now, title = time.time(), f' of {places[self.rank].title}' if places[self.rank].title else ''
        gone = [place.rank for place in others if now - place.told > 1 + self.interval]
        why = (
            f'rank(s) {gone} are gone: killed, or on a machine that cannot be reached'
            if gone
            else 'all of them still run: the network between them failed, or one of them takes longer than '
            f'env_cfg.dist_cfg.timeout={self.timeout:g} s'
        )
        where = '\n'.join(f'  rank {place.rank}: {place.describe()}' for place in others)
        return (
            f'rank {self.rank} lost the others in phase {places[self.rank].phase!r}{title}; {why} '
            f'({error}). Where they were last:\n{where}\n{_ADVICE}'
        )

    def close(self) -> None:
        """Stop watching."""
        self._over.set()
        self._thread.join()

    def end(self, message: str, code: int = 3, tell: bool = False) -> NoReturn:
        """Say why and end this process now: its threads would wait for those of other ranks.

        Args:
            tell: the other ranks as well.
        """
        if not self._ending.acquire(blocking=False):
            time.sleep(60)  # the other thread ends the process
        print(f'error: {message}', file=sys.stderr, flush=True)
        try:
            if tell:
                self.note(message)
            self._hear()
            self._wait_for_others()
        except DistError as error:
            if tell:
                print(f'the other ranks could not be told: {error}', file=sys.stderr)
        end_now(code)

    def _run(self) -> None:
        alone = 0.0  # since when another rank has stopped or the store is gone
        while not self._over.wait(self.interval):
            absent: list[Place] = []
            trouble = None
            try:
                place = self.publish()
                trouble = self.stopped()
                if trouble is None and time.time() - place.since > self.timeout:
                    absent = self.missing(self.read())
            except DistError as error:
                trouble = self._said or f'{_UNREACHABLE} ({error}).'
            alone = 0.0 if trouble is None else alone or time.time()
            if trouble is not None and time.time() - alone > _GRACE and not self._over.is_set():
                self.end(f'{trouble} This is rank {self.rank}, which cannot go on alone.')
            if absent:
                if self.rank in [other.rank for other in absent]:
                    frame = sys._current_frames().get(self._main)
                    print(''.join(traceback.format_stack(frame)), file=sys.stderr)
                self.end(self.accuse(absent))


def _whereabouts(frame: FrameType | None) -> tuple[bool, str]:
    """Whether a thread is in a collective operation, and the innermost line outside torch."""
    waits, line = False, ''
    while frame is not None:
        name = frame.f_code.co_filename
        waits = waits or any(part in name for part in _COLLECTIVE)
        if not line and _LIBRARY not in name and name != __file__:
            line = f'{name}:{frame.f_lineno} in {frame.f_code.co_name}'
        frame = frame.f_back
    return waits, line


def end_now(code: int) -> None:
    """Leave without the ends of threads and process groups, which would wait for other ranks."""
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(code)


_current: Watchdog | None = None


def start_watchdog(rank: int, world_size: int, timeout: float) -> Watchdog:
    """Watch from now on. The process group must be up: its store, which outlives a rank that hangs, is used."""
    global _current
    # A connection of its own: that of the process group may be blocked by a collective operation.
    store = TCPStore(
        os.environ['MASTER_ADDR'],
        int(os.environ['MASTER_PORT']),
        is_master=False,
        timeout=timedelta(seconds=30),
        wait_for_workers=False,
    )
    # A restarted run must not read what was said in the one before.
    prefix = f'vipo/{os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")}'
    _current = Watchdog(PrefixStore(prefix, store), rank, world_size, timeout)
    return _current


def current_watchdog() -> Watchdog | None:
    """That of this process; None where there is a single one."""
    return _current


def fail(message: str, code: int) -> int:
    """Say why this rank cannot go on, to the user and to the other ranks.

    Returns:
        The exit code, for a single process; one of several ends here.
    """
    watchdog = current_watchdog()
    if watchdog is None:
        print(f'error: {message}', file=sys.stderr)
        return code
    watchdog.end(message, code, tell=True)


def fail_unexpectedly(error: Exception) -> int:
    """The same for an error that nobody foresaw: lost ranks are explained, anything else shows its traceback.

    Raises:
        Exception: the error itself, in a single process.
    """
    watchdog = current_watchdog()
    if watchdog is None:
        raise error
    # gloo raises plain errors that begin with the name of its source file.
    if isinstance(error, DistError) or 'gloo' in str(error).lower():
        watchdog.end(watchdog.explain(error))
    traceback.print_exception(error)
    return fail(f'{type(error).__name__}: {error}', 1)
