"""The same promises on every way in: TCP, Unix socket, named pipe."""

from __future__ import annotations

import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from kit.contracts import PROMISES, PipeWay, Serving, TcpWay, UnixWay

WAYS = [
    TcpWay,
    pytest.param(
        UnixWay,
        marks=pytest.mark.skipif(
            not hasattr(socket, "AF_UNIX"), reason="this Python has no Unix sockets"
        ),
    ),
    pytest.param(
        PipeWay,
        marks=pytest.mark.skipif(
            sys.platform != "win32",
            reason="named pipes are Windows'; tests/windows runs this under Wine",
        ),
    ),
]


@pytest.fixture(params=WAYS, ids=lambda way: way.name)
def serving(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Serving]:
    with Serving(request.param(tmp_path)) as serving:
        yield serving
    assert serving.complaints == []


@pytest.mark.parametrize("promise", PROMISES, ids=lambda promise: promise.__name__)
def test_every_listener_keeps(serving: Serving, promise: Callable[[Serving], None]) -> None:
    promise(serving)
