"""listen.holder: the program behind a taken port, where the system tells."""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path

import pytest

from mini_agent.listen.holder import holder_of


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells")
@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_the_holder_of_a_port_is_named(host: str) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as server:
        server.bind((host, 0))
        server.listen()
        named = holder_of(server.getsockname()[1])
    assert named is not None
    assert f"(process {os.getpid()})" in named


def test_nobody_is_named_for_a_free_port_or_without_proc(tmp_path: Path) -> None:
    assert holder_of(1, str(tmp_path)) is None
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    assert holder_of(port) is None
