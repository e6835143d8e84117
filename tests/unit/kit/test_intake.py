"""The scripted intake does what its script says: what every other test leans on."""

from __future__ import annotations

import gzip
import http.client
import socket
import ssl
import sys
import threading
import time
from typing import TYPE_CHECKING

import msgspec
import pytest
from kit import protos
from kit.intake import (
    STATS,
    TRACES,
    Answer,
    Close,
    Hang,
    Intake,
    Reset,
    Trickle,
    refuse_above,
    refuse_until_key,
)

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

# For exchanges that are meant to get no answer.
CLIENT_TIMEOUT_S = 10.0


@pytest.fixture
def intake() -> Iterator[Intake]:
    with Intake() as intake:
        yield intake


@pytest.fixture
def client(intake: Intake) -> Iterator[http.client.HTTPConnection]:
    connection = connect(intake)
    yield connection
    connection.close()


def connect(intake: Intake) -> http.client.HTTPConnection:
    return http.client.HTTPConnection(intake.host, intake.port, timeout=CLIENT_TIMEOUT_S)


def agent_payload(*span_ids: int) -> bytes:
    payload = protos.load().AgentPayload()
    chunk = payload.tracerPayloads.add().chunks.add()
    for span_id in span_ids:
        chunk.spans.add(spanID=span_id, name="a.name", meta={"key": "wert äöü"})
    return payload.SerializeToString()


def post(
    client: http.client.HTTPConnection,
    body: bytes,
    path: str = TRACES,
    headers: dict[str, str] | None = None,
) -> int:
    client.request("POST", path, body, headers or {})
    response = client.getresponse()
    response.read()
    return response.status


def test_spans_are_decoded_whatever_the_compression(intake, client):
    assert post(client, agent_payload(1, 2)) == 202
    assert (
        post(client, zstd.compress(agent_payload(3)), headers={"Content-Encoding": "zstd"}) == 202
    )
    assert (
        post(client, gzip.compress(agent_payload(4)), headers={"Content-Encoding": "gzip"}) == 202
    )
    assert [span.spanID for span in intake.spans()] == [1, 2, 3, 4]
    assert intake.spans()[0].meta["key"] == "wert äöü"
    assert intake.ids == {1, 2, 3, 4}
    assert intake.connection_count == 1
    first = intake.arrivals[0]
    assert first.wire_bytes == first.body_bytes == len(agent_payload(1, 2))
    assert intake.complaints == []


def test_a_span_sent_twice_is_counted_twice(intake, client):
    post(client, agent_payload(1, 2))
    post(client, agent_payload(2))
    assert intake.id_counts == {1: 1, 2: 2}
    assert intake.span_count == 3


def test_other_paths_are_recorded_with_their_query(intake, client):
    assert post(client, b"abc", "/api/v1/other?a=b") == 202
    (arrival,) = intake.arrivals_at("/api/v1/other")
    assert (arrival.query, arrival.body, arrival.payload) == ("a=b", b"abc", None)


def test_stats_are_taken_apart_by_group(intake, client):
    group = {"Service": "shop", "Hits": 3}
    bucket = {"Start": 10, "Stats": [group, {}]}
    body = msgspec.msgpack.encode({"Stats": [{"Env": "prod", "Stats": [bucket]}]})
    assert post(client, body, STATS) == 202
    beside = {"payload.Env": "prod", "bucket.Start": 10}
    assert intake.stats_entries() == [{**beside, **group}, beside]
    assert post(client, b"abc", STATS) == 400
    assert len(intake.complaints) == 1


def test_chunked_bodies_are_joined(intake, client):
    client.request("POST", TRACES, iter([agent_payload(1), b""]), encode_chunked=True)
    assert client.getresponse().status == 202
    assert intake.ids == {1}


def test_a_body_that_does_not_decode_is_refused_and_complained_of(intake, client):
    assert post(client, b"\x2a\xff\xff\xff\xff\xff\xff") == 400
    assert post(client, b"x", headers={"Content-Encoding": "gzip"}) == 400
    assert len(intake.complaints) == 2
    assert not intake.ids


def test_statuses_follow_the_script_and_then_the_rule(intake, client):
    intake.answer_always(500)
    intake.answer_next([429, Answer(503, {"Retry-After": "7"}), 202])
    assert post(client, agent_payload(1)) == 429
    client.request("POST", TRACES, agent_payload(2))
    response = client.getresponse()
    assert (response.status, response.headers["Retry-After"]) == (503, "7")
    response.read()
    assert post(client, agent_payload(3)) == 202
    assert post(client, agent_payload(4)) == 500
    assert intake.ids == {3}
    assert [arrival.taken for arrival in intake.arrivals] == [False, False, True, False]


def test_a_script_may_be_for_one_path(intake, client):
    intake.answer_always(403, path=STATS)
    intake.answer_next([503], path=TRACES)
    assert post(client, b"\x81\xa5Stats\x90", STATS) == 403
    assert post(client, agent_payload(1)) == 503
    assert post(client, agent_payload(1)) == 202


def test_a_script_may_look_at_the_request(intake, client):
    intake.answer_always(refuse_above(100))
    assert post(client, agent_payload(*range(1, 50))) == 413
    assert post(client, agent_payload(1)) == 202
    intake.answer_always(refuse_until_key("right"))
    assert post(client, agent_payload(2), headers={"DD-API-KEY": "wrong"}) == 403
    assert post(client, agent_payload(2), headers={"DD-API-KEY": "right"}) == 202


@pytest.mark.parametrize("before_reading", [False, True])
def test_reset_is_a_reset(intake, client, before_reading):
    intake.answer_next([Reset(before_reading=before_reading)])
    with pytest.raises(ConnectionResetError):
        post(client, agent_payload(1))
    assert intake.reset_count == 1
    assert len(intake.arrivals) == (0 if before_reading else 1)
    client.close()
    assert post(client, agent_payload(2)) == 202
    assert intake.ids == {2}


