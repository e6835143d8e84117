"""Below the scripted intake: a listener in a thread, and just enough HTTP/1.1 by hand.

By hand, because faults need the socket: the standard library's server has no place to reset a
connection before a request is read or to answer byte by byte.
"""

from __future__ import annotations

import contextlib
import gzip
import http.client
import selectors
import socket
import ssl
import struct
import sys
import threading
from http import HTTPStatus
from typing import TYPE_CHECKING

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

if TYPE_CHECKING:
    import io
    from collections.abc import Callable, Mapping

# Waits in tests end here at the latest; generous, because two busy cores can be slow.
WAIT_S_MAX = 20.0


class Listener:
    """Accepts until closed, in a thread of its own."""

    def __init__(self, host: str, port: int, take: Callable[[socket.socket], None]) -> None:
        self._take = take
        self._socket = socket.create_server((host, port), backlog=128)
        self._socket.setblocking(False)
        self.port = self._socket.getsockname()[1]
        self._wake_reader, self._wake_writer = socket.socketpair()
        self._thread = threading.Thread(target=self._accept, name="intake-accept", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._wake_writer.send(b"x")
        self._thread.join(WAIT_S_MAX)
        for open_socket in (self._socket, self._wake_reader, self._wake_writer):
            open_socket.close()

    def _accept(self) -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(self._socket, selectors.EVENT_READ)
            selector.register(self._wake_reader, selectors.EVENT_READ)
            while True:
                ready = {key.fileobj for key, _ in selector.select()}
                if self._wake_reader in ready:
                    return
                with contextlib.suppress(BlockingIOError, ConnectionError):
                    connection, _ = self._socket.accept()
                    connection.setblocking(True)
                    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    self._take(connection)


class Authority:
    """A certificate authority for one test, and a server certificate from it."""

    def __init__(self) -> None:
        # Imported here: making keys needs packages that most tests do without.
        import trustme

        authority = trustme.CA()
        self.certificates = authority.cert_pem.bytes()
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert("127.0.0.1", "localhost").configure_cert(self.context)


# Linger on, for zero seconds: closing sends a reset.
LINGER_NONE = struct.pack("hh" if sys.platform == "win32" else "ii", 1, 0)


def reset(connection: socket.socket) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_NONE)
    connection.close()


def is_closed_by_peer(connection: socket.socket) -> bool:
    if isinstance(connection, ssl.SSLSocket):
        # Its bytes cannot be looked at without taking them; writing will tell.
        return False
    connection.setblocking(False)
    try:
        return connection.recv(1, socket.MSG_PEEK) == b""
    except BlockingIOError:
        return False
    except OSError:
        return True
    finally:
        connection.setblocking(True)


def read_head(reader: io.BufferedReader) -> tuple[str, str, list[tuple[str, str]]]:
    line = reader.readline(65536).decode("latin-1")
    try:
        method, target, _ = line.split()
    except ValueError as problem:
        raise http.client.BadStatusLine(line) from problem
    pairs = list(http.client.parse_headers(reader).items())
    return method, target, pairs


def read_body(reader: io.BufferedReader, headers: Mapping[str, str]) -> bytes:
    if headers.get("transfer-encoding", "").lower() == "chunked":
        parts = []
        while size := int(_read_line(reader).split(b";")[0], 16):
            parts.append(_read_exactly(reader, size))
            _read_line(reader)
        http.client.parse_headers(reader)
        return b"".join(parts)
    return _read_exactly(reader, int(headers.get("content-length", "0")))


def _read_line(reader: io.BufferedReader) -> bytes:
    line = reader.readline(65536)
    if not line.endswith(b"\n"):
        raise http.client.IncompleteRead(line)
    return line


def _read_exactly(reader: io.BufferedReader, size: int) -> bytes:
    read = reader.read(size)
    if len(read) != size:
        raise http.client.IncompleteRead(read, size - len(read))
    return read


def decompress(raw: bytes, encoding: str) -> bytes:
    match encoding.lower():
        case "identity":
            return raw
        case "zstd":
            return zstd.decompress(raw)
        case "gzip":
            return gzip.decompress(raw)
    raise ValueError(f"content encoding {encoding!r} is none that the intake takes")


def encode_answer(status: int, headers: Mapping[str, str], body: bytes) -> bytes:
    try:
        reason = HTTPStatus(status).phrase
    except ValueError:
        reason = "Unknown"
    sent = {"Content-Type": "application/json", **headers, "Content-Length": str(len(body))}
    lines = [f"HTTP/1.1 {status} {reason}", *(f"{name}: {value}" for name, value in sent.items())]
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body
