"""SIGTERM and SIGUSR1, by which clusters take machines back: save at the end of the iteration and leave."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from mmengine.dist import all_reduce
from mmengine.runner import Runner

from vipo.engine.checkpoint import PolicyCheckpointHook
from vipo.engine.watchdog import end_now

#: Exit code of a run that was asked to stop and can be resumed: EX_TEMPFAIL, "try again later".
PREEMPTED = 75
SIGNALS = (signal.SIGTERM, signal.SIGUSR1)
#: What ends the reading of signals; none has the number 0.
_END = b'\0'
#: Seconds within which a second signal is taken for the first one, which may come by two ways.
_SAME = 5.0

_asked = 0  # the number of the signal
_listening = False


class Preempted(Exception):
    """The run was asked to stop, and has; the message says how to go on."""


@contextmanager
def listening() -> Iterator[None]:
    """Within this context a signal asks the run to stop; a second one, at least five seconds later, ends it at once.

    For the main thread. Another one reads the signals, since Python's own handlers have to wait while the main thread
    is in a collective operation or in any other call that does not return.
    """
    global _asked, _listening
    _asked, _listening = 0, True
    before = {number: signal.signal(number, lambda *_: None) for number in SIGNALS}
    read, write = os.pipe()
    os.set_blocking(write, False)
    woken = signal.set_wakeup_fd(write, warn_on_full_buffer=False)
    thread = threading.Thread(target=_read, args=(read,), name='vipo signals', daemon=True)
    thread.start()
    try:
        yield
    finally:
        _listening = False
        signal.set_wakeup_fd(woken)
        for number, handler in before.items():
            signal.signal(number, handler)
        # Not by closing the pipe: a process that was forked meanwhile and still runs holds its other end.
        os.write(write, _END)
        thread.join()
        os.close(write)
        os.close(read)


def _hold() -> None:
    if _listening:
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)


def _release() -> None:
    if _listening:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)


def _forget() -> None:
    if _listening:
        signal.set_wakeup_fd(-1)
        for number in SIGNALS:
            signal.signal(number, signal.SIG_DFL)
        _release()


# Signals to a child, such as a worker of a data loader, are its own from its first moment.
os.register_at_fork(before=_hold, after_in_parent=_release, after_in_child=_forget)


def _read(pipe: int) -> None:
    global _asked
    first = 0.0
    while (data := os.read(pipe, 1)) != _END:
        number = data[0]
        if number not in SIGNALS:
            continue
        name = signal.Signals(number).name
        if not _asked:
            _asked, first = number, time.monotonic()
            print(f'{name}: the run saves and stops at the end of this iteration', file=sys.stderr, flush=True)
        elif time.monotonic() - first > _SAME:
            print(f'{name} for the second time: stopped without saving', file=sys.stderr)
            end_now(128 + number)


def stop_if_asked(runner: Runner) -> None:
    """At the end of an iteration: if any rank was asked to stop, save and stop on all of them.

    Raises:
        Preempted: the run was asked to, and it is not at its end anyway.
    """
    asked = torch.tensor(_asked)
    all_reduce(asked, 'max')
    done = runner.iter + 1
    if not asked or done == runner.max_iters or runner.train_loop.stop_training:
        return
    saved = 'nothing was saved, since the config has no checkpoint hook'
    if (hook := next((h for h in runner.hooks if isinstance(h, PolicyCheckpointHook)), None)) is not None:
        if done % hook.interval:  # else it has just been written
            hook.save(runner, done)
        saved = f'iter_{done}.pth in {runner.work_dir} has everything: the same command with --resume goes on from it'
    name = signal.Signals(int(asked)).name
    raise Preempted(f'{name}: stopped after iteration {done} of {runner.max_iters}; {saved}')
