"""listen.stream: accepting, and going on when that is not possible."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from kit.http_client import read_answer, request

from mini_agent.flow.clock import Clock
from mini_agent.ledger import Ledger
from mini_agent.listen.bind import BoundSocket, bind_tcp, bind_unix
from mini_agent.listen.http import HttpLimits, HttpServer
from mini_agent.listen.stream import StreamListener
from mini_agent.wire.http import Response, Route

WAIT_S_MAX = 20.0


def make_server() -> HttpServer:
    routes = {"/": Route(lambda _: Response(200, b"{}"), None, takes_body=False)}
    return HttpServer(routes, HttpLimits(), Ledger(), Clock(), "cafe")


async def ask(host: str, port: int) -> int:
    """Send one request on a connection of its own; the status."""
    reader, writer = await asyncio.open_connection(host, port)
    writer.write(request("GET", "/", "Connection: close"))
    written = await asyncio.wait_for(reader.read(), WAIT_S_MAX)
    writer.close()
    await writer.wait_closed()
    answer = read_answer(_reading(written))
    assert answer is not None
    return answer.status


def _reading(stream: bytes) -> Callable[[int], bytes]:
    rest = bytearray(stream)

    def read(count: int) -> bytes:
        part = bytes(rest[:count])
        del rest[:count]
        return part

    return read


class Serving:
    """A listener that runs beside the test, and its server."""

    def __init__(self, bound: BoundSocket) -> None:
        self.bound = bound
        self.server = make_server()
        self.listener = StreamListener(bound, self.server)
        self.run = asyncio.ensure_future(self.listener.run())

    async def stop(self) -> None:
        self.listener.stop()
        self.listener.stop()
        self.server.stop()
        await asyncio.wait_for(self.run, WAIT_S_MAX)
        assert await self.server.wait_idle(WAIT_S_MAX)


def test_connections_made_before_the_start_are_served() -> None:
    async def serve() -> int:
        bound = bind_tcp("127.0.0.1", 0)
        reader, writer = await asyncio.open_connection("127.0.0.1", bound.port)
        writer.write(request("GET", "/"))
        serving = Serving(bound)
        line = await asyncio.wait_for(reader.readline(), WAIT_S_MAX)
        await serving.stop()
        writer.close()
        await writer.wait_closed()
        return int(line.split()[1])

    assert asyncio.run(serve()) == 200


def test_every_address_is_served_and_stop_gives_it_back() -> None:
    async def serve() -> None:
        serving = Serving(bind_tcp("localhost", 0))
        assert await ask("127.0.0.1", serving.bound.port) == 200
        await serving.stop()
        bind_tcp("127.0.0.1", serving.bound.port).close()

    asyncio.run(serve())


def test_a_listener_that_never_ran_gives_its_port_back() -> None:
    async def close_early() -> None:
        bound = bind_tcp("127.0.0.1", 0)
        StreamListener(bound, make_server()).close()
        bind_tcp("127.0.0.1", bound.port).close()

    asyncio.run(close_early())


@pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="this system has no Unix sockets")
def test_a_unix_socket_is_served_and_its_file_removed(tmp_path: Path) -> None:
    path = str(tmp_path / "apm.socket")

    async def serve() -> bytes:
        serving = Serving(bind_unix(path))
        assert serving.listener.url == f"unix://{path}"
        reader, writer = await asyncio.open_unix_connection(path)
        writer.write(request("GET", "/", "Connection: close"))
        answer = await asyncio.wait_for(reader.read(), WAIT_S_MAX)
        writer.close()
        await writer.wait_closed()
        await serving.stop()
        return answer

    assert asyncio.run(serve()).startswith(b"HTTP/1.1 200 OK")
    assert not os.path.exists(path)


def test_an_accept_loop_that_dies_can_be_run_again(monkeypatch: pytest.MonkeyPatch) -> None:
    async def serve() -> int:
        with monkeypatch.context() as broken:

            def fall(_: object) -> object:
                raise RuntimeError("a bug")

            broken.setattr(socket.socket, "accept", fall)
            serving = Serving(bind_tcp("127.0.0.1", 0))
            with pytest.raises(RuntimeError, match="a bug"):
                await asyncio.wait_for(serving.run, WAIT_S_MAX)
        serving.run = asyncio.ensure_future(serving.listener.run())
        status = await ask("127.0.0.1", serving.bound.port)
        await serving.stop()
        return status

    assert asyncio.run(serve()) == 200


# In a process of its own, because it takes every descriptor there is.
STARVE = """
import asyncio, logging, os, resource, socket, sys
from mini_agent.flow.clock import Clock
from mini_agent.ledger import Ledger
from mini_agent.listen.bind import bind_tcp
from mini_agent.listen.http import HttpLimits, HttpServer
from mini_agent.listen import stream
from mini_agent.wire.http import Response, Route

logging.basicConfig(stream=sys.stdout, format="%(levelname)s %(name)s %(message)s")
stream.ACCEPT_RETRY_S = 0.05

async def main():
    bound = bind_tcp("127.0.0.1", 0)
    routes = {"/": Route(lambda _: Response(200), None, takes_body=False)}
    server = HttpServer(routes, HttpLimits(), Ledger(), Clock(), "cafe")
    listener = stream.StreamListener(bound, server)
    loop = asyncio.get_running_loop()
    accept, starving, attempts = socket.socket.accept, asyncio.Event(), []

    def count_attempts(listening):
        attempts.append(1)
        if len(attempts) >= 5:
            starving.set()
        return accept(listening)

    socket.socket.accept = count_attempts
    run = asyncio.ensure_future(listener.run())
    print(listener.url, flush=True)
    client = socket.socket()
    client.setblocking(False)
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
    taken = []
    while True:
        try:
            taken.append(os.dup(0))
        except OSError:
            break
    await loop.sock_connect(client, ("127.0.0.1", bound.port))
    await loop.sock_sendall(client, b"GET / HTTP/1.1\\r\\n\\r\\n")
    await asyncio.wait_for(starving.wait(), 20)
    print("starved", server.connection_count)
    for descriptor in taken:
        os.close(descriptor)
    answer = await asyncio.wait_for(loop.sock_recv(client, 100), 20)
    print(answer.split(b"\\r\\n")[0].decode())
    client.close()
    listener.stop()
    await run
    server.abort()
    await asyncio.sleep(0)

asyncio.run(main())
"""


def test_without_descriptors_it_says_so_once_and_goes_on_later() -> None:
    pytest.importorskip("resource")
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", STARVE], capture_output=True, text=True, timeout=60
    )
    url, *lines = done.stdout.splitlines()
    assert lines == [
        f"WARNING mini_agent.listen.stream cannot accept connections on {url} now, trying again: "
        "Too many open files",
        "starved 0",
        "HTTP/1.1 200 OK",
    ]
    assert done.stderr == ""
