from __future__ import annotations

from kit.clock import HandClock

from mini_agent.ledger import Ledger
from mini_agent.listen.http import HttpLimits, HttpServer
from mini_agent.listen.upload import Upload


def test_a_body_comes_out_whole_and_counts_until_then() -> None:
    server = HttpServer({}, HttpLimits(), Ledger(), HandClock(), "")  # type: ignore[arg-type]
    upload = Upload(server)
    pieces = [b"a", memoryview(b"b"), b"c" * 5000, b"d", memoryview(b"e")]
    for piece in pieces:
        upload.add(piece)
    assert upload.received_bytes == server.upload_bytes == 5004
    assert upload.take() == b"".join(pieces)
    assert upload.received_bytes == server.upload_bytes == 0
    upload.add(b"another")
    assert upload.take() == b"another"
    upload.add(b"one more")
    upload.forget()
    assert server.upload_bytes == 0
    assert upload.take() == b""
