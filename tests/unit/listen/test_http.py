"""listen.http: what connections share, and how all of them end."""

from __future__ import annotations

import asyncio
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kit.clock import HandClock
from kit.http_client import MemoryClient, read_answer, request

from mini_agent.errors import DecodeError, ProtocolError
from mini_agent.ledger import Ledger
from mini_agent.listen.connection import json_message
from mini_agent.listen.http import STALL_S, HttpLimits, HttpServer
from mini_agent.wire.http import REASONS, Request, Response, Route, Unfinished


class Bench:
    """A server with one route that does what `reply` says."""

    def __init__(self) -> None:
        self.clock = HandClock()
        self.ledger = Ledger()
        self.reply: Response | Unfinished | Exception = Response(200, b"yes", "text/plain")
        self.server = HttpServer(
            {"/": Route(self._answer, None, takes_body=False)},
            HttpLimits(),
            self.ledger,
            self.clock,  # type: ignore[arg-type]
            "cafe",
        )

    def _answer(self, request: Request) -> Response | Unfinished:
        if isinstance(self.reply, Exception):
            raise self.reply
        return self.reply

    def connect(self) -> MemoryClient:
        return MemoryClient(self.server)

    def refused(self) -> object:
        books = self.ledger.snapshot({}).get("requests")
        return books["refused"] if books else {}


@pytest.fixture
def bench() -> Bench:
    return Bench()


GET = request("GET", "/")
BEGUN = request("POST", "/", "Content-Length: 4") + b"ab"


# Answers.


@pytest.mark.parametrize("status", sorted(REASONS.keys() - {100}))
def test_every_status_is_understood_by_the_strictest_client(bench: Bench, status: int) -> None:
    client = bench.connect()
    for body in (b"", b'{"a":1}'):
        bench.reply = Response(status, body, headers=(("X-Further", "1"),))
        client.send(GET)
        answer = client.answer()
        assert (answer.status, answer.reason) == (status, REASONS[status])
        assert answer.headers["x-further"] == "1"
        assert answer.body == body


def test_what_a_route_refuses_is_told_and_counted(bench: Bench) -> None:
    client = bench.connect()
    for error in (DecodeError("not a map", 3), ProtocolError(415, "dialect", 'say "v0.4"\n')):
        bench.reply = error
        client.send(GET)
    first, second = client.answers()
    assert (first.status, json.loads(first.body)) == (400, {"message": "not a map (at byte 3)"})
    assert (second.status, json.loads(second.body)) == (415, {"message": 'say "v0.4"\n'})
    assert bench.refused() == {"undecodable": 1, "dialect": 1}


