"""listen.stream: accepting, and going on when that is not possible."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Callable

import pytest
from kit.http_client import read_answer, request

from mini_agent.flow.clock import Clock
from mini_agent.ledger import Ledger
from mini_agent.listen.bind import bind_tcp
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


def test_connections_made_before_start_are_served() -> None:
    async def serve() -> int:
        bound = bind_tcp("127.0.0.1", 0)
        reader, writer = await asyncio.open_connection("127.0.0.1", bound.port)
        writer.write(request("GET", "/"))
        server = make_server()
        listener = StreamListener([bound], server)
        await listener.start()
        line = await asyncio.wait_for(reader.readline(), WAIT_S_MAX)
        listener.stop()
        server.stop()
        assert await server.wait_idle(WAIT_S_MAX)
        writer.close()
        await writer.wait_closed()
        return int(line.split()[1])

    assert asyncio.run(serve()) == 200


def test_every_address_is_served_and_stop_gives_all_back() -> None:
    async def serve() -> None:
        bounds = [bind_tcp("localhost", 0), bind_tcp("127.0.0.1", 0)]
        server = make_server()
        listener = StreamListener(bounds, server)
        await listener.start()
        for bound in bounds:
            assert await ask("127.0.0.1", bound.port) == 200
        listener.stop()
        listener.stop()
        server.stop()
        assert await server.wait_idle(WAIT_S_MAX)
        await asyncio.sleep(0)
        for bound in bounds:
            bind_tcp("127.0.0.1", bound.port).close()

    asyncio.run(serve())


def test_stop_before_and_at_once_after_start_gives_the_port_back() -> None:
    async def stop_early() -> None:
        for start in (False, True):
            bound = bind_tcp("127.0.0.1", 0)
            listener = StreamListener([bound], make_server())
            if start:
                await listener.start()
            listener.stop()
            for _ in range(3):
                await asyncio.sleep(0)
            bind_tcp("127.0.0.1", bound.port).close()

    asyncio.run(stop_early())


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
    listener = stream.StreamListener([bound], server)
    await listener.start()
    client = socket.socket()
    client.setblocking(False)
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
    taken = []
    while True:
        try:
            taken.append(os.dup(0))
        except OSError:
            break
    loop = asyncio.get_running_loop()
    accept, attempts = loop.sock_accept, []

    async def count_attempts(listening):
        attempts.append(1)
        return await accept(listening)

    loop.sock_accept = count_attempts
    await loop.sock_connect(client, ("127.0.0.1", bound.port))
    await loop.sock_sendall(client, b"GET / HTTP/1.1\\r\\n\\r\\n")
    while len(attempts) < 5:
        await asyncio.sleep(0.01)
    print("starved", server.connection_count)
    for descriptor in taken:
        os.close(descriptor)
    answer = await asyncio.wait_for(loop.sock_recv(client, 100), 20)
    print(answer.split(b"\\r\\n")[0].decode())
    client.close()
    listener.stop()
    server.abort()
    await asyncio.sleep(0)

asyncio.run(main())
"""


def test_without_descriptors_it_says_so_once_and_goes_on_later() -> None:
    pytest.importorskip("resource")
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", STARVE], capture_output=True, text=True, timeout=60
    )
    assert done.stdout.splitlines() == [
        "WARNING mini_agent.listen.stream cannot accept connections, trying again: "
        "Too many open files",
        "starved 0",
        "HTTP/1.1 200 OK",
    ]
    assert done.stderr == ""
