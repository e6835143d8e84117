"""listen over real sockets: good, slow, broken and hostile clients, many of them."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import http.client
import os
import random
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import TypeVar

import pytest
from kit.http_client import RawClient, chunked, read_answer, request

from mini_agent.flow.clock import Clock
from mini_agent.ledger import REFUSED, Ledger
from mini_agent.listen.bind import bind_tcp
from mini_agent.listen.connection import HttpConnection
from mini_agent.listen.http import HttpLimits, HttpServer
from mini_agent.listen.stream import StreamListener
from mini_agent.wire.http import REASONS, Request, Response, Route

WAIT_S_MAX = 20.0
PAGE = b"<p>" * 20_000
T = TypeVar("T")


class Serving:
    """A server in a thread with a loop of its own, until the with-block ends."""

    def __init__(self, **limits: float) -> None:
        self.ledger = Ledger()
        self.request_count = 0
        routes = {
            "/echo": Route(self._echo, frozenset({"POST", "PUT"}), takes_body=True),
            "/page": Route(self._page, frozenset({"GET"}), takes_body=False),
        }
        for status in REASONS.keys() - {100}:
            routes[f"/{status}"] = Route(
                lambda _, status=status: Response(status, b"{}"),  # type: ignore[misc]
                None,
                takes_body=False,
            )
        self.server = HttpServer(
            routes,
            HttpLimits(**limits),  # type: ignore[arg-type]
            self.ledger,
            Clock(),
            "cafe" * 16,
        )
        bound = bind_tcp("127.0.0.1", 0)
        self.port = bound.port
        self._listener = StreamListener(bound, self.server)
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()))

    def _echo(self, request: Request) -> Response:
        self.request_count += 1
        return Response(200, request.body or b"{}")

    def _page(self, request: Request) -> Response:
        self.request_count += 1
        return Response(200, PAGE, "text/html")

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._end = asyncio.Event()
        accepting = asyncio.create_task(self._listener.run())
        watching = asyncio.create_task(self.server.watch(every_s=0.05))
        self._ready.set()
        await self._end.wait()
        self._listener.stop()
        await accepting
        self.server.stop()
        await self.server.wait_idle(0.1)
        self.server.abort()
        assert await self.server.wait_idle(WAIT_S_MAX)
        watching.cancel()

    def __enter__(self) -> Serving:
        self._thread.start()
        assert self._ready.wait(WAIT_S_MAX)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._end.set)
        self._thread.join(WAIT_S_MAX)
        assert not self._thread.is_alive()

    def connect(self) -> RawClient:
        return RawClient("127.0.0.1", self.port)

    def call(self, function: Callable[[], T]) -> T:
        """Call on the server's loop."""
        result: Future[T] = Future()
        self._loop.call_soon_threadsafe(lambda: result.set_result(function()))
        return result.result(WAIT_S_MAX)

    def wait_for(self, condition: Callable[[], bool]) -> None:
        """Let the server's loop turn until the condition holds there."""

        async def turn_until() -> None:
            deadline = time.monotonic() + WAIT_S_MAX
            while not condition():
                assert time.monotonic() < deadline, "the condition did not come true"
                await asyncio.sleep(0)

        asyncio.run_coroutine_threadsafe(turn_until(), self._loop).result(2 * WAIT_S_MAX)

    def refused(self) -> object:
        books = self.ledger.snapshot({}).get("requests")
        return books[REFUSED] if books else {}


@pytest.fixture
def serving() -> Iterator[Serving]:
    with Serving() as serving:
        yield serving


@pytest.fixture
def many_files() -> None:
    """Room for a thousand sockets on both sides."""
    resource = pytest.importorskip("resource")
    wanted = 4096
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < wanted:
        pytest.skip(f"at most {hard} open files here")
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


# Every answer, read by the strictest client.


