"""The body of a request while it comes."""

from __future__ import annotations

import io

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mini_agent.listen.http import HttpServer


class Upload:
    """What has come of one connection's body; its bytes count in `server.upload_bytes`.

    Attributes:
        received_bytes: How much that is.
    """

    __slots__ = ("_all", "_first", "_server", "received_bytes")

    def __init__(self, server: HttpServer) -> None:
        self._server = server
        # Most bodies are one piece. More of them are written behind each other as they come, and
        # what they make is taken without a copy: to join megabytes would take many milliseconds.
        self._first: bytes | memoryview = b""
        self._all: io.BytesIO | None = None
        self.received_bytes = 0

    def add(self, piece: bytes | memoryview) -> None:
        """Keep a piece."""
        if not self.received_bytes:
            self._first = piece
        else:
            if self._all is None:
                self._all = io.BytesIO()
                self._all.write(self._first)
                self._first = b""
            self._all.write(piece)
        self.received_bytes += len(piece)
        self._server.upload_bytes += len(piece)

    def take(self) -> bytes:
        """The whole body; nothing is left here."""
        body = bytes(self._first) if self._all is None else self._all.getvalue()
        self.forget()
        return body

    def forget(self) -> None:
        """Let go of what has come."""
        self._server.upload_bytes -= self.received_bytes
        self.received_bytes = 0
        self._first = b""
        self._all = None
