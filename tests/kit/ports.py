"""Ports that were free a moment ago, for programs that cannot say which one they took."""

from __future__ import annotations

import socket


def find_tcp_port() -> int:
    """A loopback TCP port nobody listens on; another program may take it before the caller does."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def find_udp_port() -> int:
    """The same for datagrams."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams:
        datagrams.bind(("127.0.0.1", 0))
        return int(datagrams.getsockname()[1])
