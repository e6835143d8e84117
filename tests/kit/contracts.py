"""What every listener owes its clients, written once and held against each of them.

A *way* is one transport: it opens an address, makes the listener on it, and connects clients to
it. `Serving` runs a server behind a way in a thread of its own. A *promise* is a function that
takes a Serving; PROMISES lists them.

    for promise in PROMISES:
        with Serving(TcpWay()) as serving:
            promise(serving)
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import socket
import sys
import threading
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from kit.http_client import Answer, chunked, read_answer, request
from kit.loopback import WAIT_S_MAX
from kit.waiting import until
from mini_agent.flow.clock import Clock
from mini_agent.flow.loop import make_loop
from mini_agent.ledger import Ledger
from mini_agent.listen.http import HttpLimits, HttpServer
from mini_agent.listen.turns import AT_ONCE_S_MAX
from mini_agent.wire.http import Request, Response, Route, Unfinished

if TYPE_CHECKING:
    from collections.abc import Callable

    from mini_agent.entrances import Listener

TRACES = "/v0.4/traces"
# The same in so many turns of the loop.
SLOW, TURNS = "/slow", 100
# The same at once, but not for many in one turn.
BUSY, CLIENTS = "/busy", 20
BODY_BYTES_MAX = 1024 * 1024

# Clients read ahead in pieces, as real ones do. Byte by byte each answer would cost hundreds of
# calls into the system, and under Wine it is the client that would be measured.
READ_BYTES = 4096

# Errors of a pipe, as Windows numbers them.
BROKEN_PIPE, SEM_TIMEOUT, PIPE_BUSY, NO_DATA = 109, 121, 231, 232


class Client(Protocol):
    """One connection, seen from outside."""

    def send(self, sent: bytes) -> None:
        """Send all of it."""

    def read(self, bytes_max: int) -> bytes:
        """Some bytes; none at the end."""

    def close(self) -> None:
        """Leave."""


class SocketClient:
    """A client on a TCP or Unix socket."""

    def __init__(self, family: int, address: Any) -> None:
        self._ahead = b""
        self._socket = socket.socket(family)
        self._socket.settimeout(WAIT_S_MAX)
        self._socket.connect(address)

    def send(self, sent: bytes) -> None:
        self._socket.sendall(sent)

    def read(self, bytes_max: int) -> bytes:
        if not self._ahead:
            try:
                self._ahead = self._socket.recv(READ_BYTES)
            except ConnectionError:
                return b""
        taken, self._ahead = self._ahead[:bytes_max], self._ahead[bytes_max:]
        return taken

    def close(self) -> None:
        self._socket.close()


class PipeClient:
    """A client on a named pipe, for reading and writing, without overlapping.

    Args:
        wait_s: How long to wait for a free instance; with 0 a busy pipe is an error at once.
    """

    def __init__(self, path: str, wait_s: float = WAIT_S_MAX) -> None:
        assert sys.platform == "win32"
        import _winapi

        self._ahead = b""
        self._winapi: Any = _winapi
        until(lambda: self._open(path, wait_s), max(wait_s, 0.001))

    def _open(self, path: str, wait_s: float) -> bool:
        winapi = self._winapi
        both = winapi.GENERIC_READ | winapi.GENERIC_WRITE
        try:
            self._handle = winapi.CreateFile(path, both, 0, 0, winapi.OPEN_EXISTING, 0, 0)
        except OSError as error:
            if getattr(error, "winerror", 0) != PIPE_BUSY or not wait_s:
                raise
            with contextlib.suppress(OSError):
                winapi.WaitNamedPipe(path, 100)
            return False
        return True

    def send(self, sent: bytes) -> None:
        self._winapi.WriteFile(self._handle, sent)

    def read(self, bytes_max: int) -> bytes:
        if not self._ahead:
            try:
                read, _ = self._winapi.ReadFile(self._handle, READ_BYTES)
            except BrokenPipeError:
                return b""
            self._ahead = bytes(read)
        taken, self._ahead = self._ahead[:bytes_max], self._ahead[bytes_max:]
        return taken

    def close(self) -> None:
        self._winapi.CloseHandle(self._handle)


class TcpWay:
    """TCP on loopback."""

    name = "tcp"

    def __init__(self, folder: Path) -> None:
        from mini_agent.listen.bind import bind_tcp

        self._bound = bind_tcp("127.0.0.1", 0)

    def listen(self, server: HttpServer) -> Listener:
        from mini_agent.listen.stream import StreamListener

        return StreamListener(self._bound, server)

    def connect(self) -> Client:
        return SocketClient(socket.AF_INET, ("127.0.0.1", self._bound.port))


class UnixWay:
    """A socket file."""

    name = "unix"

    def __init__(self, folder: Path) -> None:
        from mini_agent.listen.bind import bind_unix

        self._bound = bind_unix(str(folder / "agent.socket"))

    def listen(self, server: HttpServer) -> Listener:
        from mini_agent.listen.stream import StreamListener

        return StreamListener(self._bound, server)

    def connect(self) -> Client:
        family = getattr(socket, "AF_UNIX")  # noqa: B009 - Windows' Python has none
        return SocketClient(family, self._bound.path)


class PipeWay:
    """A named pipe; needs Windows."""

    name = "pipe"

    def __init__(self, folder: Path, **settings: Any) -> None:
        from mini_agent.listen.bind_pipe import bind_pipe
        from mini_agent.listen.pipe_name import normalize_name

        clients_max = settings.pop("clients_max", None)
        self._for_listener = {} if clients_max is None else {"clients_max": clients_max}
        self.path = normalize_name(f"mini_agent_{uuid.uuid4().hex}")
        self.bound = bind_pipe(self.path, **settings)

    def listen(self, server: HttpServer) -> Listener:
        from mini_agent.listen.pipe import PipeListener

        return PipeListener(self.bound, server, **self._for_listener)

    def connect(self, wait_s: float = WAIT_S_MAX) -> Client:
        return PipeClient(self.path, wait_s)


Way = TcpWay | UnixWay | PipeWay


class Serving(logging.Handler):
    """A server behind one way, in a thread; what it complains about is kept.

    Attributes:
        complaints: Warnings and worse, and what reached the loop's last resort.
        server: For questions that any thread may ask.
    """

    def __init__(self, way: Way) -> None:
        super().__init__(logging.WARNING)
        self.way = way
        self.complaints: list[str] = []
        self.server: HttpServer
        self._loop: asyncio.AbstractEventLoop
        self._stopping: asyncio.Event
        self._ready = threading.Event()
        self._thread = ThreadPoolExecutor(1, "serving")

    def __enter__(self) -> Serving:
        logging.getLogger().addHandler(self)
        self._ended = self._thread.submit(self._run)
        self._ended.add_done_callback(lambda _: self._ready.set())
        assert self._ready.wait(WAIT_S_MAX)
        return self

    def __exit__(self, *_: object) -> None:
        self.begin_stop()
        logging.getLogger().removeHandler(self)
        self._ended.result(2 * WAIT_S_MAX)
        self._thread.shutdown()

    def emit(self, record: logging.LogRecord) -> None:
        self.complaints.append(record.getMessage())

    def connect(self) -> Client:
        return self.way.connect()

    def begin_stop(self) -> None:
        """Stop from the entrance; may be repeated."""
        # It may have stopped already.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._stopping.set)

    def call(self, work: Callable[[], Any]) -> Any:
        """Do something in the server's thread."""

        async def do() -> Any:
            return work()

        return asyncio.run_coroutine_threadsafe(do(), self._loop).result(WAIT_S_MAX)

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=make_loop) as runner:
            runner.run(self._serve())

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._loop.set_exception_handler(lambda _, context: self.complaints.append(str(context)))
        self._stopping = asyncio.Event()
        self.server = server = make_server()
        listener = self.way.listen(server)
        works = [asyncio.ensure_future(listener.run()), asyncio.ensure_future(server.watch())]
        self._ready.set()
        stopping = asyncio.ensure_future(self._stopping.wait())
        await asyncio.wait([stopping, works[0]], return_when=asyncio.FIRST_COMPLETED)
        listener.stop()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        server.stop()
        idle = await server.wait_idle(WAIT_S_MAX)
        server.abort()
        await works[0]
        works[1].cancel()
        await asyncio.gather(works[1], stopping, return_exceptions=True)
        listener.close()
        assert idle, "clients were left when the server stopped"


