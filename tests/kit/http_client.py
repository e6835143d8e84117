"""HTTP from the client's side, byte by byte: what real clients do and what they should not.

`read_answer` is as strict as the strictest client, the .NET tracer on a named pipe. `RawClient`
speaks over a real socket, `MemoryClient` straight to a connection object, without a loop.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Callable
from io import BytesIO
from typing import Any

from mini_agent.listen.http import HttpServer

LINE_BYTES_MAX = 8192


class StrictError(AssertionError):
    """An answer that the strictest client would not understand."""


class Answer:
    """One answer: header names in lower case."""

    def __init__(self, status: int, reason: str, headers: dict[str, str], body: bytes) -> None:
        self.status = status
        self.reason = reason
        self.headers = headers
        self.body = body

    def __repr__(self) -> str:
        return f"Answer({self.status} {self.reason}, {self.headers}, {self.body!r})"

    @property
    def closes(self) -> bool:
        return self.headers.get("connection") == "close"


def read_answer(read: Callable[[int], bytes], to_head: bool = False) -> Answer | None:
    """Read one answer; None at the end of the stream.

    The status line is `HTTP/1.1 NNN Reason`, lines end in CRLF, and there is a Content-Length,
    because without one that client reads until the connection closes. Source:
    transport-contract 3.1.

    Args:
        read: Gives up to that many bytes, none at the end.
        to_head: The request was a HEAD; no body follows.
    """
    first = read(1)
    if not first:
        return None
    line = _read_line(read, first)
    if line[:9] != b"HTTP/1.1 " or not line[9:12].isdigit() or line[12:13] != b" ":
        raise StrictError(f"status line {line!r}")
    if not line[13:].strip():
        raise StrictError(f"no reason phrase in {line!r}")
    headers: dict[str, str] = {}
    while field := _read_line(read):
        name, colon, value = field.partition(b": ")
        key = name.decode("ascii").lower()
        if not colon or not name or name != name.strip() or key in headers:
            raise StrictError(f"header {field!r}")
        headers[key] = value.decode("latin-1")
    status = int(line[9:12])
    body = b""
    if status >= 200:
        if not headers.get("content-length", "").isdigit():
            raise StrictError(f"no length in {headers}")
        if not to_head:
            body = _read_exactly(read, int(headers["content-length"]))
    return Answer(status, line[13:].decode("ascii"), headers, body)


def _read_line(read: Callable[[int], bytes], line: bytes = b"") -> bytes:
    while not line.endswith(b"\r\n"):
        line += _read_exactly(read, 1)
        if line.endswith(b"\n") and not line.endswith(b"\r\n"):
            raise StrictError(f"bare line feed after {line!r}")
        if len(line) > LINE_BYTES_MAX:
            raise StrictError("endless line")
    return line[:-2]


def _read_exactly(read: Callable[[int], bytes], count: int) -> bytes:
    parts = []
    while count:
        part = read(count)
        if not part:
            raise StrictError(f"the stream ended {count} bytes early")
        parts.append(part)
        count -= len(part)
    return b"".join(parts)


def request(method: str, path: str, *headers: str, body: bytes | None = None) -> bytes:
    """The bytes of a request; a body brings its Content-Length along."""
    lines = [f"{method} {path} HTTP/1.1", "Host: localhost", *headers]
    if body is not None:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + (body or b"")


def chunked(path: str, *chunks: bytes, headers: tuple[str, ...] = ()) -> bytes:
    """The bytes of a POST in these chunks."""
    head = request("POST", path, "Transfer-Encoding: chunked", *headers)
    return head + b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in (*chunks, b""))


class RawClient:
    """A client on a real socket that sends exactly the bytes it is given."""

    def __init__(self, host: str, port: int, timeout_s: float = 10.0) -> None:
        self.socket = socket.create_connection((host, port), timeout_s)

    def __enter__(self) -> RawClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def send(self, sent: bytes) -> None:
        self.socket.sendall(sent)

    def answer(self, to_head: bool = False) -> Answer:
        answer = read_answer(self.socket.recv, to_head)
        assert answer is not None, "closed without an answer"
        return answer

    def ends(self) -> bool:
        """Whether the server closes without a further byte; waits for it."""
        try:
            return self.socket.recv(1) == b""
        except ConnectionError:
            return True

    def finish_sending(self) -> None:
        self.socket.shutdown(socket.SHUT_WR)

    def reset(self) -> None:
        """Leave without a goodbye."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()

    def close(self) -> None:
        self.socket.close()


