"""Ports on this machine."""

import socket


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        return s.getsockname()[1]