def test_a_failing_route_ends_its_request_only(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    client = bench.connect()
    bench.reply = ZeroDivisionError("ours")
    for _ in range(3):
        client.send(GET)
    assert [json.loads(answer.body) for answer in client.answers()] == [
        {"message": "internal error"}
    ] * 3
    bench.reply = Response(200)
    client.send(GET)
    assert client.answer().status == 200
    assert bench.refused() == {"internal_error": 3}
    (logged,) = caplog.records
    assert logged.exc_info is not None
    assert logged.exc_info[0] is ZeroDivisionError


def test_failures_are_logged_once_a_minute_with_their_count(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    client = bench.connect()
    bench.reply = ZeroDivisionError()
    for _ in range(61):
        client.send(GET)
        bench.clock.move(1)
    assert [record.getMessage() for record in caplog.records] == [
        "a request to / failed",
        "a request to / failed (59 more since the last time)",
    ]


def test_the_date_follows_the_clock(bench: Bench) -> None:
    client = bench.connect()
    dates = []
    for seconds in (0.0, 0.9, 0.1, 100 * 86400.0):
        bench.clock.move(seconds)
        client.send(GET)
        dates.append(client.answer().headers["date"])
    assert dates == [
        "Mon, 21 Sep 2026 14:13:20 GMT",
        "Mon, 21 Sep 2026 14:13:20 GMT",
        "Mon, 21 Sep 2026 14:13:21 GMT",
        "Wed, 30 Dec 2026 14:13:21 GMT",
    ]


def test_many_odd_header_names_are_not_remembered_for_ever(bench: Bench) -> None:
    client = bench.connect()
    for number in range(1000):
        client.send(request("GET", "/", f"X-{number}: a", f"x-{number}: b"))
    assert [answer.status for answer in client.answers()] == [200] * 1000
    assert bench.server.read_headers({b"X-999": b"a", b"x-999": b"b"}) == {"x-999": "a"}


@given(st.text())
def test_a_message_is_json_whatever_it_says(message: str) -> None:
    told = json.loads(json_message(message))["message"]
    assert told == message.encode("utf-8", "replace").decode()


# The watch.


async def run_watch(bench: Bench, steps: list[float], client: MemoryClient) -> list[bool]:
    """Move the clock between the sweeps of a running watch; after each, whether all is open."""
    states = []
    watching = asyncio.create_task(bench.server.watch(every_s=0.0))
    for seconds in steps:
        bench.clock.move(seconds)
        for _ in range(3):
            await asyncio.sleep(0)
        states.append(client.is_open)
    watching.cancel()
    with pytest.raises(asyncio.CancelledError):
        await watching
    return states


def test_the_watch_closes_what_is_overdue(bench: Bench) -> None:
    client = bench.connect()
    states = asyncio.run(run_watch(bench, [1.0] * 122, client))
    assert states == [True] * 120 + [False] * 2


def test_time_in_which_the_process_stood_still_is_not_held_against_clients(bench: Bench) -> None:
    idle, uploading, reading = (bench.connect() for _ in range(3))
    uploading.send(BEGUN)
    bench.reply = Response(200, b"x" * 100_000)
    reading.transport.stalled = True
    reading.send(GET)
    states = asyncio.run(run_watch(bench, [1.0, 3600.0, 1.0, STALL_S + 1.0], uploading))
    assert states == [True] * 4
    assert idle.is_open
    assert reading.is_open
    uploading.send(b"cd")
    assert uploading.answer().status == 200


# Stopping.


def test_stop_closes_idle_connections_and_finishes_requests(bench: Bench) -> None:
    idle, used, head, body, refused = (bench.connect() for _ in range(5))
    used.send(GET)
    head.send(GET[:9])
    body.send(BEGUN)
    refused.send(b"nonsense\r\n\r\n")
    bench.server.stop()
    assert [c.transport.is_closing() for c in (idle, used, refused)] == [True] * 3
    assert head.is_open
    assert body.is_open
    head.send(GET[9:])
    body.send(b"cd")
    for client in (head, body):
        answer = client.answer()
        assert (answer.status, answer.closes) == (200, True)
        assert not client.is_open


def test_stop_does_not_cut_off_pipelined_requests(bench: Bench) -> None:
    client = bench.connect()
    client.send(GET[:9])
    bench.server.stop()
    client.send(GET[9:] + GET + BEGUN, b"cd")
    answers = client.answers()
    assert [answer.status for answer in answers] == [200, 200, 200]
    assert [answer.closes for answer in answers] == [False, False, True]
    assert not client.is_open


def test_stop_waits_for_what_an_unreading_client_has_sent(bench: Bench) -> None:
    bench.reply = Response(200, b"x" * 50_000)
    client = bench.connect()
    client.transport.stalled = True
    client.send(GET * 4)
    bench.server.stop()
    for _ in range(4):
        client.read()
    answers = client.answers()
    assert [answer.closes for answer in answers] == [False, False, False, True]
    assert not client.is_open


def test_a_refused_upload_is_drained_before_a_stop_closes_it(bench: Bench) -> None:
    client = bench.connect()
    client.send(request("POST", "/nowhere", "Content-Length: 4"))
    bench.server.stop()
    assert client.is_open
    client.send(b"abcd")
    assert client.answer().status == 404
    assert not client.is_open


def test_nothing_new_is_taken_after_stop(bench: Bench) -> None:
    bench.server.stop()
    client = bench.connect()
    assert not client.is_open
    assert client.answers() == []
    assert bench.server.connection_count == 0


def test_garbage_during_the_stop_is_answered_and_closed(bench: Bench) -> None:
    client = bench.connect()
    client.send(b"GET ")
    bench.server.stop()
    client.send(b"nonsense\r\n\r\n")
    assert client.answer().status == 400
    assert not client.is_open


def test_wait_idle_waits_for_the_last_connection(bench: Bench) -> None:
    async def wait() -> list[bool]:
        results = [await bench.server.wait_idle(1)]
        client = bench.connect()
        client.send(BEGUN)
        bench.server.stop()
        results.append(await bench.server.wait_idle(0.01))
        waiting = asyncio.create_task(bench.server.wait_idle(10))
        await asyncio.sleep(0)
        client.send(b"cd")
        results.append(await waiting)
        return results

    assert asyncio.run(wait()) == [True, False, True]


def test_wait_idle_waits_for_a_request_whose_client_has_gone(bench: Bench) -> None:
    async def wait() -> list[bool]:
        steps = [None, None, Response(200)]
        bench.reply = Unfinished(lambda: steps.pop(0))
        client = bench.connect()
        client.send(GET)
        client.transport.lose(ConnectionResetError())
        bench.server.stop()
        return [await bench.server.wait_idle(10), not steps]

    assert asyncio.run(wait()) == [True, True]


def test_stop_waits_for_an_answer_that_takes_its_turns(bench: Bench) -> None:
    async def wait() -> list[bool]:
        steps = [None, None, Response(200)]
        bench.reply = Unfinished(lambda: steps.pop(0))
        client = bench.connect()
        client.send(GET)
        bench.server.stop()
        held = client.is_open
        await asyncio.sleep(0)
        while steps:
            await asyncio.sleep(0)
        return [held, client.answer().closes, client.is_open]

    assert asyncio.run(wait()) == [True, True, False]


def test_abort_gives_up_what_is_not_answered(bench: Bench) -> None:
    async def wait() -> bool:
        bench.reply = Unfinished(lambda: None)
        client = bench.connect()
        client.send(BEGUN + b"cd")
        await asyncio.sleep(0)
        bench.server.abort()
        client.read()
        assert bench.server.upload_bytes == 0
        return await bench.server.wait_idle(10)

    assert asyncio.run(wait())


def test_abort_cuts_everything(bench: Bench) -> None:
    clients = [bench.connect() for _ in range(3)]
    clients[0].send(BEGUN)
    clients[1].transport.stalled = True
    clients[1].send(GET)
    bench.server.abort()
    for client in clients:
        client.read()
    assert bench.server.connection_count == 0
    assert bench.server.upload_bytes == 0


# Limits are plain numbers, but they must fit each other.


def test_limits_that_exclude_the_largest_body_are_our_mistake() -> None:
    with pytest.raises(AssertionError):
        HttpLimits(body_bytes_max=100, uploads_bytes_max=99)


def test_the_strict_reader_is_strict() -> None:
    for wrong in (
        b"HTTP/1.1 200\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 \r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nx",
    ):
        parts = [wrong[at : at + 1] for at in range(len(wrong))]
        with pytest.raises(AssertionError):
            read_answer(lambda _, parts=parts: parts.pop(0) if parts else b"")  # type: ignore[misc]


def test_a_lost_connection_is_let_go_in_silence(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    client = bench.connect()
    client.send(BEGUN)
    client.transport.lose(BrokenPipeError())
    assert bench.server.connection_count == 0
    assert bench.server.upload_bytes == 0
    assert bench.refused() == {}
    assert caplog.records == []
