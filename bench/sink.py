"""An intake in a process of its own that does as little as it can: it reads, answers, and counts.

One loop over epoll; a body is kept as bytes or only counted, and is decompressed and looked into
when somebody asks, which is after the clock was stopped. What is asked comes over a pipe. It is
also what the driver is held against alone, to show how much faster than the agents it is.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import select
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from kit import protos, stats
from kit.loopback import decompress

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

TRACES, STATS = "/api/v0.2/traces", "/api/v0.2/stats"

# Whatever is waiting of a body of half a megabyte, at once.
READ_BYTES = 1 << 20
ANSWER = b"HTTP/1.1 202 Accepted\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"


class Arrived:
    """What reached the intake since it was last told to forget.

    Attributes:
        spans, hits: In the traces and in the stats; 0 where bodies were not kept.
        wire_bytes: Bodies of traces as they travelled.
    """

    def __init__(self) -> None:
        self.requests = 0
        self.spans = 0
        self.hits = 0
        self.wire_bytes = 0


class Sink:
    """The process, as the one that asks it sees it."""

    def __init__(self) -> None:
        context = multiprocessing.get_context("fork")
        listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.port = int(listener.getsockname()[1])
        self._pipe, other = context.Pipe()
        self._process = context.Process(target=_serve, args=(listener, other), daemon=True)
        self._process.start()
        listener.close()
        other.close()

    def __enter__(self) -> Sink:
        return self

    def __exit__(self, *_: object) -> None:
        self._pipe.send(("stop", None))
        self._process.join()
        self._pipe.close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def forget(self, keep: bool = True) -> None:
        """Begin anew; without `keep` bodies are counted and not kept."""
        self._pipe.send(("forget", keep))
        self._pipe.recv()

    def arrived(self) -> Arrived:
        """What arrived until now."""
        self._pipe.send(("arrived", None))
        found: Arrived = self._pipe.recv()
        return found


class _Reader:
    """One connection: what is missing of the request under way."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self.head = b""
        self.missing = 0
        self.parts: list[bytes] = []


class _Server:
    def __init__(self, listener: socket.socket, pipe: Connection) -> None:
        self._listener = listener
        self._pipe = pipe
        self._poll = select.epoll()
        self._readers: dict[int, _Reader] = {}
        self._running = True
        self._keep = True
        self._bodies: list[tuple[bytes, bytes]] = []
        self._arrived = Arrived()
        for each in (listener, pipe):
            self._poll.register(each.fileno(), select.EPOLLIN)

    def run(self) -> None:
        while self._running:
            for number, _ in self._poll.poll():
                if number == self._listener.fileno():
                    self._accept()
                elif number == self._pipe.fileno():
                    self._answer(*self._pipe.recv())
                else:
                    self._read(self._readers[number])

    def _accept(self) -> None:
        connection = self._listener.accept()[0]
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._readers[connection.fileno()] = _Reader(connection)
        self._poll.register(connection.fileno(), select.EPOLLIN)

    def _read(self, reader: _Reader) -> None:
        try:
            read = reader.connection.recv(READ_BYTES)
        except ConnectionError:
            read = b""
        if not read:
            self._poll.unregister(reader.connection.fileno())
            del self._readers[reader.connection.fileno()]
            reader.connection.close()
            return
        if not reader.missing:
            head, blank, read = (reader.head + read).partition(b"\r\n\r\n")
            if not blank:
                reader.head = head
                return
            reader.head = head
            reader.missing = _length(head)
        reader.missing -= len(read)
        assert reader.missing >= 0, "a request before the answer"
        self._arrived.wire_bytes += len(read)
        if self._keep:
            reader.parts.append(read)
        if not reader.missing:
            self._arrived.requests += 1
            if self._keep:
                self._bodies.append((reader.head, b"".join(reader.parts)))
            reader.head, reader.parts = b"", []
            reader.connection.sendall(ANSWER)

    def _answer(self, question: str, keep: bool) -> None:
        if question == "stop":
            self._running = False
            return
        if question == "forget":
            self._keep, self._arrived = keep, Arrived()
            self._bodies.clear()
            self._pipe.send(None)
            return
        bodies, self._bodies = self._bodies, []
        for head, body in bodies:
            self._look_into(head, body)
        self._pipe.send(self._arrived)

    def _look_into(self, head: bytes, wire: bytes) -> None:
        encoding = _header(head, b"content-encoding") or b"identity"
        body = decompress(wire, encoding.decode())
        path = head.split(b" ", 2)[1].decode()
        if path == TRACES:
            payload = protos.load().AgentPayload.FromString(body)
            self._arrived.spans += sum(
                len(chunk.spans) for each in payload.tracerPayloads for chunk in each.chunks
            )
        else:
            assert path == STATS, path
            self._arrived.hits += sum(group["Hits"] for group in stats.entries(body))
            self._arrived.wire_bytes -= len(wire)


def _length(head: bytes) -> int:
    length = _header(head, b"content-length")
    assert length is not None, "an agent that does not say how long its body is"
    return int(length)


def _header(head: bytes, name: bytes) -> bytes | None:
    for line in head.split(b"\r\n")[1:]:
        found, _, value = line.partition(b":")
        if found.lower() == name:
            return value.strip()
    return None


def _serve(*arguments: Any) -> None:
    # Ctrl-C reaches every process of a terminal; whoever started this one says what happened.
    with contextlib.suppress(KeyboardInterrupt):
        _Server(*arguments).run()