def make_server() -> HttpServer:
    def take(taken: Request) -> Response:
        return Response(200, json.dumps({"bytes": len(taken.body)}).encode())

    def take_slowly(taken: Request) -> Unfinished:
        turns = iter(range(TURNS))
        done = take(taken)
        return Unfinished(lambda: done if next(turns, None) is None else None)

    def take_busily(taken: Request) -> Response:
        until_s = time.monotonic() + AT_ONCE_S_MAX / 3
        while time.monotonic() < until_s:
            pass
        return take(taken)

    routes = {
        BUSY: Route(take_busily, frozenset({"POST"}), takes_body=True),
        TRACES: Route(take, frozenset({"POST", "PUT"}), takes_body=True),
        SLOW: Route(take_slowly, frozenset({"POST"}), takes_body=True),
        "/info": Route(lambda _: Response(200, b"{}"), None, takes_body=False),
    }
    limits = HttpLimits(body_bytes_max=BODY_BYTES_MAX)
    return HttpServer(routes, limits, Ledger(), Clock(), "cafe")


def post(body: bytes, *headers: str) -> bytes:
    return request("POST", TRACES, *headers, body=body)


def answer(client: Client) -> Answer:
    found = read_answer(client.read)
    assert found is not None, "closed without an answer"
    return found