class MemoryTransport(asyncio.Transport):
    """What a connection is given instead of a socket; keeps what was written.

    With `stalled` the peer reads nothing, and what is written piles up as it would in asyncio's
    transports: above `HIGH_WATER` writing is paused.
    """

    HIGH_WATER = 64 * 1024
    # As asyncio has it: the largest read, unless the protocol says otherwise.
    max_size = 256 * 1024

    def __init__(self, protocol: asyncio.Protocol) -> None:
        super().__init__()
        self._protocol = protocol
        self.written = bytearray()
        self.unsent_bytes = 0
        self.stalled = False
        self.reading = True
        self.ended_by_us = False
        self.lost = False
        self._closing = False
        self._writing_paused = False

    def write(self, data: Any) -> None:
        assert not self.ended_by_us, "written after write_eof"
        if self._closing:
            return
        self.written += data
        if self.stalled:
            self.unsent_bytes += len(data)
            if self.unsent_bytes > self.HIGH_WATER and not self._writing_paused:
                self._writing_paused = True
                self._protocol.pause_writing()

    def peer_reads(self) -> None:
        """The peer takes all there is."""
        self.unsent_bytes = 0
        if self._writing_paused:
            self._writing_paused = False
            self._protocol.resume_writing()
        if self._closing and not self.unsent_bytes:
            self.lose()

    def lose(self, error: Exception | None = None) -> None:
        if not self.lost:
            self._closing = self.lost = True
            self._protocol.connection_lost(error)

    def close(self) -> None:
        self._closing = True

    def abort(self) -> None:
        self._closing = True
        self.unsent_bytes = 0

    def is_closing(self) -> bool:
        return self._closing

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        self.ended_by_us = True

    def get_write_buffer_size(self) -> int:
        return self.unsent_bytes

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True


class MemoryClient:
    """A client that hands its bytes straight to a connection of the server."""

    def __init__(self, server: HttpServer) -> None:
        self.connection = server.protocol()
        self.transport = MemoryTransport(self.connection)
        self._read_bytes = 0
        self.connection.connection_made(self.transport)
        self._settle()

    def send(self, *pieces: bytes) -> None:
        """Send each piece as one read of the server, until it closes."""
        for piece in pieces:
            if self.transport.is_closing():
                break
            self.connection.data_received(piece)
            self._settle()

    def finish_sending(self) -> None:
        if not self.connection.eof_received():
            self.transport.close()
        self._settle()

    def read(self) -> None:
        """Take what the server has written so far."""
        self.transport.peer_reads()
        self._settle()

    def answers(self, *methods: str) -> list[Answer]:
        """The answers since the last call; `methods` names the requests, when one was a HEAD."""
        stream = BytesIO(bytes(self.transport.written[self._read_bytes :]))
        self._read_bytes = len(self.transport.written)
        answers: list[Answer] = []
        while True:
            to_head = methods[len(answers) : len(answers) + 1] == ("HEAD",)
            answer = read_answer(stream.read, to_head)
            if answer is None:
                return answers
            answers.append(answer)

    def answer(self) -> Answer:
        """The only answer since the last call."""
        (answer,) = self.answers()
        return answer

    @property
    def is_open(self) -> bool:
        """Whether the server still takes bytes from this client."""
        return not self.transport.is_closing()

    def _settle(self) -> None:
        # A closing transport with nothing left to send reports the loss in the next loop turn.
        if self.transport.is_closing() and not self.transport.unsent_bytes:
            self.transport.lose()
