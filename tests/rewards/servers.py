"""Servers on real sockets that behave, or misbehave, as a test asks them to."""

from __future__ import annotations

import contextlib
import json
import socket
import socketserver
import threading
import time
from collections.abc import Callable, Iterator

#: Gets the raw request body and the connection, and writes what it likes.
Behaviour = Callable[[bytes, socket.socket], None]


@contextlib.contextmanager
def running(server: socketserver.BaseServer) -> Iterator[str]:
    """The address of a server that runs in a thread."""
    thread = threading.Thread(target=server.serve_forever, kwargs={'poll_interval': 0.01})
    thread.start()
    try:
        yield 'http://{}:{}'.format(*server.server_address[:2])
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class Scripted(socketserver.ThreadingTCPServer):
    """Handles its n-th connection by the n-th behaviour; the last one stays. Speaks HTTP byte by byte."""

    allow_reuse_address = True
    daemon_threads = True

    def __init__(self, *behaviours: Behaviour, port: int = 0) -> None:
        super().__init__(('127.0.0.1', port), None)
        self.behaviours = behaviours
        self.bodies: list[bytes] = []
        self.heads: list[bytes] = []
        self._lock = threading.Lock()

    def finish_request(self, request: socket.socket, client_address: tuple[str, int]) -> None:
        head, body = read_http(request)
        with self._lock:
            number = len(self.bodies)
            self.bodies.append(body)
            self.heads.append(head)
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self.behaviours[min(number, len(self.behaviours) - 1)](body, request)

    def handle_error(self, request: socket.socket, client_address: tuple[str, int]) -> None:
        """Silent: what goes wrong here shows in the client that the test is about."""


def read_http(connection: socket.socket) -> tuple[bytes, bytes]:
    """Head and body of a request with a Content-Length."""
    data = b''
    while b'\r\n\r\n' not in data:
        data += connection.recv(65536)
    head, body = data.split(b'\r\n\r\n', 1)
    length = next((int(x.split(b':')[1]) for x in head.split(b'\r\n') if x.lower().startswith(b'content-length')), 0)
    while len(body) < length:
        body += connection.recv(65536)
    return head, body


def http(body: bytes, status: str = '200 OK', length: int | None = None) -> bytes:
    """An answer; ``length`` is what its header claims."""
    return f'HTTP/1.1 {status}\r\nContent-Length: {len(body) if length is None else length}\r\n\r\n'.encode() + body


def says(body: bytes, status: str = '200 OK') -> Behaviour:
    return lambda request, connection: connection.sendall(http(body, status))


def scores(**changes: object) -> Behaviour:
    """A right answer, with sample i of a request scored i; ``changes`` replace what is in it, None takes it out."""

    def answer(request: bytes, connection: socket.socket) -> None:
        asked = json.loads(request)
        count = len(asked['samples'])
        message = {
            'version': 1,
            'id': asked['id'],
            'scores': [float(i) for i in range(count)],
            'valid': [True] * count,
            'parts': {},
        }
        message = {k: v for k, v in {**message, **changes}.items() if v is not None}
        connection.sendall(http(json.dumps(message).encode()))

    return answer


def sleeps(seconds: float, then: Behaviour) -> Behaviour:
    def answer(request: bytes, connection: socket.socket) -> None:
        time.sleep(seconds)
        then(request, connection)

    return answer


def drips(request: bytes, connection: socket.socket) -> None:
    """An answer that begins well and never ends, a byte at a time, each of them in time."""
    connection.sendall(b'HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n')
    for _ in range(200):
        connection.sendall(b' ')
        time.sleep(0.02)


def drips_headers(request: bytes, connection: socket.socket) -> None:
    connection.sendall(b'HTTP/1.1 200 OK\r\nX: ')
    for _ in range(200):
        connection.sendall(b'x')
        time.sleep(0.02)


def breaks_off(request: bytes, connection: socket.socket) -> None:
    """The connection closes in the middle of a right answer."""
    whole = json.dumps({'version': 1, 'id': json.loads(request)['id'], 'scores': [0.0], 'valid': [True]}).encode()
    connection.sendall(http(whole[: len(whole) // 2], length=len(whole)))


def breaks_off_unnoticed(request: bytes, connection: socket.socket) -> None:
    """The same without a length, so that only the JSON shows it."""
    connection.sendall(b'HTTP/1.0 200 OK\r\n\r\n{"version": 1, "id": "' + json.loads(request)['id'].encode())


def closes(request: bytes, connection: socket.socket) -> None:
    """No answer at all."""


def resets(request: bytes, connection: socket.socket) -> None:
    """A reset in place of an answer."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b'\x01\x00\x00\x00\x00\x00\x00\x00')