def taken_bytes(client: Client) -> int:
    """The size of the body as the server saw it."""
    found = answer(client)
    assert found.status == 200, found
    return int(json.loads(found.body)["bytes"])


def is_served(serving: Serving) -> bool:
    """Whether a new client gets its answer; it leaves at once, as .NET does."""
    client = serving.connect()
    client.send(post(b"x" * 568))
    served = taken_bytes(client) == 568
    client.close()
    return served


def at_once(count: int, work: Callable[[], None]) -> None:
    """Do the same in several threads that begin together; the first failure comes out."""
    gate = threading.Barrier(count, timeout=WAIT_S_MAX)

    def run() -> None:
        gate.wait()
        work()

    with ThreadPoolExecutor(count) as threads:
        for done in [threads.submit(run) for _ in range(count)]:
            done.result(2 * WAIT_S_MAX)


def a_kept_connection_serves_request_after_request(serving: Serving) -> None:
    client = serving.connect()
    for size in (0, 1, 568, 70_000):
        client.send(post(b"x" * size))
        assert taken_bytes(client) == size
    client.close()


def one_request_and_gone_loses_nothing(serving: Serving) -> None:
    assert all(is_served(serving) for _ in range(50))


def a_client_that_asks_for_close_sees_the_end(serving: Serving) -> None:
    client = serving.connect()
    client.send(post(b"x", "Connection: close"))
    assert answer(client).closes
    assert client.read(1) == b""
    client.close()


def pipelined_requests_are_answered_in_order(serving: Serving) -> None:
    client = serving.connect()
    client.send(b"".join(post(b"x" * size) for size in range(1, 6)))
    assert [taken_bytes(client) for _ in range(5)] == [1, 2, 3, 4, 5]
    client.close()


def a_chunked_body_arrives_whole(serving: Serving) -> None:
    client = serving.connect()
    client.send(chunked(TRACES, b"a" * 10, b"b" * 70_000, b"c"))
    assert taken_bytes(client) == 70_011
    client.close()


def a_request_in_single_bytes_arrives_whole(serving: Serving) -> None:
    client = serving.connect()
    for byte in post(b"x" * 50):
        client.send(bytes([byte]))
    assert taken_bytes(client) == 50
    client.close()


def the_largest_body_arrives_in_one_write(serving: Serving) -> None:
    client = serving.connect()
    client.send(post(b"x" * BODY_BYTES_MAX))
    assert taken_bytes(client) == BODY_BYTES_MAX
    client.close()


def what_takes_many_turns_is_answered_in_its_place(serving: Serving) -> None:
    client, other = serving.connect(), serving.connect()
    slow = request("POST", SLOW, body=b"x" * 70_000)
    client.send(slow + post(b"x") + slow + post(b"x" * 2))
    other.send(post(b"x" * 3))
    assert taken_bytes(other) == 3
    assert [taken_bytes(client) for _ in range(4)] == [70_000, 1, 70_000, 2]
    client.send(post(b"x" * 4))
    assert taken_bytes(client) == 4
    client.close()
    other.close()


