"""Ranks of a run that are forked from a process which has imported everything already.

A rank starts in a second then, and not in the ten that Python needs to import what a run uses. What runs in it is the
script itself with its own arguments, output and environment, as Slurm starts it: nobody but the ranks themselves ends
the others before ``GRACE``. Run as a module this is a server: a request is a line of JSON with the arguments of
``run_ranks`` on its input, and so is the reply.
"""

from __future__ import annotations

import json
import os
import runpy
import signal
import sys
import time
import traceback
from collections.abc import Sequence
from pathlib import Path

from tests.ports import free_port

#: Seconds that the other ranks have to end by themselves after one has failed.
GRACE = 15.0


def import_all() -> None:
    """What takes a run longest to import."""
    import diffusers

    import tools.train  # noqa: F401
    import vipo.engine.runner  # noqa: F401

    diffusers.SD3Transformer2DModel, diffusers.WanTransformer3DModel  # noqa: B018  imports them


def start_rank(rank: int, ranks: int, port: int, command: Sequence[str], log: Path) -> int:
    """Fork a process that is this rank of the run and executes a script with its arguments; its number."""
    process = os.fork()
    if process:
        return process
    code = 1
    try:
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(output, 1)
        os.dup2(output, 2)
        os.environ |= {
            'RANK': str(rank),
            'LOCAL_RANK': str(rank),
            'WORLD_SIZE': str(ranks),
            'LOCAL_WORLD_SIZE': str(ranks),
            'MASTER_ADDR': '127.0.0.1',
            'MASTER_PORT': str(port),
        }
        sys.argv = list(command)
        sys.path.insert(0, str(Path(command[0]).resolve().parent))
        try:
            runpy.run_path(command[0], run_name='__main__')
            code = 0
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def run_ranks(command: Sequence[str], logs: Sequence[Path], timeout: float = 120.0, grace: float = GRACE) -> list[int]:
    """Start a rank for each of ``logs`` and wait until all have ended; their wait statuses.

    Args:
        command: a Python script and its arguments.
        grace: seconds after which the others are killed where one has failed.

    Raises:
        TimeoutError: they hang; they are killed.
    """
    port = free_port()
    running = {start_rank(rank, len(logs), port, command, log): rank for rank, log in enumerate(logs)}
    status, began, failed_at = [0] * len(logs), time.monotonic(), None
    while running:
        process, code = os.waitpid(-1, os.WNOHANG)
        if process in running:
            status[running.pop(process)] = code
            if code and failed_at is None:
                failed_at = time.monotonic()
        else:
            time.sleep(0.02)
        hangs = time.monotonic() - began > timeout
        if hangs or (failed_at is not None and time.monotonic() - failed_at > grace):
            for process in running:
                os.kill(process, signal.SIGKILL)
        if hangs:
            raise TimeoutError(f'the ranks did not end within {timeout:.0f} s: look at {", ".join(map(str, logs))}')
    return status


def serve() -> None:
    """Answer requests until the input ends."""
    replies = os.fdopen(os.dup(1), 'w')
    os.dup2(2, 1)  # nothing but replies on what the client reads
    for line in sys.stdin:
        request = json.loads(line)
        try:
            reply = {'codes': [os.waitstatus_to_exitcode(status) for status in run_ranks(**request)]}
        except TimeoutError as error:
            reply = {'error': str(error)}
        print(json.dumps(reply), file=replies, flush=True)


if __name__ == '__main__':
    import_all()
    serve()
