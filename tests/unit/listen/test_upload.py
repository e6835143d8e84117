from __future__ import annotations

from kit.clock import HandClock

from mini_agent.ledger import Ledger
from mini_agent.listen.http import HttpLimits, HttpServer
from mini_agent.listen.upload import PIECE_BYTES_MIN, Upload


def test_a_body_comes_out_whole_and_counts_until_then() -> None:
    server = HttpServer({}, HttpLimits(), Ledger(), HandClock(), "")  # type: ignore[arg-type]
    upload = Upload(server)
    pieces = [b"a", b"b", b"c" * PIECE_BYTES_MIN, b"d", memoryview(b"e")]
    for piece in pieces:
        upload.add(piece)
    assert upload.received_bytes == server.upload_bytes == PIECE_BYTES_MIN + 4
    assert upload.take() == b"".join(pieces)
    assert upload.received_bytes == server.upload_bytes == 0
    upload.add(b"another")
    upload.forget()
    assert server.upload_bytes == 0
    assert upload.take() == b""
