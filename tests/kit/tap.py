"""A wire between a client and a server that lets every byte pass and writes down the client's.

Put between a real tracer and an agent it gives what the tracer said, to be held against what
the agent made of it, while both talk to each other and not to us.
"""

from __future__ import annotations

import contextlib
import http.client
import io
import socket
import threading
from dataclasses import dataclass

from kit.loopback import WAIT_S_MAX, Listener, read_body, read_head

_READ_BYTES = 65536


@dataclass(frozen=True)
class TappedRequest:
    """One request as the client sent it; header names in lower case."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


class Tap:
    """Listens on a port of its own and passes everything to a loopback port and back."""

    def __init__(self, port: int) -> None:
        self._server_port = port
        self._lock = threading.Lock()
        self._said: list[bytearray] = []
        self._sockets: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._listener = Listener("127.0.0.1", 0, self._connect)
        self.url = f"http://127.0.0.1:{self._listener.port}"

    def __enter__(self) -> Tap:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Cut what is open; what was written down stays."""
        self._listener.close()
        for end in self._sockets:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(WAIT_S_MAX)
        for end in self._sockets:
            end.close()

    def requests(self, path: str) -> list[TappedRequest]:
        """Every complete request for a path, by connection and then in order."""
        with self._lock:
            said = [bytes(connection) for connection in self._said]
        return [
            request
            for connection in said
            for request in _split(connection)
            if request.path.partition("?")[0] == path
        ]

    def _connect(self, client: socket.socket) -> None:
        try:
            server = socket.create_connection(("127.0.0.1", self._server_port), WAIT_S_MAX)
        except OSError:
            # What the client would have met, as near as an accepted connection can show it.
            client.close()
            return
        server.settimeout(None)
        said = bytearray()
        with self._lock:
            self._said.append(said)
        self._sockets += [client, server]
        for source, target, notes in ((client, server, said), (server, client, None)):
            thread = threading.Thread(target=self._pass_on, args=(source, target, notes))
            self._threads.append(thread)
            thread.start()

    def _pass_on(
        self, source: socket.socket, target: socket.socket, notes: bytearray | None
    ) -> None:
        with contextlib.suppress(OSError):
            while piece := source.recv(_READ_BYTES):
                if notes is not None:
                    with self._lock:
                        notes += piece
                target.sendall(piece)
        with contextlib.suppress(OSError):
            target.shutdown(socket.SHUT_WR)


def _split(said: bytes) -> list[TappedRequest]:
    requests = []
    reader = io.BufferedReader(io.BytesIO(said))
    # A connection may have been cut in the middle of its last request.
    with contextlib.suppress(http.client.HTTPException):
        while reader.peek(1):
            method, path, pairs = read_head(reader)
            headers = {name.lower(): value for name, value in pairs}
            requests.append(TappedRequest(method, path, headers, read_body(reader, headers)))
    return requests
