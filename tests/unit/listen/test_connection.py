"""listen.connection: what one client can send, and what it gets for it."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kit.clock import HandClock
from kit.http_client import Answer, MemoryClient, chunked, request

from mini_agent.errors import DecodeError
from mini_agent.ledger import REFUSED, Ledger
from mini_agent.listen.connection import LINGER_S_MAX, READ_BYTES_MAX, TURNED_AWAY_MAX
from mini_agent.listen.http import AT_ONCE_BYTES_MAX, HttpLimits, HttpServer
from mini_agent.listen.turns import AT_ONCE_S_MAX
from mini_agent.wire.http import Request, Response, Route, Unfinished

LIMITS = {
    "body_bytes_max": 1000,
    "uploads_bytes_max": 2000,
    "header_bytes_max": 500,
    "connections_max": 3,
    "drain_bytes_max": 5000,
}


class Bench:
    """A server with a few routes; what reached them is in `requests`."""

    def __init__(self, **limits: float) -> None:
        self.clock = HandClock()
        self.ledger = Ledger()
        self.requests: list[Request] = []
        self.turns: list[Callable[[], None]] = []
        routes = {
            "/long": Route(self._long, None, takes_body=False),
            "/echo": Route(self._echo, frozenset({"POST", "PUT"}), takes_body=True),
            "/page": Route(self._page, frozenset({"GET"}), takes_body=False),
            "/any": Route(self._echo, None, takes_body=False),
            "/bad": Route(self._bad, None, takes_body=False),
            "/busy": Route(self._busy, None, takes_body=False),
        }
        self.server = HttpServer(
            routes,
            HttpLimits(**{**LIMITS, **limits}),  # type: ignore[arg-type]
            self.ledger,
            self.clock,  # type: ignore[arg-type]
            "cafe" * 16,
            self.turns.append,
        )

    def _long(self, request: Request) -> Response | Unfinished:
        """Takes a turn for each byte of the body; an x in it is no good."""
        self.requests.append(request)
        left = iter(request.body)

        def go_on() -> Response | None:
            byte = next(left, None)
            if byte == ord("x"):
                raise DecodeError("an x", 3)
            if byte == ord("?"):
                raise ValueError("our mistake")
            return Response(200, request.body) if byte is None else None

        return Unfinished(go_on)

    def _echo(self, request: Request) -> Response:
        self.requests.append(request)
        return Response(200, request.body or b"{}")

    def _busy(self, request: Request) -> Response:
        """Takes time; a turn has enough for three."""
        self.clock.move(AT_ONCE_S_MAX * 0.4)
        return self._echo(request)

    def _page(self, request: Request) -> Response:
        self.requests.append(request)
        return Response(200, b"<p>" * 5000, "text/html")

    def _bad(self, request: Request) -> Response:
        raise DecodeError("not a list", 7)

    def connect(self) -> MemoryClient:
        return MemoryClient(self.server)

    def refused(self) -> object:
        """Refused requests by reason."""
        books = self.ledger.snapshot({}).get("requests")
        return books[REFUSED] if books else {}

    def turn(self, count: int = 1) -> None:
        """Let so many turns of the loop pass."""
        for _ in range(count):
            due, self.turns[:] = self.turns[:], []
            for call in due:
                call()

    def move(self, seconds: float) -> None:
        """Let time pass as the watch would see it."""
        self.clock.move(seconds)
        self.server.sweep()


@pytest.fixture
def bench() -> Bench:
    return Bench()


@pytest.fixture
def client(bench: Bench) -> MemoryClient:
    return bench.connect()


def message_of(answer: Answer) -> str:
    assert answer.headers["content-type"] == "application/json"
    message = json.loads(answer.body)["message"]
    assert isinstance(message, str)
    return message


def statuses(client: MemoryClient) -> list[int]:
    return [answer.status for answer in client.answers()]


# What is taken.


def test_a_request_reaches_its_route_whole(bench: Bench, client: MemoryClient) -> None:
    client.send(request("PUT", "/echo?a=1&b=?", "X-One:  1 ", "x-one: 2", "X-ONE: 3", body=b"abc"))
    assert client.answer().body == b"abc"
    (taken,) = bench.requests
    assert (taken.method, taken.path, taken.query, taken.body) == (
        "PUT",
        "/echo",
        "a=1&b=?",
        b"abc",
    )
    assert taken.headers["x-one"].strip() == "1"
    assert taken.headers["host"] == "localhost"
    assert "X-One" not in taken.headers


def test_every_answer_carries_length_state_and_date(client: MemoryClient) -> None:
    client.send(request("GET", "/any"), request("GET", "/nowhere"), b"nonsense\r\n\r\n")
    for answer in client.answers():
        assert answer.headers["datadog-agent-state"] == "cafe" * 16
        assert answer.headers["date"] == "Mon, 21 Sep 2026 14:13:20 GMT"
        assert int(answer.headers["content-length"]) == len(answer.body)
        assert ("content-type" in answer.headers) == bool(answer.body)


def test_a_connection_is_kept_for_further_requests(bench: Bench, client: MemoryClient) -> None:
    for body in (b"1", b"", b"333"):
        client.send(request("POST", "/echo", body=body))
    assert [answer.body for answer in client.answers()] == [b"1", b"{}", b"333"]
    assert client.is_open
    assert bench.refused() == {}


def test_what_a_proactor_loop_reads_is_taken_as_any_other(client: MemoryClient) -> None:
    """It gives a protocol a bytearray, which is no key of a dictionary; a head comes again."""
    for body in (b"first", b"second"):
        client.connection.data_received(bytearray(request("POST", "/echo", body=body)))
    assert [answer.body for answer in client.answers()] == [b"first", b"second"]


def test_pipelined_requests_are_answered_in_order(client: MemoryClient) -> None:
    client.send(
        request("POST", "/echo", body=b"first")
        + chunked("/echo", b"sec", b"ond")
        + request("GET", "/nowhere")
        + b"\r\n"
        + request("POST", "/echo", body=b"\r\n\r\nlast\r\n\r\n")
    )
    assert [(answer.status, answer.body) for answer in client.answers()] == [
        (200, b"first"),
        (200, b"second"),
        (404, b""),
        (200, b"\r\n\r\nlast\r\n\r\n"),
    ]


def test_chunks_are_joined_and_trailers_mean_nothing(bench: Bench, client: MemoryClient) -> None:
    head = request("POST", "/echo", "Transfer-Encoding: Chunked")
    client.send(
        head
        + b"3;name=value\r\nabc\r\n4\r\n\r\n\r\n\r\n"
        + b"0;last\r\nHost: elsewhere\r\nX-Sum: 1\r\n\r\n"
        + request("POST", "/echo", body=b"next")
    )
    assert [answer.body for answer in client.answers()] == [b"abc\r\n\r\n", b"next"]
    assert bench.requests[0].headers["host"] == "localhost"
    assert "x-sum" not in bench.requests[0].headers
    assert "x-sum" not in bench.requests[1].headers


@pytest.mark.parametrize("piece_bytes", [1, 100, 4095, 4096, 10_000])
def test_a_body_in_pieces_of_any_size_arrives_unchanged(piece_bytes: int) -> None:
    bench = Bench(body_bytes_max=30_000, uploads_bytes_max=30_000)
    client = bench.connect()
    body = bytes(range(256)) * 100
    sent = request("POST", "/echo", body=body) + chunked("/echo", body[:9000], body[9000:])
    client.send(*[sent[at : at + piece_bytes] for at in range(0, len(sent), piece_bytes)])
    assert [answer.body == body for answer in client.answers()] == [True, True]
    assert bench.server.upload_bytes == 0


def test_one_read_is_small_enough_for_memory_at_hand(client: MemoryClient) -> None:
    assert client.transport.max_size == READ_BYTES_MAX < 128 * 1024


def test_a_large_body_is_read_in_large_pieces() -> None:
    bench = Bench(body_bytes_max=300_000, uploads_bytes_max=300_000)
    client = bench.connect()
    body = bytes(range(256)) * 1000
    sent = request("POST", "/echo", body=body)
    for _ in range(2):
        client.send(sent[:READ_BYTES_MAX])
        assert client.transport.max_size == len(body)
        client.send(sent[READ_BYTES_MAX:])
        assert client.transport.max_size == READ_BYTES_MAX
        assert client.answer().body == body
    assert bench.server.upload_bytes == 0


def test_a_request_like_the_last_is_the_same_to_its_route(
    bench: Bench, client: MemoryClient
) -> None:
    for body in (b"1", b"22", b"", b"333"):
        client.send(request("POST", "/echo?a=b", "X-One: 1", body=body))
    assert [answer.body for answer in client.answers()] == [b"1", b"22", b"{}", b"333"]
    assert [taken.body for taken in bench.requests] == [b"1", b"22", b"", b"333"]
    (seen,) = {
        (taken.method, taken.path, taken.query, *sorted(taken.headers.items()))
        for taken in bench.requests
    }
    assert seen == ("POST", "/echo", "a=b", ("host", "localhost"), ("x-one", "1"))


def test_the_limits_hold_for_a_request_like_the_last(bench: Bench, client: MemoryClient) -> None:
    client.send(request("POST", "/echo", body=b"x"))
    client.send(request("POST", "/echo", body=b"x" * 1000))
    client.send(request("POST", "/echo", body=b"x" * 1001))
    assert statuses(client) == [200, 200, 413]
    other = bench.connect()
    other.send(request("POST", "/echo", body=b"x" * 999)[:-1])
    third = bench.connect()
    third.send(request("POST", "/echo", body=b"x" * 1000)[:-1])
    client.send(request("POST", "/echo", body=b"x" * 4))
    assert statuses(client) == [429]
    client.send(request("POST", "/echo", body=b"x" * 3))
    assert statuses(client) == [200]


def test_the_host_header_is_nobodys_business(client: MemoryClient) -> None:
    client.send(b"GET /any HTTP/1.1\r\n\r\n", b"GET /any HTTP/1.1\r\nHost: 2f746d70\r\n\r\n")
    assert statuses(client) == [200, 200]


def test_a_whole_url_is_taken_for_its_path(bench: Bench, client: MemoryClient) -> None:
    client.send(
        request("GET", "http://localhost:8126/any?x=http://y/"),
        request("GET", "http://localhost:8126"),
        request("GET", "/odd://any"),
    )
    assert statuses(client) == [200, 404, 404]
    assert (bench.requests[0].path, bench.requests[0].query) == ("/any", "x=http://y/")


def test_head_gets_the_length_and_no_body(bench: Bench, client: MemoryClient) -> None:
    client.send(request("HEAD", "/page"), request("HEAD", "/echo"), request("HEAD", "/nowhere"))
    page, echo, nowhere = client.answers("HEAD", "HEAD", "HEAD")
    assert (page.status, page.headers["content-length"]) == (200, "15000")
    assert (echo.status, nowhere.status) == (405, 404)
    assert bench.requests[0].method == "HEAD"


@pytest.mark.parametrize(
    ("head", "closes", "connection"),
    [
        ("GET /any HTTP/1.1\r\n\r\n", False, None),
        ("GET /any HTTP/1.1\r\nConnection: close\r\n\r\n", True, "close"),
        ("GET /any HTTP/1.1\r\nConnection: keep-alive, Close\r\n\r\n", True, "close"),
        ("GET /any HTTP/1.0\r\n\r\n", True, "close"),
        ("GET /any HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", False, "keep-alive"),
        (
            "POST /any HTTP/1.0\r\nConnection: keep-alive\r\nTransfer-Encoding: chunked"
            "\r\n\r\n0\r\n\r\n",
            True,
            "close",
        ),
    ],
)
def test_the_connection_is_kept_as_the_client_asks(
    client: MemoryClient, head: str, closes: bool, connection: str | None
) -> None:
    client.send(head.encode())
    answer = client.answer()
    assert (answer.status, answer.headers.get("connection")) == (200, connection)
    assert client.is_open is not closes


def test_what_follows_the_last_request_is_not_looked_at(client: MemoryClient) -> None:
    client.send(request("GET", "/any", "Connection: close") + request("GET", "/any") + b"\0junk")
    assert statuses(client) == [200]


@pytest.mark.parametrize("tail", [b"", b"\r\n", b"\r\n\r\n\n\n"])
def test_line_breaks_between_requests_are_ignored(client: MemoryClient, tail: bytes) -> None:
    client.send(tail + request("POST", "/echo", body=b"x") + tail, tail, request("GET", "/any"))
    assert statuses(client) == [200, 200]


# 100-continue.


def test_a_waiting_client_is_asked_for_the_body(client: MemoryClient) -> None:
    whole = request("POST", "/echo", "Expect: 100-Continue", body=b"abc")
    client.send(whole[:-3])
    (asked,) = client.answers()
    assert (asked.status, asked.headers) == (100, {})
    client.send(b"abc")
    assert client.answer().body == b"abc"


def test_a_client_that_does_not_wait_is_not_asked(client: MemoryClient) -> None:
    client.send(request("POST", "/echo", "Expect: 100-continue", body=b"abc"))
    client.send(request("POST", "/echo", "Expect: 100-continue", body=b""))
    assert statuses(client) == [200, 200]


def test_http_1_0_does_not_know_100(client: MemoryClient) -> None:
    client.send(b"POST /echo HTTP/1.0\r\nExpect: 100-continue\r\nContent-Length: 1\r\n\r\n", b"x")
    assert statuses(client) == [200]


@pytest.mark.parametrize(
    ("method", "path", "length", "status"),
    [("POST", "/nowhere", 1, 404), ("DELETE", "/echo", 1, 405), ("POST", "/echo", 1001, 413)],
)
def test_a_waiting_client_that_is_refused_is_told_at_once(
    client: MemoryClient, method: str, path: str, length: int, status: int
) -> None:
    client.send(request(method, path, "Expect: 100-continue", f"Content-Length: {length}"))
    answer = client.answer()
    assert (answer.status, answer.closes) == (status, True)
    assert client.transport.ended_by_us


def test_other_expectations_fail(bench: Bench, client: MemoryClient) -> None:
    client.send(request("GET", "/any", "Expect: the-unexpected"))
    answer = client.answer()
    assert (answer.status, answer.closes) == (417, False)
    assert bench.refused() == {"expectation": 1}


# Refusals after which the connection goes on.


@pytest.mark.parametrize(
    ("refused", "status", "reason"),
    [
        (request("POST", "/nowhere", body=b"x" * 900), 404, "unknown_path"),
        (request("POST", "/nowhere", body=b"x" * 4000), 404, "unknown_path"),
        (chunked("/nowhere", b"x" * 900, b"\r\n\r\n"), 404, "unknown_path"),
        (request("GET", "/nowhere"), 404, "unknown_path"),
        (request("DELETE", "/echo", body=b"x"), 405, "method"),
        (request("POST", "/echo", body=b"x" * 1001), 413, "large_body"),
        (chunked("/echo", b"x" * 600, b"y" * 401), 413, "large_body"),
        (request("POST", "/bad", body=b"x"), 400, "undecodable"),
    ],
)
@pytest.mark.parametrize("piece_bytes", [1, 10_000])
def test_a_refused_body_is_thrown_away_and_the_connection_goes_on(
    bench: Bench, client: MemoryClient, refused: bytes, status: int, reason: str, piece_bytes: int
) -> None:
    sent = refused + request("POST", "/echo", body=b"next")
    client.send(*[sent[at : at + piece_bytes] for at in range(0, len(sent), piece_bytes)])
    first, second = client.answers()
    assert (first.status, first.closes) == (status, False)
    assert (second.status, second.body) == (200, b"next")
    assert bench.refused() == {reason: 1}
    assert bench.server.upload_bytes == 0
    assert [taken.body for taken in bench.requests] == [b"next"]


def test_a_refusal_does_not_wait_for_the_body(client: MemoryClient) -> None:
    client.send(request("POST", "/echo", "Content-Length: 1001"))
    assert client.answer().status == 413
    client.send(b"x" * 1000)
    assert client.answers() == []
    client.send(b"x", request("GET", "/any"))
    assert client.answer().status == 200


def test_an_unknown_path_is_answered_with_nothing(client: MemoryClient) -> None:
    client.send(request("GET", "/v9/traces"))
    answer = client.answer()
    assert (answer.status, answer.body, answer.headers["content-length"]) == (404, b"", "0")


def test_a_wrong_method_is_told_the_right_ones(client: MemoryClient) -> None:
    client.send(request("GET", "/echo"))
    answer = client.answer()
    assert (answer.status, answer.headers["allow"]) == (405, "POST, PUT")
    assert message_of(answer) == "GET is not allowed"


def test_the_largest_body_is_taken(client: MemoryClient) -> None:
    client.send(request("POST", "/echo", body=b"x" * 1000), chunked("/echo", b"y" * 999, b"y"))
    assert statuses(client) == [200, 200]


def test_a_size_beyond_what_is_drained_closes(client: MemoryClient) -> None:
    client.send(request("POST", "/echo", "Content-Length: 18446744073709551615"))
    answer = client.answer()
    assert (answer.status, answer.closes) == (413, True)
    assert "18446744073709551615 bytes; at most 1000" in message_of(answer)
    assert client.is_open
    client.send(b"x" * 5000)
    assert client.is_open
    client.send(b"x")
    assert not client.is_open
    assert client.answers() == []


def test_endless_chunks_are_drained_to_a_limit(bench: Bench, client: MemoryClient) -> None:
    client.send(request("POST", "/echo", "Transfer-Encoding: chunked"))
    client.send(*[b"ff\r\n" + b"x" * 255 + b"\r\n"] * 100)
    assert client.answer().status == 413
    assert not client.is_open
    assert bench.refused() == {"large_body": 1}


# Refusals after which the connection ends.


@pytest.mark.parametrize(
    "sent",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"hello\r\n\r\n",
        b"get /any HTTP/1.1\r\n\r\n",
        b"GET /any HTTP/1.1\n\n",
        b"GET /any HTTP/1.1\r\nA: b\n\r\n",
        b"GET /any HTTP/1.1\r\nA: b\r\n c\r\n\r\n",
        b"GET /any HTTP/1.1\r\nA : b\r\n\r\n",
        b"GET /any HTTP/1.1\r\nA: \x01\r\n\r\n",
        b"GET /any HTTP/7.7\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"POST /echo HTTP/1.1\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\nabc",
        b"POST /echo HTTP/1.1\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\nabc",
        b"POST /echo HTTP/1.1\r\nContent-Length: +3\r\n\r\nabc",
        b"POST /echo HTTP/1.1\r\nContent-Length: 99999999999999999999\r\n\r\n",
        b"POST /echo HTTP/1.1\r\nTransfer-Encoding: chunked, gzip\r\n\r\n",
        b"POST /echo HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"POST /echo HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabcd\r\n",
        b"POST /echo HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3\nabc",
        b"POST /echo HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\n",
    ],
)
@pytest.mark.parametrize("piece_bytes", [1, 10_000])
def test_what_is_not_http_is_told_so_once(
    bench: Bench, client: MemoryClient, sent: bytes, piece_bytes: int
) -> None:
    client.send(request("GET", "/any"))
    assert statuses(client) == [200]
    sent += request("GET", "/any")
    client.send(*[sent[at : at + piece_bytes] for at in range(0, len(sent), piece_bytes)])
    answer = client.answer()
    assert (answer.status, answer.closes) == (400, True)
    assert message_of(answer)
    assert client.transport.ended_by_us
    assert bench.refused() == {"not_http": 1}
    assert len(bench.requests) == 1


@pytest.mark.parametrize(
    ("sent", "status", "reason"),
    [
        (request("POST", "/echo"), 411, "no_length"),
        (request("POST", "/echo", "Transfer-Encoding: gzip"), 501, "coding"),
        (request("POST", "/echo", "Transfer-Encoding: gzip, chunked"), 501, "coding"),
        (
            request("POST", "/echo", "Transfer-Encoding: gzip", "Transfer-Encoding: chunked"),
            501,
            "coding",
        ),
        (b"GET /any HTTP/2.0\r\n\r\n", 505, "version"),
        (b"GET /any\r\n\r\n", 505, "version"),
        (request("CONNECT", "localhost:80"), 405, "method"),
        (request("POST", "/nowhere", "Connection: close", body=b"x"), 404, "unknown_path"),
    ],
)
def test_some_refusals_end_the_connection(
    bench: Bench, client: MemoryClient, sent: bytes, status: int, reason: str
) -> None:
    client.send(sent + b"whatever\r\n\r\n")
    answer = client.answer()
    assert (answer.status, answer.closes) == (status, True)
    assert client.transport.ended_by_us or not client.is_open
    assert bench.refused() == {reason: 1}
    assert bench.requests == []


# The limit on a head.


def head_of(head_bytes: int) -> bytes:
    short = request("GET", "/any", "X: ")
    return request("GET", "/any", "X: " + "x" * (head_bytes - len(short)))


BEFORE = {
    "nothing": b"",
    "a body with blank lines": request("POST", "/echo", body=b"\r\n\r\n" * 200),
    "chunks": chunked("/echo", b"\r\n\r\n" * 100, b"x"),
    "trailers": request("POST", "/echo", "Transfer-Encoding: chunked") + b"0\r\nA: b\r\n\r\n",
    "a refused body": request("POST", "/nowhere", body=b"\r\n\r\n" * 200),
    "a get": request("GET", "/any"),
}


@pytest.mark.parametrize("before", BEFORE.values(), ids=BEFORE.keys())
@pytest.mark.parametrize("piece_bytes", [1, 7, 499, 10_000])
def test_the_limit_on_a_head_is_exact_wherever_it_begins(before: bytes, piece_bytes: int) -> None:
    for head_bytes, status in ((500, 200), (501, 431)):
        client = Bench().connect()
        sent = before + head_of(head_bytes)
        client.send(*[sent[at : at + piece_bytes] for at in range(0, len(sent), piece_bytes)])
        answer = client.answers()[-1]
        assert (answer.status, answer.closes) == (status, status == 431)


def test_an_endless_header_is_refused_before_it_ends(bench: Bench, client: MemoryClient) -> None:
    begun = b"GET /any HTTP/1.1\r\nX: "
    client.send(begun, b"x" * (500 - len(begun)))
    assert client.answers() == []
    client.send(b"x")
    assert client.answer().status == 431
    assert bench.refused() == {"large_head": 1}


@pytest.mark.parametrize("path", ["/echo", "/nowhere"])
@pytest.mark.parametrize(
    "endless",
    [b"3;" + b"e" * 1000, b"0\r\nT: " + b"t" * 1000, b"0\r\nT: " + b"t" * 1000 + b"\r\n\r\n"],
)
def test_endless_chunk_framing_is_refused(path: str, endless: bytes) -> None:
    client = Bench().connect()
    client.send(request("POST", path, "Transfer-Encoding: chunked"), endless)
    assert statuses(client) == ([400] if path == "/echo" else [404])
    assert client.transport.ended_by_us
    assert client.is_open


# Uploads and connections together.


def test_the_upload_that_goes_over_the_sum_is_refused(bench: Bench) -> None:
    first, second, third = (bench.connect() for _ in range(3))
    for client in (first, second):
        client.send(request("POST", "/echo", "Content-Length: 1000"), b"x" * 950)
    assert bench.server.upload_bytes == 1900
    third.send(request("POST", "/echo", "Content-Length: 200"), b"x" * 100)
    assert third.answers() == []
    third.send(b"x")
    answer = third.answer()
    assert (answer.status, answer.headers["retry-after"], answer.closes) == (429, "1", False)
    assert bench.server.upload_bytes == 1900
    third.send(b"x" * 99, request("POST", "/echo", body=b"small"))
    assert third.answer().body == b"small"
    first.send(b"x" * 50)
    assert first.answer().status == 200
    second.transport.lose(ConnectionResetError())
    assert bench.server.upload_bytes == 0
    assert bench.refused() == {"uploads": 1}


def test_a_connection_too_many_is_told_to_come_back(bench: Bench) -> None:
    inside = [bench.connect() for _ in range(3)]
    turned_away = bench.connect()
    answer = turned_away.answer()
    assert (answer.status, answer.headers["retry-after"], answer.closes) == (503, "1", True)
    turned_away.send(request("GET", "/any"))
    turned_away.finish_sending()
    assert turned_away.answers() == []
    assert bench.server.connection_count == 3
    inside[0].finish_sending()
    again = bench.connect()
    again.send(request("GET", "/any"))
    assert statuses(again) == [200]
    assert bench.refused() == {"connections": 1}


def test_a_flood_of_connections_is_cut(bench: Bench) -> None:
    clients = [bench.connect() for _ in range(3 + TURNED_AWAY_MAX + 5)]
    told = [client.answers() for client in clients]
    assert [len(answers) for answers in told] == [0] * 3 + [1] * TURNED_AWAY_MAX + [0] * 5
    assert [client.is_open for client in clients[-5:]] == [False] * 5
    assert bench.refused() == {"connections": TURNED_AWAY_MAX + 5}


# A client that does not read.


def test_a_client_that_does_not_read_cannot_grow_memory(bench: Bench, client: MemoryClient) -> None:
    client.transport.stalled = True
    client.send(request("GET", "/page", "X-Number: 1") * 100)
    written = len(client.transport.written)
    assert written < client.transport.HIGH_WATER + 20_000
    assert not client.transport.reading
    client.read()
    assert not client.transport.reading
    for _ in range(100):
        client.read()
    assert len(bench.requests) == 100
    assert [answer.status for answer in client.answers()] == [200] * 100
    assert client.transport.reading
    assert client.is_open


def test_reading_goes_on_only_when_the_client_reads(bench: Bench, client: MemoryClient) -> None:
    client.transport.stalled = True
    fitting = client.transport.HIGH_WATER // 15_000 + 1
    client.send(request("GET", "/page") * fitting * 2)
    for answered in (fitting, fitting * 2):
        assert len(bench.requests) == answered
        assert not client.transport.reading
        client.read()
    assert client.transport.reading


def test_what_was_held_back_is_answered_after_the_end_of_input(
    bench: Bench, client: MemoryClient
) -> None:
    client.transport.stalled = True
    client.send(request("GET", "/page") * 10)
    client.send(request("GET", "/any"))
    client.finish_sending()
    for _ in range(10):
        client.read()
    assert statuses(client) == [200] * 11
    assert not client.is_open


def test_an_unread_answer_cuts_the_connection(bench: Bench, client: MemoryClient) -> None:
    client.transport.stalled = True
    client.send(request("GET", "/page") * 10)
    bench.move(9)
    client.transport.unsent_bytes -= 1  # It reads, if slowly.
    bench.move(9)
    bench.move(9)
    assert client.is_open
    bench.move(9)
    assert not client.is_open


def test_an_unread_last_answer_cuts_the_connection(bench: Bench, client: MemoryClient) -> None:
    client.transport.stalled = True
    client.send(request("GET", "/page", "Connection: close"))
    bench.move(9)
    assert client.transport.unsent_bytes > 0
    bench.move(9)
    assert client.transport.unsent_bytes == 0
    client.read()
    assert bench.server.connection_count == 0


def test_time_in_which_the_client_did_not_read_does_not_count_as_idle(
    bench: Bench, client: MemoryClient
) -> None:
    client.transport.stalled = True
    client.send(request("GET", "/page") * 5)
    for _ in range(14):
        client.transport.unsent_bytes -= 1
        bench.move(9)
    bench.clock.move(9)
    client.read()
    bench.move(120)
    assert client.is_open
    bench.move(0.1)
    assert not client.is_open


# Ends.


def test_leaving_between_requests_leaves_no_trace(bench: Bench, client: MemoryClient) -> None:
    client.send(request("GET", "/any"))
    client.finish_sending()
    assert statuses(client) == [200]
    reset = bench.connect()
    reset.transport.lose(ConnectionResetError())
    assert bench.refused() == {}
    assert bench.server.connection_count == 0


@pytest.mark.parametrize(
    "part",
    [
        b"GE",
        b"GET /any HTTP/1.1\r\n",
        request("POST", "/echo", "Content-Length: 5") + b"abc",
        request("POST", "/echo", "Transfer-Encoding: chunked") + b"3\r\nab",
    ],
)
def test_input_that_ends_early_is_answered(bench: Bench, client: MemoryClient, part: bytes) -> None:
    client.send(request("GET", "/any") + part)
    client.finish_sending()
    complete, cut_off = client.answers()
    assert (complete.status, cut_off.status, cut_off.closes) == (200, 400, True)
    assert bench.refused() == {"cut_off": 1}
    assert bench.server.upload_bytes == 0
    assert not client.is_open


def test_a_refused_upload_that_ends_early_is_not_answered_twice(
    bench: Bench, client: MemoryClient
) -> None:
    client.send(request("POST", "/nowhere", "Content-Length: 5") + b"abc")
    client.finish_sending()
    assert statuses(client) == [404]
    assert bench.refused() == {"unknown_path": 1}
    assert not client.is_open


def test_a_refused_client_has_a_while_to_read_and_close(bench: Bench, client: MemoryClient) -> None:
    client.send(b"nonsense\r\n\r\n")
    client.send(b"x" * 1000)
    bench.move(LINGER_S_MAX)
    assert client.is_open
    bench.move(0.1)
    assert not client.is_open
    busy = bench.connect()
    busy.send(b"nonsense\r\n\r\n", b"x" * 6000)
    assert not busy.is_open


def test_a_refused_client_that_is_gone_already_is_no_trouble(
    bench: Bench, client: MemoryClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write_eof() -> None:
        raise OSError(107, "not connected")

    monkeypatch.setattr(client.transport, "write_eof", write_eof)
    client.send(b"nonsense\r\n\r\n")
    assert bench.server.connection_count == 0


# Upgrades: asked for, never done.


@pytest.mark.parametrize("piece_bytes", [1, 10_000])
def test_an_upgrade_is_answered_as_if_it_were_not_asked_for(
    bench: Bench, client: MemoryClient, piece_bytes: int
) -> None:
    upgrade = ("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMA")
    sent = (
        request("GET", "/any", *upgrade)
        + request("POST", "/echo", *upgrade, body=b"GET /bad HTTP/1.1\r\n\r\n")
        + chunked("/echo", b"in ", b"chunks", headers=upgrade)
        + request("POST", "/nowhere", *upgrade, body=b"x" * 700)
        + request("POST", "/echo", body=b"plain")
    )
    client.send(*[sent[at : at + piece_bytes] for at in range(0, len(sent), piece_bytes)])
    assert [(answer.status, answer.body) for answer in client.answers()] == [
        (200, b"{}"),
        (200, b"GET /bad HTTP/1.1\r\n\r\n"),
        (200, b"in chunks"),
        (404, b""),
        (200, b"plain"),
    ]
    assert client.is_open


# Time limits.


def test_a_slow_head_is_refused(bench: Bench, client: MemoryClient) -> None:
    bench.move(60)  # Between requests there is more time.
    for byte in b"GET /any H":
        client.send(bytes([byte]))
        bench.move(1)
    assert client.answers() == []
    client.send(b"T")
    bench.move(0.5)
    answer = client.answer()
    assert (answer.status, answer.closes) == (408, True)
    assert bench.refused() == {"slow_head": 1}


def test_a_slow_body_is_refused() -> None:
    bench = Bench(upload_s_max=30)
    client = bench.connect()
    client.send(request("POST", "/echo", "Content-Length: 1000"))
    for _ in range(30):
        client.send(b"x")
        bench.move(1)
    assert client.answers() == []
    client.send(b"x")
    bench.move(0.1)
    answer = client.answer()
    assert (answer.status, answer.closes) == (408, True)
    assert message_of(answer) == "the body took more than 30 s"
    assert bench.refused() == {"slow_body": 1}
    assert bench.server.upload_bytes == 0


def test_an_upload_that_stands_still_is_refused(bench: Bench, client: MemoryClient) -> None:
    client.send(request("POST", "/echo", "Transfer-Encoding: chunked"))
    bench.move(9)
    client.send(b"1\r\nx\r\n")
    bench.move(10)
    assert client.answers() == []
    bench.move(0.1)
    assert client.answer().status == 408
    assert bench.refused() == {"slow_body": 1}


def test_a_refused_upload_that_stands_still_is_not_answered_twice(
    bench: Bench, client: MemoryClient
) -> None:
    client.send(request("POST", "/nowhere", "Content-Length: 1000"))
    bench.move(10.1)
    assert statuses(client) == [404]
    assert client.transport.ended_by_us
    assert bench.refused() == {"unknown_path": 1}


def test_an_idle_connection_is_closed_in_silence(bench: Bench, client: MemoryClient) -> None:
    client.send(request("GET", "/any"))
    bench.move(119)
    client.send(b"\r\n")  # Not a request.
    bench.move(1)
    assert client.is_open
    bench.move(0.1)
    assert not client.is_open
    assert statuses(client) == [200]
    assert bench.refused() == {}


# Answers that take several turns of the loop.


def long(body: bytes) -> bytes:
    return request("POST", "/long", body=body)


def test_others_are_served_while_an_answer_takes_its_turns(
    bench: Bench, client: MemoryClient
) -> None:
    other = bench.connect()
    client.send(long(b"123"))
    for _ in range(3):
        bench.turn()
        other.send(request("POST", "/echo", body=b"quick"))
        assert other.answer().body == b"quick"
        assert client.answers() == []
    bench.turn()
    assert client.answer().body == b"123"
    assert bench.turns == []


def test_a_known_head_makes_no_difference_to_a_long_answer(
    bench: Bench, client: MemoryClient
) -> None:
    for body in (b"1", b"2", b"3"):
        client.send(long(body))
        assert client.answers() == []
        bench.turn(2)
        assert client.answer().body == body


def test_one_long_answer_is_worked_on_at_a_time(bench: Bench) -> None:
    clients = [bench.connect() for _ in range(3)]
    for client in clients:
        client.send(long(b"12"))
    for client in clients:
        bench.turn(2)
        assert client.answers() == []
        bench.turn()
        assert client.answer().body == b"12"


def test_what_is_behind_a_long_answer_keeps_its_order(bench: Bench, client: MemoryClient) -> None:
    first, second = request("POST", "/echo", body=b"first"), request("POST", "/echo", body=b"last")
    client.send(first + long(b"12") + second[:30])
    assert client.answer().body == b"first"
    assert not client.transport.reading, "a client could fill memory while we work"
    # A proactor transport had this read under way.
    client.send(second[30:] + long(b"3"))
    bench.turn(3)
    assert [answer.body for answer in client.answers()] == [b"12", b"last"]
    bench.turn(2)
    assert client.answer().body == b"3"
    assert client.transport.reading
    client.send(first)
    assert client.answer().body == b"first"


def test_a_client_that_leaves_meanwhile_has_sent_a_complete_request(
    bench: Bench, client: MemoryClient
) -> None:
    client.send(long(b"12"))
    client.transport.lose(ConnectionResetError())
    assert bench.server.upload_bytes == 2
    bench.turn(3)
    assert bench.turns == []
    assert bench.server.upload_bytes == 0
    assert bench.refused() == {}


def test_the_end_of_input_does_not_cut_a_long_answer(bench: Bench, client: MemoryClient) -> None:
    client.send(long(b"12") + long(b"3"))
    client.finish_sending()
    assert client.is_open
    bench.turn(5)
    assert [answer.body for answer in client.answers()] == [b"12", b"3"]
    assert not client.is_open


def test_no_time_limit_runs_while_we_work(bench: Bench, client: MemoryClient) -> None:
    client.send(long(b"12"))
    bench.move(10_000)
    bench.turn(3)
    bench.move(1)
    assert client.answer().status == 200
    assert client.is_open


@pytest.mark.parametrize(("bad", "status"), [(b"1x", 400), (b"1?", 500)])
def test_what_fails_in_a_later_turn_ends_its_request_only(
    bench: Bench, client: MemoryClient, bad: bytes, status: int
) -> None:
    other = bench.connect()
    client.send(long(bad))
    other.send(long(b"1"))
    bench.turn(2)
    assert client.answer().status == status
    bench.turn(2)
    assert other.answer().status == 200
    assert bench.server.upload_bytes == 0


def test_a_long_answer_says_close_where_it_was_asked_to(bench: Bench, client: MemoryClient) -> None:
    client.send(request("POST", "/long", "Connection: close", body=b"1"))
    bench.turn(2)
    assert client.answer().closes
    assert not client.is_open


def test_bodies_that_are_worked_on_count_as_uploads(bench: Bench) -> None:
    clients = [bench.connect() for _ in range(3)]
    clients[0].send(long(b"1" * 1000))
    clients[1].send(long(b"1" * 900))
    assert bench.server.upload_bytes == 1900
    clients[2].send(request("POST", "/echo", body=b"1" * 200))
    assert clients[2].answer().status == 429
    bench.turn(1001)
    assert bench.server.upload_bytes == 900
    clients[2].send(request("POST", "/echo", body=b"1" * 200))
    assert clients[2].answer().status == 200


def test_a_large_body_waits_while_another_is_worked_on() -> None:
    bench = Bench(body_bytes_max=200_000, uploads_bytes_max=400_000)
    clients = [bench.connect() for _ in range(3)]
    large = b"1" * (AT_ONCE_BYTES_MAX + 1)
    clients[0].send(long(b"12"))
    for client, path in ((clients[1], "/echo"), (clients[2], "/long")):
        client.send(request("POST", path, body=large))
    assert [request.path for request in bench.requests] == ["/long"]
    bench.turn(4)
    assert clients[1].answer().body == large
    bench.turn(len(large) + 2)
    assert clients[2].answer().body == large


# Any split, any bytes.

CONVERSATIONS = [
    request("POST", "/echo", body=b"abc")
    + chunked("/echo", b"d" * 40, b"\r\n\r\n")
    + request("GET", "/page")
    + request("POST", "/nowhere", body=b"\r\n\r\nGET"),
    request("POST", "/echo", body=b"x" * 1200)
    + request("GET", "/any?x")
    + request("POST", "/echo"),
    chunked("/echo", b"x" * 900, b"y" * 200) + b"\r\n" + head_of(500) + head_of(501),
    request("PUT", "/bad", body=b"\n") + request("HEAD", "/echo") + b"GET / HTTP/1.1\nA: b\n\n",
    request("POST", "/echo", "Connection: upgrade", "Upgrade: x", body=b"12345")
    + request("GET", "/any", "Connection: close")
    + request("GET", "/any"),
    request("POST", "/echo", "Expect: 100-continue", body=b"abc")
    + chunked("/nowhere", b"abc", headers=("Expect: 100-continue",)),
]


def written_to(client: MemoryClient) -> bytes:
    """What the client got; 100 is left out because it depends on what has arrived."""
    return bytes(client.transport.written).replace(b"HTTP/1.1 100 Continue\r\n\r\n", b"")


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(CONVERSATIONS), st.lists(st.integers(0, 2000), max_size=8))
def test_how_bytes_are_split_changes_nothing(sent: bytes, splits: list[int]) -> None:
    whole = Bench().connect()
    whole.send(sent)
    split = Bench().connect()
    bounds = [0, *sorted(min(at, len(sent)) for at in splits), len(sent)]
    split.send(*[sent[a:b] for a, b in pairwise(bounds) if a < b])
    assert written_to(split) == written_to(whole)
    assert split.is_open == whole.is_open


@settings(max_examples=60, deadline=None)
@given(
    st.permutations(CONVERSATIONS).map(lambda each: each[:3]),
    st.sampled_from(CONVERSATIONS),
    st.lists(st.integers(0, 2000), max_size=4),
)
def test_what_was_taken_before_changes_nothing(
    before: list[bytes], sent: bytes, splits: list[int]
) -> None:
    fresh = Bench().connect()
    fresh.send(sent)
    bench = Bench(connections_max=9)
    for conversation in (*before, sent):
        bench.connect().send(conversation)
    known = bench.connect()
    bounds = [0, *sorted(min(at, len(sent)) for at in splits), len(sent)]
    known.send(*[sent[a:b] for a, b in pairwise(bounds) if a < b])
    assert written_to(known) == written_to(fresh)
    assert known.is_open == fresh.is_open


@pytest.mark.parametrize("sent", CONVERSATIONS)
def test_byte_by_byte_changes_nothing(sent: bytes) -> None:
    whole, bytewise = Bench().connect(), Bench().connect()
    whole.send(sent)
    bytewise.send(*[sent[at : at + 1] for at in range(len(sent))])
    assert written_to(bytewise) == written_to(whole)
    assert bytewise.is_open == whole.is_open


WORDS = st.sampled_from(
    [
        *(b"GET POST CONNECT PRI /any /echo /nowhere * HTTP/1.1 HTTP/1.0 HTTP/2.0".split()),
        b"\r\n",
        b"\r\n\r\n",
        b"\n",
        b" ",
        b": ",
        b"Content-Length: 5\r\n",
        b"Content-Length",
        b"Transfer-Encoding: chunked\r\n",
        b"Expect: 100-continue\r\n",
        b"Connection: upgrade\r\nUpgrade: x\r\n",
        b"Connection: close\r\n",
        b"5\r\nabcde\r\n",
        b"0\r\n",
        request("POST", "/echo", body=b"abcde"),
        request("POST", "/echo", "Content-Length: 2000"),
        chunked("/echo", b"abc"),
    ]
)


@settings(max_examples=300, deadline=None)
@given(st.lists(WORDS | st.binary(max_size=12) | st.just(b"x" * 300), max_size=40))
def test_any_bytes_get_an_answer_or_a_close(pieces: list[bytes]) -> None:
    bench = Bench()
    client = bench.connect()
    client.send(*[piece for piece in pieces if piece])
    answered = len(client.answers())
    if client.is_open:
        client.finish_sending()
        answered += len(client.answers())
    assert not client.is_open
    assert bench.server.upload_bytes == 0
    assert bench.server.connection_count == 0
    assert bool(b"".join(pieces).strip(b"\r\n")) == bool(answered)


# Many that are ready in the same turn of the loop.


def busy(body: bytes) -> bytes:
    return request("POST", "/busy", body=body)


def test_a_turn_answers_as_many_as_it_has_time_for_and_the_next_ones_the_others() -> None:
    bench = Bench(connections_max=10)
    clients = [bench.connect() for _ in range(8)]
    for client in clients:
        client.send(busy(b"1"))
    for first, last in ((0, 3), (3, 6), (6, 8)):
        assert [len(client.answers()) for client in clients[first:last]] == [1] * (last - first)
        assert len(bench.requests) == last
        assert bench.server.upload_bytes == 8 - last
        bench.turn()
    assert bench.turns == []


def test_who_comes_later_is_answered_later_when_some_wait(bench: Bench) -> None:
    first, second = bench.connect(), bench.connect()
    first.send(b"".join(busy(b"%d" % number) for number in range(9)))
    assert [answer.body for answer in first.answers()] == [b"0", b"1", b"2"]
    second.send(request("POST", "/echo", body=b"later"))
    bench.turn()
    assert second.answers() == []
    assert [answer.body for answer in first.answers()] == [b"3", b"4", b"5"]
    # What is left of the first client is behind the second by now.
    bench.turn()
    assert second.answer().body == b"later"
    bench.turn(2)
    assert [answer.body for answer in first.answers()] == [b"6", b"7", b"8"]
    assert bench.turns == []
    assert bench.server.upload_bytes == 0


def test_who_waits_for_a_turn_does_not_wait_for_a_long_answer(bench: Bench) -> None:
    other, client = bench.connect(), bench.connect()
    other.send(long(b"1" * 9))
    client.send(*[busy(b"%d" % number) for number in range(4)])
    assert len(client.answers()) == 3
    bench.turn()
    assert client.answer().body == b"3"
    assert other.answers() == []
    bench.turn(9)
    assert other.answer().body == b"1" * 9


def test_what_fails_in_the_next_turn_ends_its_request_only(
    bench: Bench, client: MemoryClient
) -> None:
    client.send(*[busy(b"1")] * 3, request("POST", "/bad", body=b"1"))
    client.send(long(b"12"), request("GET", "/nowhere"))
    assert statuses(client) == [200] * 3
    bench.turn(4)
    assert statuses(client) == [400, 200, 404]
    assert bench.server.upload_bytes == 0


def test_bodies_that_wait_for_a_turn_count_as_uploads(bench: Bench) -> None:
    clients = [bench.connect() for _ in range(3)]
    clients[0].send(*[busy(b"1")] * 3)
    assert len(clients[0].answers()) == 3
    clients[0].send(request("POST", "/echo", body=b"1" * 1000))
    clients[1].send(request("POST", "/echo", body=b"1" * 900))
    assert bench.server.upload_bytes == 1900
    # A head that is known, and one that is not.
    clients[2].send(busy(b"1" * 200), request("POST", "/echo", body=b"1" * 200))
    assert statuses(clients[2]) == [429, 429]
    assert bench.refused() == {"uploads": 2}
    bench.turn()
    assert bench.server.upload_bytes == 0
    clients[2].send(busy(b"1" * 200))
    assert [statuses(client) for client in clients] == [[200]] * 3


def test_a_stop_answers_who_waits_for_a_turn(bench: Bench, client: MemoryClient) -> None:
    client.send(*[busy(b"1")] * 4)
    other = bench.connect()
    other.send(busy(b"1"))
    bench.server.stop()
    assert len(client.answers()) == 3
    bench.turn()
    for waited in (client, other):
        assert waited.answer().closes
        assert not waited.is_open


def test_an_abort_gives_up_who_waits_for_a_turn(bench: Bench, client: MemoryClient) -> None:
    client.send(*[busy(b"1")] * 4)
    assert bench.server.upload_bytes == 1
    bench.server.abort()
    assert bench.server.upload_bytes == 0
    bench.turn(2)
    assert bench.turns == []
    assert len(bench.requests) == 3