def test_a_lost_answer_may_hide_a_taken_request(intake, client):
    intake.answer_next([Reset(takes=True), Close(takes=True), Close()])
    with pytest.raises(ConnectionResetError):
        post(client, agent_payload(1))
    client.close()
    with pytest.raises(http.client.RemoteDisconnected):
        post(client, agent_payload(2))
    with pytest.raises(http.client.RemoteDisconnected):
        post(client, agent_payload(3))
    assert intake.ids == {1, 2}


@pytest.mark.parametrize("before_reading", [False, True])
def test_hanging_ends_with_an_answer_when_released(intake, client, before_reading):
    intake.answer_next([Hang(before_reading=before_reading)])
    client.request("POST", TRACES, agent_payload(1))
    intake.wait_for(lambda: intake.hung_count == 1)
    assert not intake.ids
    intake.release()
    assert client.getresponse().status == 202
    assert intake.ids == {1}
    assert intake.hung_count == 0


def test_what_hung_until_the_sender_left_is_not_taken(intake, client):
    intake.answer_next([Hang()])
    client.request("POST", TRACES, agent_payload(1))
    intake.wait_for(lambda: intake.hung_count == 1)
    client.close()
    intake.release()
    intake.wait_for(lambda: intake.hung_count == 0)
    other = connect(intake)
    assert post(other, agent_payload(2)) == 202
    other.close()
    assert intake.ids == {2}


def test_a_trickled_answer_arrives_whole(intake, client):
    intake.answer_next([Trickle(Answer(200, body=b"slow"), byte_interval_s=0.0001)])
    client.request("POST", TRACES, agent_payload(1))
    assert client.getresponse().read() == b"slow"


def test_pausing_refuses_connections_and_resuming_takes_them_on_the_same_port(intake, client):
    post(client, agent_payload(1))
    intake.pause()
    with pytest.raises(ConnectionError):
        post(client, agent_payload(2))
    client.close()
    with pytest.raises(ConnectionRefusedError):
        post(client, agent_payload(2))
    client.close()
    intake.resume()
    assert post(client, agent_payload(3)) == 202
    assert intake.ids == {1, 3}


def test_closing_ends_what_hangs_and_what_trickles(intake):
    intake.answer_always(Hang())
    hanging, trickled = connect(intake), connect(intake)
    hanging.request("POST", TRACES, agent_payload(1))
    intake.wait_for(lambda: intake.hung_count == 1)
    intake.answer_always(Trickle(byte_interval_s=CLIENT_TIMEOUT_S))
    trickled.request("POST", TRACES, agent_payload(2))
    intake.wait_for(lambda: len(intake.arrivals) == 2)
    began = time.monotonic()
    intake.close()
    assert time.monotonic() - began < CLIENT_TIMEOUT_S / 2
    for connection in (hanging, trickled):
        connection.close()


def test_waiting_ends_when_the_predicate_holds(intake, client):
    sender = threading.Thread(target=post, args=(client, agent_payload(1, 2)))
    sender.start()
    assert [span.spanID for span in intake.wait_for_spans(2)] == [1, 2]
    sender.join()


def test_waiting_in_vain_says_what_was_there(intake, client):
    post(client, agent_payload(1))
    with pytest.raises(TimeoutError, match="1 spans taken"):
        intake.wait_for_spans(2, timeout_s=0.01)


def test_without_payloads_the_ids_are_kept():
    with Intake(keep_payloads=False) as lean:
        connection = connect(lean)
        post(connection, agent_payload(1, 2))
        connection.close()
        assert lean.ids == {1, 2}
        assert lean.spans() == []
        (arrival,) = lean.arrivals
        assert (arrival.body, arrival.body_bytes) == (b"", len(agent_payload(1, 2)))


def test_a_request_cut_short_is_no_arrival(intake):
    with socket.create_connection((intake.host, intake.port)) as sender:
        sender.sendall(b"POST /api/v0.2/traces HTTP/1.1\r\nContent-Length: 100\r\n\r\nabc")
        sender.shutdown(socket.SHUT_WR)
        assert sender.recv(1) == b""
    assert intake.arrivals == []


def test_senders_may_come_all_at_once(intake):
    def send(number: int) -> None:
        connection = connect(intake)
        for index in range(20):
            post(connection, agent_payload(number * 100 + index))
        connection.close()

    senders = [threading.Thread(target=send, args=(number,)) for number in range(1, 9)]
    for sender in senders:
        sender.start()
    for sender in senders:
        sender.join()
    assert set(intake.id_counts.values()) == {1}
    assert len(intake.ids) == 160


def test_tls_needs_the_authority_it_writes(tmp_path: Path):
    with Intake(tls=True) as intake:
        trusted = ssl.create_default_context(cafile=intake.write_certificates(tmp_path / "ca.pem"))
        client = http.client.HTTPSConnection(
            intake.host, intake.port, timeout=CLIENT_TIMEOUT_S, context=trusted
        )
        assert intake.url.startswith("https://")
        assert post(client, agent_payload(1)) == 202
        intake.answer_next([Reset()])
        with pytest.raises(ConnectionResetError):
            post(client, agent_payload(2))
        client.close()
        stranger = http.client.HTTPSConnection(
            intake.host, intake.port, timeout=CLIENT_TIMEOUT_S, context=ssl.create_default_context()
        )
        with pytest.raises(ssl.SSLCertVerificationError):
            post(stranger, agent_payload(3))
        stranger.close()
        assert post(client, agent_payload(4)) == 202
        client.close()
        assert intake.ids == {1, 4}