@pytest.mark.parametrize("status", sorted(REASONS.keys() - {100}))
def test_the_strictest_client_understands_every_status(serving: Serving, status: int) -> None:
    with serving.connect() as client:
        for _ in range(2):
            client.send(request("GET", f"/{status}"))
            answer = client.answer()
            assert (answer.status, answer.body) == (status, b"{}")


REFUSALS = {
    400: b"\x16\x03\x01\r\n\r\n",
    404: request("POST", "/nowhere", body=b"x" * 100),
    405: request("DELETE", "/echo"),
    411: request("POST", "/echo"),
    413: request("POST", "/echo", body=b"x" * 1001),
    417: request("POST", "/echo", "Expect: wonders", body=b"x"),
    431: request("GET", "/page", "X: " + "x" * 100_000),
    501: request("POST", "/echo", "Transfer-Encoding: br"),
    505: request("GET", "/page").replace(b"HTTP/1.1", b"HTTP/2.0"),
}


@pytest.mark.parametrize("status", REFUSALS)
def test_the_strictest_client_understands_every_refusal(status: int) -> None:
    with Serving(body_bytes_max=1000) as serving, serving.connect() as client:
        client.send(REFUSALS[status])
        answer = client.answer()
        assert answer.status == status
        assert answer.headers["datadog-agent-state"] == "cafe" * 16
        if answer.closes:
            assert client.ends()
        else:
            client.send(request("POST", "/echo", body=b"next"))
            assert client.answer().body == b"next"


def test_a_client_of_the_standard_library_keeps_its_connection(serving: Serving) -> None:
    client = http.client.HTTPConnection("127.0.0.1", serving.port, timeout=WAIT_S_MAX)
    client.connect()
    socket_before = client.sock
    for method, path, body, status, length in (
        ("PUT", "/echo", b"x" * 300_000, 200, 300_000),
        ("POST", "/echo", iter([b"a" * 1000, b"b" * 70_000]), 200, 71_000),
        ("HEAD", "/page", None, 200, 0),
        ("POST", "/nowhere", b"x" * 300_000, 404, 0),
        ("GET", "/page", None, 200, len(PAGE)),
    ):
        client.request(method, path, body=body, encode_chunked=not isinstance(body, bytes))
        answer = client.getresponse()
        assert (answer.status, len(answer.read())) == (status, length)
        assert client.sock is socket_before
    client.close()


def test_a_client_that_writes_everything_first_gets_its_refusal() -> None:
    with Serving(body_bytes_max=1000) as serving, serving.connect() as client:
        client.send(request("POST", "/echo", body=b"x" * 20_000_000))
        assert client.answer().status == 413
        client.send(chunked("/echo", *[b"x" * 100_000] * 50))
        assert client.answer().status == 413
        client.send(request("POST", "/echo", body=b"next"))
        assert client.answer().body == b"next"


def test_pipelined_requests_are_answered_in_order(serving: Serving) -> None:
    with serving.connect() as client:
        bodies = [str(number).encode() * (number % 50) for number in range(1000)]
        client.send(b"".join(request("POST", "/echo", body=body) for body in bodies))
        assert [client.answer().body for _ in bodies] == [body or b"{}" for body in bodies]


def test_a_waiting_client_is_asked_for_its_body(serving: Serving) -> None:
    with serving.connect() as client:
        client.send(request("POST", "/echo", "Expect: 100-continue", "Content-Length: 3"))
        assert client.answer().status == 100
        client.send(b"abc")
        assert client.answer().body == b"abc"


def test_a_client_may_stop_sending_and_still_gets_its_answer(serving: Serving) -> None:
    with serving.connect() as client:
        client.send(request("POST", "/echo", body=b"abc"))
        client.finish_sending()
        assert client.answer().body == b"abc"
        assert client.ends()
    with serving.connect() as client:
        client.send(request("POST", "/echo", "Content-Length: 10") + b"abc")
        client.finish_sending()
        assert client.answer().status == 400
        assert client.ends()


# Slow clients.


