"""Local servers that stand for remote ones in a rehearsal: the whole way there and back, and a score of no meaning."""

from __future__ import annotations

import json
import re
import threading
import zlib
from collections.abc import Mapping, Sequence
from http.server import BaseHTTPRequestHandler, HTTPServer, ThreadingHTTPServer
from typing import Any

from torch import Tensor

from vipo.rewards.function import FunctionReward
from vipo.rewards.server import RewardServer


class StandIn:
    """A server in a thread of this process.

    Args:
        server: bound to a free port of this machine.
    """

    def __init__(self, server: HTTPServer) -> None:
        self._server = server
        self.url = f'http://127.0.0.1:{server.server_address[1]}'
        threading.Thread(target=server.serve_forever, kwargs={'poll_interval': 0.05}, daemon=True).start()

    def stop(self) -> None:
        """Free the port soon. It may be called in any thread, also in the server's own."""
        threading.Thread(target=self._stop, daemon=True).start()

    def _stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()


def brightness(pixels: Tensor, prompts: Sequence[str], metadata: Sequence[dict[str, Any]] | None = None) -> Tensor:
    """Mean brightness ``(B,)``: no opinion about anything, but no constant either."""
    return pixels.mean((1, 2, 3, 4))


def serve_brightness() -> StandIn:
    """Stands for the server of a :class:`~vipo.rewards.RemoteReward`."""
    return StandIn(RewardServer(FunctionReward(brightness), max_batch=2**20))


def serve_example(
    model: str, example: str, patterns: Mapping[str, re.Pattern[str]], low: float, high: float
) -> StandIn:
    """Stands for the endpoint of a :class:`~vipo.rewards.JudgeReward`: every answer is its example with other numbers.

    Args:
        model: the only one that the endpoint has.
        example, patterns, low, high: those of the judge.
    """

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._reply({'data': [{'id': model}]})

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers['Content-Length']))
            share = zlib.crc32(body) / 2**32
            text = with_numbers(example, patterns, low + share * (high - low))
            self._reply({'choices': [{'message': {'content': text}, 'finish_reason': 'stop'}]})

        def _reply(self, message: dict[str, Any]) -> None:
            body = json.dumps(message).encode()
            self.send_response(200)
            self.send_header('Content-Length', str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            """Silent."""

    return StandIn(_Server(('127.0.0.1', 0), Handler))


class _Server(ThreadingHTTPServer):
    #: With the library's 5, a judge's concurrent requests wait a second for a second attempt to connect.
    request_queue_size = 128


def with_numbers(example: str, patterns: Mapping[str, re.Pattern[str]], number: float) -> str:
    """The example with ``number`` in place of every number that a pattern reads, rounded where that one is whole."""
    for pattern in patterns.values():
        for match in reversed(list(pattern.finditer(example))):
            whole = match[1].strip().lstrip('+-').isdigit()
            written = f'{number:.0f}' if whole else f'{number:.3f}'
            example = example[: match.start(1)] + written + example[match.end(1) :]
    return example
