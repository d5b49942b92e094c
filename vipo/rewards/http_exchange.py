"""One HTTP request and its answer within a bounded time."""

from __future__ import annotations

import http.client
import io
import socket
import time
from typing import Any
from urllib.parse import urlsplit

#: Largest answer that is read, and the bytes that are sent at a time.
MAX_ANSWER, PIECE = 2**24, 2**16


class DeadlineReader(io.RawIOBase):
    """Reads a socket until a moment of ``time.monotonic()``; a socket's own timeout begins anew with every byte."""

    def __init__(self, connection: socket.socket, deadline: float) -> None:
        self.connection = connection
        self.deadline = deadline
        self._raw = connection.makefile('rb', buffering=0)  # keeps the socket open until this is closed

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        self.connection.settimeout(remaining(self.deadline))
        return self._raw.readinto(buffer)

    def close(self) -> None:
        self._raw.close()
        super().close()

    def makefile(self, mode: str) -> io.BufferedReader:
        """As ``http.client`` asks a socket for it."""
        return io.BufferedReader(self)


def remaining(deadline: float) -> float:
    """Seconds until then.

    Raises:
        TimeoutError: there are none left.
    """
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError('timed out')
    return left


def exchange(
    method: str, url: str, body: bytes | None, headers: dict[str, str], timeout: float
) -> tuple[int, str, bytes]:
    """One request and its answer: status, reason and body.

    Proxies of the environment are not used, and redirects are not followed.

    Args:
        timeout: seconds for everything from the first byte sent to the last one read; connecting may take as long again
            for each address of the host.

    Raises:
        OSError, http.client.HTTPException: no whole answer came.
    """
    address = urlsplit(url)
    kind = http.client.HTTPSConnection if address.scheme == 'https' else http.client.HTTPConnection
    connection = kind(address.hostname, address.port, timeout=timeout)
    try:
        connection.connect()
        deadline = time.monotonic() + timeout
        connection.response_class = lambda sock, **options: http.client.HTTPResponse(
            DeadlineReader(sock, deadline), **options
        )
        connection.putrequest(method, address.path)
        for name, value in {**headers, 'Connection': 'close', 'Content-Length': str(len(body or b''))}.items():
            connection.putheader(name, value)
        connection.endheaders()
        trouble: OSError | None = None
        try:
            for start in range(0, len(body or b''), PIECE):
                connection.sock.settimeout(remaining(deadline))
                connection.send(body[start : start + PIECE])
        except (BrokenPipeError, ConnectionResetError) as error:
            trouble = error  # a server that refuses a request may answer before it has read all of it
        try:
            response = connection.getresponse()
            answer = response.read(MAX_ANSWER + 1)
        except (OSError, http.client.HTTPException) as error:
            raise (trouble or error) from error
        if len(answer) > MAX_ANSWER:
            raise http.client.HTTPException(f'the answer is longer than {MAX_ANSWER} bytes')
        if response.length:
            raise http.client.IncompleteRead(answer, response.length)
        return response.status, response.reason, answer
    finally:
        connection.close()