@pytest.mark.parametrize(
    ("limit", "sent"),
    [
        ("header_s_max", b"POST /echo HT"),
        ("upload_s_max", request("POST", "/echo", "Content-Length: 100") + b"x"),
        ("pause_s_max", request("POST", "/echo", "Transfer-Encoding: chunked") + b"5\r\nab"),
    ],
)
def test_a_slow_request_is_told_so_and_ended(limit: str, sent: bytes) -> None:
    with Serving(**{limit: 0.2}) as serving, serving.connect() as client:
        client.send(sent)
        answer = client.answer()
        assert (answer.status, answer.closes) == (408, True)
        assert client.ends()
        with serving.connect() as good:
            good.send(request("POST", "/echo", body=b"abc"))
            assert good.answer().status == 200


def test_an_idle_connection_is_closed_in_silence() -> None:
    with Serving(idle_s_max=0.2) as serving, serving.connect() as client:
        assert client.ends()
        assert serving.refused() == {}


def test_500_half_open_uploads_do_not_keep_a_good_request_waiting(
    serving: Serving, many_files: None, capsys: pytest.CaptureFixture[str]
) -> None:
    with contextlib.ExitStack() as open_clients:
        uploads = [open_clients.enter_context(serving.connect()) for _ in range(500)]
        for number, client in enumerate(uploads):
            head = request("POST", "/echo", "Content-Length: 30000")
            client.send(head[: 10 + number] if number < 50 else head + b"x" * 20_000)
        serving.wait_for(lambda: serving.server.upload_bytes == 450 * 20_000)
        with serving.connect() as good:
            times_ms = []
            for _ in range(20):
                started = time.perf_counter()
                good.send(request("POST", "/echo", body=b"abc"))
                assert good.answer().status == 200
                times_ms.append((time.perf_counter() - started) * 1000)
        with capsys.disabled():
            print(f" [good request: first {times_ms[0]:.1f} ms, worst {max(times_ms):.1f} ms]")
        assert max(times_ms) < 1000
        for client in uploads[50:60]:
            client.send(b"x" * 10_000)
            assert client.answer().status == 200
    serving.wait_for(lambda: serving.server.connection_count == 0)
    assert serving.server.upload_bytes == 0


def test_a_client_that_never_reads_holds_little_and_loses_nothing(serving: Serving) -> None:
    count = 1000
    with serving.connect() as client:
        client.send(request("GET", "/page") * count)
        counts = [0]

        def stands_still() -> bool:
            counts.append(serving.request_count)
            return counts[-1] > 0 and len(counts) > 1000 and counts[-1] == counts[-1000]

        serving.wait_for(stands_still)
        # What the kernel holds on both sides, and one answer more.
        assert serving.request_count < count / 2
        assert sum(client.answer().status == 200 for _ in range(count)) == count


# Too many, and the end.


def test_a_connection_too_many_is_told_to_come_back() -> None:
    with Serving(connections_max=2) as serving, contextlib.ExitStack() as clients:
        for _ in range(2):
            client = clients.enter_context(serving.connect())
            client.send(request("POST", "/echo", body=b"x"))
            assert client.answer().status == 200
        turned_away = clients.enter_context(serving.connect())
        turned_away.send(request("POST", "/echo", body=b"x"))
        answer = turned_away.answer()
        assert (answer.status, answer.headers["retry-after"]) == (503, "1")
        assert turned_away.ends()
        assert serving.refused() == {"connections": 1}


def test_stop_finishes_what_is_under_way(serving: Serving) -> None:
    with contextlib.ExitStack() as clients:
        idle = clients.enter_context(serving.connect())
        idle.send(request("POST", "/echo", body=b"x"))
        assert idle.answer().status == 200
        uploads = [clients.enter_context(serving.connect()) for _ in range(20)]
        for client in uploads:
            client.send(request("POST", "/echo", "Content-Length: 10") + b"hello")
        serving.wait_for(lambda: serving.server.upload_bytes == 100)
        serving.call(serving.server.stop)
        assert idle.ends()
        for client in uploads:
            client.send(b"world")
            answer = client.answer()
            assert (answer.body, answer.closes) == (b"helloworld", True)
            assert client.ends()
        serving.wait_for(lambda: serving.server.connection_count == 0)


