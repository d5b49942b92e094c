"""Which network interface leads to the other nodes."""

from __future__ import annotations

import os
import socket

import psutil

from vipo.registry import ConfigError


def choose_interface() -> None:
    """Have gloo talk over the interface that leads to ``MASTER_ADDR``; a user's ``GLOO_SOCKET_IFNAME`` wins.

    By itself gloo takes the address that the machine's own name stands for, which on many machines is 127.0.1.1: no
    other node can answer there. Processes of one machine need nothing.

    Raises:
        ConfigError: ``MASTER_ADDR`` is no address that can be reached from here.
    """
    alone = os.environ.get('LOCAL_WORLD_SIZE') == os.environ.get('WORLD_SIZE')
    if not alone and 'GLOO_SOCKET_IFNAME' not in os.environ and 'MASTER_ADDR' in os.environ:
        os.environ['GLOO_SOCKET_IFNAME'] = interface_to(os.environ['MASTER_ADDR'])


def interface_to(host: str) -> str:
    """The name of the interface that has the address which this machine shows to ``host``.

    Raises:
        ConfigError: there is no way to ``host``.
    """
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, 9, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, kind) as probe:
            probe.connect(address)  # asks for the way; nothing is sent
            own = probe.getsockname()[0]
    except OSError as error:
        raise ConfigError(f'MASTER_ADDR={host} cannot be reached from this machine: {error}') from error
    found = [
        name
        for name, addresses in psutil.net_if_addrs().items()
        if any(a.family == family and a.address.partition('%')[0] == own for a in addresses)
    ]
    if not found:
        raise ConfigError(
            f'no network interface has the address {own}, which leads to MASTER_ADDR={host}; name one with the '
            'environment variable GLOO_SOCKET_IFNAME'
        )
    return found[0]