def a_client_that_leaves_before_its_answer_harms_nobody(serving: Serving) -> None:
    client = serving.connect()
    client.send(request("POST", SLOW, body=b"x" * 70_000))
    client.close()
    until(lambda: serving.server.connection_count == 0)
    until(lambda: serving.server.upload_bytes == 0)
    assert is_served(serving)


def a_refused_body_is_drained_and_the_connection_goes_on(serving: Serving) -> None:
    """The client writes everything before it reads, as clients of pipes do."""
    client = serving.connect()
    client.send(post(b"x" * (3 * BODY_BYTES_MAX)))
    assert answer(client).status == 413
    client.send(post(b"x"))
    assert taken_bytes(client) == 1
    client.close()


def what_is_not_http_is_answered_and_closed(serving: Serving) -> None:
    client = serving.connect()
    client.send(b"this is not HTTP\r\n\r\n")
    assert answer(client).status == 400
    client.close()
    assert is_served(serving)


def half_a_request_leaves_nothing_behind(serving: Serving) -> None:
    client = serving.connect()
    client.send(post(b"x" * 1000)[:-500])
    until(lambda: serving.server.upload_bytes == 500)
    client.close()
    until(lambda: serving.server.connection_count == 0)
    assert serving.server.upload_bytes == 0
    assert is_served(serving)


def clients_that_come_and_go_harm_nobody(serving: Serving) -> None:
    def come_and_go() -> None:
        for _ in range(25):
            serving.connect().close()

    at_once(8, come_and_go)
    assert all(is_served(serving) for _ in range(20))
    until(lambda: serving.server.connection_count == 0)


def clients_that_never_read_their_answer_harm_nobody(serving: Serving) -> None:
    for _ in range(20):
        client = serving.connect()
        client.send(post(b"x"))
        client.close()
    assert is_served(serving)
    until(lambda: serving.server.connection_count == 0)


def many_clients_at_once_are_all_served(serving: Serving) -> None:
    def connect_anew() -> None:
        for _ in range(5):
            assert is_served(serving)

    at_once(32, connect_anew)


def a_turn_that_is_spent_leaves_the_others_to_the_next(serving: Serving) -> None:
    """More clients than the loop serves in a turn, and what takes more than a turn together."""
    clients = [serving.connect() for _ in range(CLIENTS)]
    for client in clients:
        client.send(request("POST", BUSY, body=b"x") + post(b"x" * 2) + post(b"x" * 3))
    for client in clients:
        assert [taken_bytes(client) for _ in range(3)] == [1, 2, 3]
        client.close()
    assert serving.server.upload_bytes == 0


def a_stop_finishes_what_is_under_way_and_closes_the_rest(serving: Serving) -> None:
    idle, busy = serving.connect(), serving.connect()
    idle.send(post(b"x"))
    assert taken_bytes(idle) == 1
    busy.send(post(b"x" * 1000)[:-500])
    until(lambda: serving.server.upload_bytes == 500)
    serving.begin_stop()
    assert idle.read(1) == b""
    busy.send(b"x" * 500)
    last = answer(busy)
    assert last.status == 200
    assert last.closes
    assert busy.read(1) == b""
    idle.close()
    busy.close()


PROMISES: list[Callable[[Serving], None]] = [
    a_kept_connection_serves_request_after_request,
    one_request_and_gone_loses_nothing,
    a_client_that_asks_for_close_sees_the_end,
    pipelined_requests_are_answered_in_order,
    a_chunked_body_arrives_whole,
    a_request_in_single_bytes_arrives_whole,
    the_largest_body_arrives_in_one_write,
    what_takes_many_turns_is_answered_in_its_place,
    a_client_that_leaves_before_its_answer_harms_nobody,
    a_refused_body_is_drained_and_the_connection_goes_on,
    what_is_not_http_is_answered_and_closed,
    half_a_request_leaves_nothing_behind,
    clients_that_come_and_go_harm_nobody,
    clients_that_never_read_their_answer_harm_nobody,
    many_clients_at_once_are_all_served,
    a_turn_that_is_spent_leaves_the_others_to_the_next,
    a_stop_finishes_what_is_under_way_and_closes_the_rest,
]
