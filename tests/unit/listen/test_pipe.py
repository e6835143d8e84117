"""listen.pipe: what a named pipe needs beyond the promises of every listener.

Runs on Windows, and under Wine from tests/windows. The promises are in kit/contracts.py.
"""

from __future__ import annotations

import ast
import asyncio
import gc
import inspect
import os
import sys
from collections import Counter
from pathlib import Path

import pytest
from kit import contracts
from kit.contracts import (
    PIPE_BUSY,
    Client,
    PipeClient,
    PipeWay,
    Serving,
    at_once,
    is_served,
    post,
    taken_bytes,
)
from kit.waiting import until

from mini_agent.listen.connection import HttpConnection

windows_only = pytest.mark.skipif(sys.platform != "win32", reason="named pipes are Windows'")


def test_asyncio_still_has_the_private_parts_that_are_used() -> None:
    """Elsewhere looked up in the source, so that every system notices a new Python's change."""
    if sys.platform == "win32":
        from asyncio import windows_events

        loop = windows_events.ProactorEventLoop
        accept = inspect.signature(windows_events.IocpProactor.accept_pipe)
        make = inspect.signature(loop._make_duplex_pipe_transport)  # type: ignore[attr-defined]
        found = {"accept_pipe": [*accept.parameters], "_make": [*make.parameters]}
    else:
        folder = Path(asyncio.__file__).parent
        found = {
            node.name.removesuffix("_duplex_pipe_transport"): [a.arg for a in node.args.args]
            for name in ("windows_events.py", "proactor_events.py")
            for node in ast.walk(ast.parse((folder / name).read_text(encoding="utf-8")))
            if isinstance(node, ast.FunctionDef)
        }
    assert found["accept_pipe"] == ["self", "pipe"]
    assert found["_make"][:3] == ["self", "sock", "protocol"]


def serve_one(way: PipeWay) -> str:
    """One request on a connection of its own without any patience; how it went."""
    stage = "open"
    try:
        client = way.connect(wait_s=0)
        stage = "write"
        client.send(post(b"x" * 568))
        stage = "read"
        served = taken_bytes(client) == 568
        client.close()
    except OSError as error:
        return f"{stage}: {getattr(error, 'winerror', error)}"
    return "served" if served else "wrong"


@windows_only
@pytest.mark.parametrize(("clients", "requests"), [(16, 20), (1, 100)])
def test_no_client_finds_the_pipe_busy_and_none_is_lost(
    tmp_path: Path, clients: int, requests: int
) -> None:
    way = PipeWay(tmp_path)
    ends: list[str] = []
    with Serving(way) as serving:
        at_once(clients, lambda: ends.extend(serve_one(way) for _ in range(requests)))
    assert Counter(ends) == {"served": clients * requests}
    assert serving.complaints == []


@windows_only
def test_bursts_of_clients_that_leave_at_once_do_not_end_the_pipe(tmp_path: Path) -> None:
    way = PipeWay(tmp_path)

    ends: list[object] = []

    def come_and_go() -> None:
        for _ in range(50):
            try:
                way.connect(wait_s=0).close()
            except OSError as error:
                ends.append(getattr(error, "winerror", error))

    with Serving(way) as serving:
        for _ in range(3):
            at_once(16, come_and_go)
            assert is_served(serving)
    # Busy is all that may happen to them.
    assert set(ends) <= {PIPE_BUSY}
    assert serving.complaints == []


@windows_only
def test_an_empty_write_is_not_the_end(tmp_path: Path) -> None:
    with Serving(PipeWay(tmp_path)) as serving:
        client = serving.connect()
        client.send(b"")
        client.send(post(b"x")[:10])
        client.send(b"")
        client.send(post(b"x")[10:])
        assert taken_bytes(client) == 1
        client.close()


@windows_only
def test_looking_at_the_pipe_does_not_end_it(tmp_path: Path) -> None:
    way = PipeWay(tmp_path)
    with Serving(way) as serving:
        for _ in range(20):
            os.path.exists(way.path)
        assert is_served(serving)
    assert serving.complaints == []


@windows_only
def test_a_client_beyond_the_most_waits_until_another_leaves(tmp_path: Path) -> None:
    way = PipeWay(tmp_path, instances=2, clients_max=3)
    with Serving(way) as serving:
        clients: list[Client] = []
        for _ in range(3):
            clients.append(serving.connect())
            clients[-1].send(post(b"x"))
            assert taken_bytes(clients[-1]) == 1
        late = serving.connect()
        late.send(post(b"x"))
        assert serving.server.connection_count == 3
        clients.pop().close()
        assert taken_bytes(late) == 1
        clients.append(late)
        for client in clients:
            client.close()
    assert serving.complaints == []


@windows_only
def test_the_largest_number_of_clients_is_served_and_nothing_is_kept_of_them(
    tmp_path: Path,
) -> None:
    """Transport, protocol and parser hold each other; the cycle is broken without the collector."""

    def count() -> int:
        return sum(type(each) is HttpConnection for each in gc.get_objects())

    with Serving(PipeWay(tmp_path)) as serving:
        gc.collect()
        gc.disable()
        try:
            clients = []
            for _ in range(64):
                clients.append(serving.connect())
                clients[-1].send(post(b"x"))
            assert [taken_bytes(client) for client in clients] == [1] * 64
            assert count() >= 64
            for client in clients:
                client.close()
            until(lambda: serving.server.connection_count == 0)
            until(lambda: count() == 0)
        finally:
            gc.enable()


@windows_only
def test_an_error_of_windows_is_said_once_and_outlived(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import _winapi

    def refuse(*_: object) -> int:
        raise OSError(0, "no system resources", None, 1450)

    way = PipeWay(tmp_path, instances=4)
    with Serving(way) as serving:
        monkeypatch.setattr(_winapi, "CreateNamedPipe", refuse)
        # Each takes a waiting instance with it.
        assert all(is_served(serving) for _ in range(4))
        monkeypatch.undo()
        assert all(is_served(serving) for _ in range(8))
    assert len(serving.complaints) == 1
    assert "no system resources" in serving.complaints[0]


@windows_only
def test_after_an_error_of_ours_the_waiting_instances_are_served_by_the_next_run(
    tmp_path: Path,
) -> None:
    from mini_agent.listen.pipe import PipeListener

    way = PipeWay(tmp_path, instances=3)

    async def scene() -> None:
        server = contracts.make_server()
        make, broken = server.protocol, [True]

        def protocol() -> HttpConnection:
            if broken.pop() if broken else False:
                raise ZeroDivisionError
            return make()

        server.protocol = protocol  # type: ignore[method-assign]
        listener = PipeListener(way.bound, server)
        first = asyncio.ensure_future(listener.run())
        unlucky = await asyncio.to_thread(PipeClient, way.path)
        with pytest.raises(ZeroDivisionError):
            await first
        # It comes while nobody accepts.
        waiting = await asyncio.to_thread(PipeClient, way.path, 0)
        second = asyncio.ensure_future(listener.run())
        await asyncio.to_thread(waiting.send, post(b"x"))
        assert await asyncio.to_thread(taken_bytes, waiting) == 1
        for client in (unlucky, waiting):
            client.close()
        listener.stop()
        await second
        server.stop()
        assert await server.wait_idle(20)

    asyncio.run(scene())
