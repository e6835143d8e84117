"""The body of a request while it comes."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mini_agent.listen.http import HttpServer

# Pieces of a body below this are merged: an object each would cost more than their bytes.
PIECE_BYTES_MIN = 4096


class Upload:
    """What has come of one connection's body; its bytes count in `server.upload_bytes`.

    Attributes:
        received_bytes: How much that is.
    """

    __slots__ = ("_pieces", "_server", "received_bytes")

    def __init__(self, server: HttpServer) -> None:
        self._server = server
        self._pieces: list[bytes | bytearray | memoryview] = []
        self.received_bytes = 0

    def add(self, piece: bytes | memoryview) -> None:
        """Keep a piece."""
        self.received_bytes += len(piece)
        self._server.upload_bytes += len(piece)
        pieces = self._pieces
        if len(piece) >= PIECE_BYTES_MIN or not pieces:
            pieces.append(piece)
        elif isinstance(last := pieces[-1], bytearray):
            last += piece
        else:
            pieces.append(bytearray(piece))

    def take(self) -> bytes:
        """The whole body; nothing is left here."""
        pieces = self._pieces
        body = bytes(pieces[0]) if len(pieces) == 1 else b"".join(pieces)
        self.forget()
        return body

    def forget(self) -> None:
        """Let go of what has come."""
        self._server.upload_bytes -= self.received_bytes
        self.received_bytes = 0
        self._pieces = []