# Nothing leaks.

GARBAGE = random.Random(1).randbytes(300)


def speak_well(client: RawClient) -> None:
    client.send(request("POST", "/echo", body=b"x" * 500))
    assert client.answer().status == 200


def ask_to_close(client: RawClient) -> None:
    client.send(request("POST", "/echo", "Connection: close", body=b"x" * 500))
    assert client.answer().status == 200
    assert client.ends()


def say_nothing(client: RawClient) -> None:
    pass


def leave_during_the_head(client: RawClient) -> None:
    client.send(request("POST", "/echo", body=b"x")[:30])


def leave_during_the_body(client: RawClient) -> None:
    client.send(request("POST", "/echo", "Content-Length: 1000") + b"x" * 500)


def leave_during_a_chunk(client: RawClient) -> None:
    client.send(chunked("/echo", b"x" * 1000)[:-300])


def leave_before_the_answer(client: RawClient) -> None:
    client.send(request("GET", "/page"))


def speak_garbage(client: RawClient) -> None:
    client.send(GARBAGE)
    assert client.answer().status == 400


def send_too_much(client: RawClient) -> None:
    client.send(request("POST", "/echo", body=b"x" * 3000))
    assert client.answer().status == 413


def send_an_endless_head(client: RawClient) -> None:
    client.send(request("GET", "/page", "X: " + "x" * 20_000))
    assert client.answer().status == 431


def ask_for_an_upgrade(client: RawClient) -> None:
    client.send(request("POST", "/echo", "Connection: Upgrade", "Upgrade: h2c", body=b"x" * 500))
    assert client.answer().status == 200


MANNERS = [
    speak_well,
    ask_to_close,
    say_nothing,
    leave_during_the_head,
    leave_during_the_body,
    leave_during_a_chunk,
    leave_before_the_answer,
    speak_garbage,
    send_too_much,
    send_an_endless_head,
    ask_for_an_upgrade,
]


def converse(serving: Serving, count: int) -> None:
    """Open so many connections with all manners in turn; every other client ends with a reset."""
    for number in range(count):
        client = serving.connect()
        MANNERS[number % len(MANNERS)](client)
        if number // len(MANNERS) % 2:
            client.reset()
        else:
            client.close()
    serving.wait_for(lambda: serving.server.connection_count == 0)


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="counts files under /proc")
def test_10_000_connections_leave_nothing_behind(
    many_files: None, capsys: pytest.CaptureFixture[str]
) -> None:
    with Serving(body_bytes_max=2000) as serving:
        files_before = open_files()
        converse(serving, 7_000)
        tracemalloc.start()  # Only now, because it makes everything slower.
        try:
            converse(serving, 1_000)
            gc.collect()
            bytes_before, _ = tracemalloc.get_traced_memory()
            converse(serving, 2_000)
            gc.collect()
            bytes_after, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        grown = bytes_after - bytes_before
        with capsys.disabled():
            print(f" [grown by {grown} bytes]")
        # A socket is closed just after its connection is reported lost.
        serving.wait_for(lambda: open_files() == files_before)
        assert serving.server.connection_count == 0
        assert serving.server.upload_bytes == 0
        assert not [held for held in gc.get_objects() if isinstance(held, HttpConnection)]
        # Less than any object a connection could leave; caches of the interpreter may still move.
        assert grown < 2_000 * 10


def test_a_reset_in_the_middle_of_an_answer_is_no_trouble(serving: Serving) -> None:
    for _ in range(50):
        client = serving.connect()
        client.send(request("GET", "/page") * 20)
        assert read_answer(client.socket.recv) is not None
        client.reset()
    serving.wait_for(lambda: serving.server.connection_count == 0)
    speak_well(last := serving.connect())
    last.close()
