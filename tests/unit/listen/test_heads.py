"""listen.heads: a head that was taken once is known again, and no other."""

from __future__ import annotations

import pytest

from mini_agent.listen.heads import HEAD_BYTES_MAX, HEADS_MAX, KnownHead, KnownHeads
from mini_agent.wire.http import Response, Route

ROUTE = Route(lambda _: Response(200), None, takes_body=True)


def head(
    length: bytes | None = b"5", name: bytes = b"Content-Length: ", more: bytes = b""
) -> bytes:
    line = b"" if length is None else name + length + b"\r\n"
    return b"POST /a HTTP/1.1\r\nHost: x\r\n" + more + line + b"X-Last: y\r\n\r\n"


KNOWN = KnownHead("POST", "/a", "", {"host": "x"}, ROUTE)


@pytest.fixture
def heads() -> KnownHeads:
    heads = KnownHeads()
    heads.learn(head(), KNOWN, 5)
    return heads


@pytest.mark.parametrize("length", [0, 5, 12345, 10**11])
def test_the_same_head_with_another_length_is_known(heads: KnownHeads, length: int) -> None:
    received = head(b"%d" % length)
    assert heads.find(received, 0) == (KNOWN, len(received), length)


def test_a_head_is_found_where_it_begins(heads: KnownHeads) -> None:
    received = b"before" + head(b"7") + b"body\r\n\r\n"
    assert heads.find(received, 6) == (KNOWN, len(received) - 8, 7)
    assert heads.find(received, 5) is None


@pytest.mark.parametrize("name", [b"Content-Length: ", b"content-length: "])
def test_both_usual_ways_of_writing_are_known(name: bytes) -> None:
    heads = KnownHeads()
    heads.learn(head(name=name), KNOWN, 5)
    received = head(b"6", name)
    assert heads.find(received, 0) == (KNOWN, len(received), 6)


@pytest.mark.parametrize("length", [b"", b"-1", b"+5", b" 5", b"5 ", b"5,5", b"0x5", b"9" * 13])
def test_what_is_no_plain_length_is_left_to_the_parser(heads: KnownHeads, length: bytes) -> None:
    assert heads.find(head(length), 0) is None


@pytest.mark.parametrize(
    "received",
    [
        head()[:-1],
        head(None),
        head(more=b"Content-Length: 6\r\n"),
        head(more=b"Transfer-Encoding: chunked\r\n"),
        head(more=b"Connection: close\r\n"),
        head().replace(b"/a", b"/b"),
        head().replace(b"X-Last", b"X-last"),
    ],
)
def test_any_other_head_is_unknown(heads: KnownHeads, received: bytes) -> None:
    assert heads.find(received, 0) is None


@pytest.mark.parametrize("name", [b"CONTENT-LENGTH: ", b"Content-Length:", b"Content-Length:  "])
def test_a_length_that_would_not_be_found_again_is_not_learned(name: bytes) -> None:
    heads = KnownHeads()
    heads.learn(head(name=name), KNOWN, 5)
    assert heads.find(head(name=name), 0) is None


def test_a_head_without_a_length_has_no_body() -> None:
    heads = KnownHeads()
    heads.learn(head(None), KNOWN, None)
    assert heads.find(head(None) + b"next", 0) == (KNOWN, len(head(None)), 0)


def test_only_so_many_heads_of_such_a_size_are_remembered(heads: KnownHeads) -> None:
    long = head(more=b"X-Long: %b\r\n" % (b"x" * HEAD_BYTES_MAX))
    heads.learn(long, KNOWN, 5)
    assert heads.find(long, 0) is None
    for number in range(HEADS_MAX):
        heads.learn(head(more=b"X-Number: %d\r\n" % number), KNOWN, 5)
    assert heads.find(head(), 0) is None
    assert heads.find(head(more=b"X-Number: 0\r\n"), 0) is not None
