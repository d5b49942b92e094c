"""Serves any reward over HTTP: the other end of :class:`~vipo.rewards.RemoteReward`."""

from __future__ import annotations

import hashlib
import hmac
import inspect
import json
import logging
import socketserver
import sys
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import torch

from vipo.rewards.base import Reward, RewardOutput, find_culprit
from vipo.rewards.function import FunctionReward
from vipo.rewards.http_client import describe
from vipo.rewards.http_exchange import DeadlineReader
from vipo.rewards.wire import VERSION, ScoreRequest, WireError, read_request, to_pixels, write_answer

_log = logging.getLogger(__name__)
#: Seconds within which a request must have arrived, and for which the rest of a refused one is still taken.
ARRIVAL, LINGER = 60.0, 2.0


class RewardServer(ThreadingHTTPServer):
    """Answers ``POST /score`` and ``GET /info``, see ``docs/reward-service.md``; it listens once it is made.

    Requests are read side by side, and the reward sees them one after the other. A request that comes a second time,
    byte for byte, gets the answer of the first: a client whose connection broke does not cost the score again.

    Args:
        reward: what is served.
        host, port: where to listen; port 0 takes a free one, see :attr:`url`.
        device: where the pixels are put; the reward itself is moved by the caller.
        key: bearer token that every request must carry; None asks for none.
        max_batch: most samples of a request.
        max_bytes: most bytes of a request.
        remembered: answers that are kept for repeated requests.

    Raises:
        OSError: the port is in use, or the host is no address of this machine.
    """

    daemon_threads = False  # what is being scored when the server stops is still answered
    request_queue_size = 128

    def __init__(
        self,
        reward: Reward,
        host: str = '127.0.0.1',
        port: int = 0,
        device: torch.device | str = 'cpu',
        key: str | None = None,
        max_batch: int = 64,
        max_bytes: int = 2**28,
        remembered: int = 64,
    ) -> None:
        if min(max_batch, max_bytes, remembered) < 1:
            raise ValueError(
                f'max_batch, max_bytes and remembered must be at least 1, got {max_batch}, {max_bytes}, {remembered}'
            )
        super().__init__((host, port), _Handler)
        self.reward, self.device, self.key = reward, device, key
        self.max_batch, self.max_bytes = max_batch, max_bytes
        self._answers = _Answers(remembered)
        self._turn = threading.Lock()

    def server_bind(self) -> None:
        """Without HTTPServer's look-up of the host's full name, which can take seconds."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = self.server_address[:2]

    @property
    def url(self) -> str:
        """Address for clients on this machine."""
        return f'http://{self.server_address[0]}:{self.server_address[1]}'

    def info(self) -> dict[str, Any]:
        """Answer to ``GET /info``."""
        judge = self.reward.function if isinstance(self.reward, FunctionReward) else type(self.reward)
        weights = self.reward.weights
        return {
            'version': VERSION,
            'name': getattr(judge, '__qualname__', type(judge).__name__),
            'scores': (inspect.getdoc(judge) or '').partition('\n')[0],
            'max_batch': self.max_batch,
            'max_bytes': self.max_bytes,
            **({'weights': {k: float(v) for k, v in weights.items()}} if weights else {}),
        }

    def answer(self, body: bytes) -> bytes:
        """Answer to ``POST /score``.

        Raises:
            WireError: the request is not as the protocol says.
            _ScoringError: the reward failed.
        """
        return self._answers.get(hashlib.sha256(body).digest(), lambda: self._score(read_request(body, self.max_batch)))

    def _score(self, request: ScoreRequest) -> bytes:
        pixels = to_pixels(request.pixels).to(self.device)
        count, name = len(request.prompts), self.info()['name']
        with self._turn, torch.no_grad():
            try:
                output = self.reward(pixels, request.prompts, request.metadata)
            except Exception as error:
                index, cause = find_culprit(error, self.reward, pixels, request.prompts, request.metadata)
                raise _ScoringError(cause, name, index) from error
        if not isinstance(output, RewardOutput):
            raise _ScoringError(ValueError(f'it returned {type(output).__name__}, not RewardOutput'), name)
        for part, value in {'scores': output.scores, 'valid': output.valid, **output.parts}.items():
            if value.shape != (count,):
                raise _ScoringError(ValueError(f'{part} of {count} samples have shape {tuple(value.shape)}'), name)
        return write_answer(output, request.id)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """One line in place of socketserver's traceback: in most cases a client has gone away."""
        _log.warning('%s: %s', client_address[0], describe(sys.exc_info()[1]))


