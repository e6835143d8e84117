"""Load: a few connections that each send their next request as soon as the last is answered.

One loop over epoll in a process of its own, so that its CPU is not the agent's. Requests are
complete bytes before the clock starts; all that is done between two of them is to read the answer
and to note the time. `bench/run.py` holds it against `sink.py` alone and prints what it can do.
"""

from __future__ import annotations

import multiprocessing
import select
import socket
import time
from collections import Counter
from itertools import cycle
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from multiprocessing.connection import Connection

READ_BYTES = 1 << 16

# No answer for so long is none at all.
SILENCE_S_MAX = 30.0

# Counted like a status: connections that ended without an answer.
CLOSED = 0

HEAD = (
    "PUT /v0.4/traces HTTP/1.1\r\n"
    "Host: localhost:8126\r\n"
    "Content-Type: application/msgpack\r\n"
    "Datadog-Meta-Lang: python\r\n"
    "Datadog-Meta-Lang-Version: 3.13.5\r\n"
    "Datadog-Meta-Lang-Interpreter: CPython\r\n"
    "Datadog-Meta-Tracer-Version: 4.16.0\r\n"
    "X-Datadog-Trace-Count: {traces}\r\n"
    "Content-Length: {length}\r\n"
    "\r\n"
)


class Load:
    """What became of it.

    Attributes:
        latencies_s: From the first byte sent to the last byte of the answer, one per answer.
        statuses: How many answers there were of each; CLOSED counts those that never came.
        elapsed_s: From the first request to the last answer.
        finished_s: When that one came, by the clock that all processes of a machine share.
        cpu_s: Of the driver itself.
    """

    def __init__(self) -> None:
        self.latencies_s: list[float] = []
        self.statuses: Counter[int] = Counter()
        self.elapsed_s = 0.0
        self.finished_s = 0.0
        self.cpu_s = 0.0

    def latency_ms(self, share: float) -> float:
        """The latency that so large a share of the requests does not exceed."""
        ordered = sorted(self.latencies_s)
        return 1000 * ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def requests_of(bodies: Sequence[bytes], traces: int) -> list[bytes]:
    """Bodies with their heads, ready to be sent."""
    return [HEAD.format(traces=traces, length=len(body)).encode() + body for body in bodies]


class Driver:
    """One load under way in its own process.

    Args:
        requests: Sent in turn, from the beginning again when there are no more.
        count: How many are sent in all; None when time ends it.
        seconds: How long new ones are sent.
    """

    def __init__(
        self,
        port: int,
        requests: list[bytes],
        clients: int = 1,
        count: int | None = None,
        seconds: float | None = None,
    ) -> None:
        context = multiprocessing.get_context("fork")
        self._pipe, other = context.Pipe(duplex=False)
        self._process = context.Process(
            target=_drive, args=(other, port, requests, clients, count, seconds), daemon=True
        )
        self._process.start()
        other.close()

    def running(self, wait_s: float) -> bool:
        """Whether it goes on; waits that long to see."""
        return not self._pipe.poll(wait_s)

    def result(self) -> Load:
        """Wait for the end."""
        load: Load = self._pipe.recv()
        self._process.join()
        return load


class _Client:
    """One connection and the request under way on it."""

    def __init__(self, port: int) -> None:
        self.address = ("127.0.0.1", port)
        self.connection = socket.create_connection(self.address)
        self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.connection.setblocking(False)
        self.request = memoryview(b"")
        self.answer = b""
        self.began_s = 0.0

    def send(self) -> bool:
        """Send what is left of the request as far as it goes; false when there is no room."""
        while self.request:
            try:
                sent = self.connection.send(self.request)
            except BlockingIOError:
                return False
            except ConnectionError:
                # It may have answered before it closed; receiving tells.
                break
            self.request = self.request[sent:]
        return True

    def receive(self) -> int | None:
        """The status when the answer is complete, CLOSED when it will never be."""
        try:
            read = self.connection.recv(READ_BYTES)
        except ConnectionError:
            return CLOSED
        if not read:
            return CLOSED
        self.answer += read
        end = self.answer.find(b"\r\n\r\n")
        if end < 0:
            return None
        head = self.answer[:end].lower()
        found = head.find(b"content-length:")
        length = int(head[found + 15 :].split(b"\r\n", 1)[0]) if found >= 0 else 0
        if len(self.answer) < end + 4 + length:
            return None
        status = int(self.answer[9:12])
        self.answer = b""
        return status


class _Loop:
    def __init__(self, port: int, clients: int, requests: Iterator[bytes]) -> None:
        self._port = port
        self._requests = requests
        self._poll = select.epoll()
        self._clients: dict[int, _Client] = {}
        self.load = Load()
        for _ in range(clients):
            self._connect()

    def _connect(self) -> _Client:
        client = _Client(self._port)
        self._clients[client.connection.fileno()] = client
        self._poll.register(client.connection.fileno(), select.EPOLLIN)
        return client

    def run(self, until_s: float) -> None:
        started_s, cpu_s = time.perf_counter(), time.process_time()
        until_s = started_s + until_s
        for client in list(self._clients.values()):
            self._begin(client, until_s)
        while self._clients:
            events = self._poll.poll(SILENCE_S_MAX)
            if not events:
                break
            for number, event in events:
                self._serve(self._clients[number], event, until_s)
        if self._clients:
            self.load.statuses[CLOSED] += len(self._clients)
        self.load.finished_s = time.perf_counter()
        self.load.elapsed_s = self.load.finished_s - started_s
        self.load.cpu_s = time.process_time() - cpu_s

    def _begin(self, client: _Client, until_s: float) -> None:
        client.began_s = time.perf_counter()
        request = next(self._requests, None) if client.began_s < until_s else None
        if request is None:
            self._end(client)
            return
        client.request = memoryview(request)
        if not client.send():
            self._watch(client, select.EPOLLIN | select.EPOLLOUT)

    def _serve(self, client: _Client, event: int, until_s: float) -> None:
        if event & select.EPOLLOUT and client.send():
            self._watch(client, select.EPOLLIN)
        if not event & ~select.EPOLLOUT:
            return
        status = client.receive()
        if status is None:
            return
        self.load.statuses[status] += 1
        if status != CLOSED:
            self.load.latencies_s.append(time.perf_counter() - client.began_s)
        # Answered before all was read: what is left would be taken for the next request.
        if status == CLOSED or client.request:
            self._end(client)
            client = self._connect()
        self._begin(client, until_s)

    def _watch(self, client: _Client, events: int) -> None:
        self._poll.modify(client.connection.fileno(), events)

    def _end(self, client: _Client) -> None:
        number = client.connection.fileno()
        self._poll.unregister(number)
        del self._clients[number]
        client.connection.close()


def _drive(
    pipe: Connection,
    port: int,
    requests: list[bytes],
    clients: int,
    count: int | None,
    seconds: float | None,
) -> None:
    turn = cycle(requests)
    limited = turn if count is None else (next(turn) for _ in range(count))
    loop = _Loop(port, clients, limited)
    loop.run(float("inf") if seconds is None else seconds)
    pipe.send(loop.load)