class _ScoringError(Exception):
    """The reward failed. A ValueError of it is about the sample, and another attempt would change nothing."""

    def __init__(self, cause: Exception, reward: str, sample: int | None = None) -> None:
        super().__init__(f'{reward} failed: {type(cause).__name__}: {cause}')
        self.status = 422 if isinstance(cause, ValueError) else 500
        self.sample = sample


class _Answers:
    """The newest answers by request. Who asks while an answer is being made waits for it; failures are forgotten."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._lock = threading.Lock()
        self._futures: OrderedDict[bytes, Future[bytes]] = OrderedDict()

    def get(self, key: bytes, make: Callable[[], bytes]) -> bytes:
        with self._lock:
            future = self._futures.get(key)
            first = future is None
            if first:
                future = self._futures[key] = Future()
                while len(self._futures) > self._size:
                    self._futures.popitem(last=False)
        if first:
            try:
                future.set_result(make())
            except Exception as error:
                with self._lock:
                    self._futures.pop(key, None)
                future.set_exception(error)
        return future.result()


class _Handler(BaseHTTPRequestHandler):
    """One request."""

    server: RewardServer
    server_version = 'ViPO'
    sys_version = ''
    default_request_version = 'HTTP/1.0'  # before that, an answer had no status

    def setup(self) -> None:
        super().setup()
        self.rfile.close()
        self.rfile = DeadlineReader(self.connection, time.monotonic() + ARRIVAL).makefile('rb')

    def do_GET(self) -> None:
        if not self._allowed():
            return
        if self.path == '/info':
            self._reply(200, json.dumps(self.server.info()).encode())
        else:
            self._fail(404, f'there is no {self.path[:80]}; GET /info and POST /score are what there is')

    def do_POST(self) -> None:
        began = time.perf_counter()
        length = self.headers.get('Content-Length', '')
        if not self._allowed():
            self._discard()
        elif self.path != '/score':
            self._fail(404, f'there is no {self.path[:80]}; GET /info and POST /score are what there is')
            self._discard()
        elif not (length.isascii() and length.isdigit()) or 'Transfer-Encoding' in self.headers:
            self._fail(411, 'a request needs a Content-Length')
            self._discard()
        elif int(length) > self.server.max_bytes:
            self._fail(413, f'a request may have {self.server.max_bytes} bytes, not {length}; send fewer samples')
            self._discard()
        elif len(body := self.rfile.read(int(length))) == int(length):  # else the client has gone away
            self._score(body)
            _log.info('%s: %.2f s', self.address_string(), time.perf_counter() - began)

    def _score(self, body: bytes) -> None:
        try:
            answer = self.server.answer(body)
        except WireError as error:
            self._fail(400, str(error), error.sample)
        except _ScoringError as error:
            self._fail(error.status, str(error), error.sample)
        else:
            self._reply(200, answer)

    def _allowed(self) -> bool:
        key, given = self.server.key, self.headers.get('Authorization', '')
        if key is None or hmac.compare_digest(given.encode(), f'Bearer {key}'.encode()):
            return True
        self._fail(401, 'this server wants a bearer token: name its environment variable in reward.key_variable')
        return False

    def _discard(self) -> None:
        """Take what still arrives of a request that was refused: closing at once could destroy the answer."""
        self.wfile.flush()
        self.rfile.raw.deadline = time.monotonic() + LINGER
        try:
            while self.rfile.read(2**16):
                pass
        except OSError:
            pass  # it has been answered; nothing is lost with the rest

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """What the base class refuses by itself, in JSON too."""
        self._fail(code, message or self.responses[code][0])

    def _fail(self, status: int, text: str, sample: int | None = None) -> None:
        _log.warning('%s: %d %s', self.address_string(), status, text)
        self._reply(status, json.dumps({'error': text, 'sample': sample}).encode())

    def _reply(self, status: int, body: bytes) -> None:
        self.connection.settimeout(ARRIVAL)
        self.send_response(status)
        self.send_header('Content-Type', 'application/json')
        self.send_header('Content-Length', str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Silent: what is worth a line is logged where it happens."""
