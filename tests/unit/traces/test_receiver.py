from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kit import protos
from kit.payloads import BROKEN_TEXT, encode, make_payload, make_span, make_traces, span_ids

from mini_agent.errors import DecodeError, JournalFull, ProtocolError
from mini_agent.forward.payload import Record
from mini_agent.ledger import Ledger
from mini_agent.traces.encode import AGENT_PAYLOAD_PREFIX
from mini_agent.traces.enrich import Enrichment
from mini_agent.traces.receiver import TraceReceiver
from mini_agent.wire.http import Request, Response

LOCAL = Enrichment(None, {}, {}, {}, "")
AZURE = Enrichment(
    "azurefunction",
    {"functionname": "orders"},
    {"_dd.serverless_compat_version": "1.2.3"},
    {"aas.site.name": "orders"},
    "team:shop",
)


class Books:
    """A receiver, what it kept, and its ledger."""

    def __init__(self, enrichment: Enrichment = LOCAL, body_bytes_max: int = 1 << 20) -> None:
        self.ledger = Ledger()
        self.kept: list[list[Record]] = []
        self.retry_after_s: int | None = None
        self.receiver = TraceReceiver(self.keep, enrichment, self.ledger, body_bytes_max)

    def keep(self, records: list[Record]) -> None:
        assert self.ledger.snapshot({}) == {}, "counted before it was kept"
        if self.retry_after_s is not None:
            raise JournalFull("full", self.retry_after_s)
        self.kept.append(records)
        # The journal books what it keeps.
        self.ledger.accepted("spans", sum(record.count for record in records))

    def take(self, body: bytes, **headers: str) -> Response:
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.receiver.take_v04(Request("POST", "/v0.4/traces", "", names, body))

    def payloads(self) -> list[Any]:
        records = [record for records in self.kept for record in records]
        body = AGENT_PAYLOAD_PREFIX + b"".join(record.body for record in records)
        return list(protos.load().AgentPayload.FromString(body).tracerPayloads)

    def spans(self) -> list[Any]:
        return [s for payload in self.payloads() for chunk in payload.chunks for s in chunk.spans]


def test_a_payload_is_kept_before_the_tracer_is_told_yes() -> None:
    books = Books()
    traces = make_traces(3, 4)
    response = books.take(encode(traces))
    assert response.status == 200
    assert response.body == b'{"rate_by_service":{"service:,env:":1}}'
    assert response.content_type == "application/json"
    assert {span.spanID for span in books.spans()} == span_ids(traces)
    assert sum(record.count for record in books.kept[0]) == 12
    assert books.ledger.snapshot({})["spans"]["accepted"] == 12
    assert books.ledger.imbalance({"spans": 12}) == {}


def test_the_rules_run_in_their_order() -> None:
    books = Books(AZURE)
    root = make_span(metrics={"_sampling_priority_v1": 2})
    root["meta"]["_dd.origin"] = "synthetics"
    child = make_span(parent_id=root["span_id"], metrics={})
    apim = make_span(parent_id=root["span_id"], name="azure.apim", service="apim", metrics={})
    books.take(encode([[child, root, apim]]))
    [payload] = books.payloads()
    assert dict(payload.tags) == {"_dd.tags.function": "team:shop"}
    [chunk] = payload.chunks
    assert (chunk.priority, chunk.origin) == (2, "synthetics")
    child_read, root_read, apim_read = chunk.spans
    assert root_read.meta["_dd.origin"] == "synthetics"
    assert root_read.meta["origin"] == "azurefunction"
    assert root_read.meta["functionname"] == "orders"
    assert "origin" not in child_read.meta
    assert child_read.meta["aas.site.name"] == root_read.meta["aas.site.name"] == "orders"
    assert "aas.site.name" not in apim_read.meta
    assert apim_read.meta["_dd.serverless_compat_version"] == "1.2.3"
    assert [span.metrics.get("_top_level") for span in chunk.spans] == [None, 1.0, 1.0]


def test_a_host_that_is_local_adds_nothing_but_the_top_level() -> None:
    books = Books()
    sent = make_span()
    books.take(encode([[sent]]))
    [span] = books.spans()
    assert dict(span.meta) == sent["meta"]
    assert dict(span.metrics) == {**sent["metrics"], "_top_level": 1.0}


def test_headers_reach_the_payload_and_the_records() -> None:
    books = Books()
    body = encode([[make_span(meta={"env": "a"})], [make_span(meta={"env": "b"}, metrics={})]])
    books.take(
        body,
        datadog_meta_lang="python",
        datadog_container_id="c0ffee",
        datadog_client_computed_top_level="yes",
        datadog_client_dropped_p0_traces="5",
    )
    assert {payload.languageName for payload in books.payloads()} == {"python"}
    assert {payload.containerID for payload in books.payloads()} == {"c0ffee"}
    [first, second] = books.kept[0]
    assert second.headers == {
        "datadog-meta-lang": "python",
        "datadog-container-id": "c0ffee",
        "datadog-client-computed-top-level": "true",
    }
    assert first.headers == {**second.headers, "datadog-client-dropped-p0-traces": "5"}
    assert [s.metrics.get("_top_level") for s in books.spans()] == [1.0, None]


@pytest.mark.parametrize("body", [b"\x90", b"\x91\x90", b"\x92\x90\x90"])
def test_a_probe_is_answered_and_keeps_nothing(body: bytes) -> None:
    books = Books()
    assert books.take(body).status == 200
    assert books.kept == []
    assert books.ledger.imbalance({}) == {}


def test_an_empty_trace_is_left_out_with_a_note() -> None:
    books = Books()
    books.take(encode([[], [make_span()], []]))
    page = books.ledger.snapshot({"spans": 1})
    assert page["requests"]["repaired"] == {"empty_trace": 1}
    assert page["spans"]["accepted"] == 1


def test_a_full_journal_is_told_to_the_tracer() -> None:
    books = Books()
    books.retry_after_s = 3
    response = books.take(make_payload(2, 5))
    assert response.status == 429
    assert response.headers == (("Retry-After", "3"),)
    assert response.body.startswith(b'{"message":"')
    assert books.ledger.snapshot({})["spans"]["refused"] == {"journal_full": 10}
    assert books.ledger.imbalance({}) == {}


def test_a_span_that_cannot_be_read_is_dropped_alone_and_the_books_balance() -> None:
    books = Books()
    good = [make_span(meta={"a": 1}, resource=BROKEN_TEXT), make_span()]
    body = encode([[good[0], make_span(service=7)], [None, good[1]], [make_span(error="no")]])
    assert books.take(body).status == 200
    assert {span.spanID for span in books.spans()} == span_ids([good])
    page = books.ledger.snapshot({"spans": 2})["spans"]
    assert page["accepted"] == 5
    assert page["dropped"] == {"field_type": 3}
    assert page["repaired"] == {"invalid_utf8": 1, "meta_type": 1}
    assert books.ledger.imbalance({"spans": 2}) == {}


@pytest.mark.parametrize(
    "body",
    [b"", b"\xc0", b"\x80", b"\x91\xc0", make_payload(2, 2)[:-1], encode([[make_span(error="")]])],
)
def test_a_body_that_cannot_be_read_keeps_and_counts_nothing(body: bytes) -> None:
    books = Books()
    with pytest.raises(DecodeError) as caught:
        books.take(body)
    assert caught.value.status == 400
    assert books.kept == []
    assert books.ledger.snapshot({}) == {}


def test_a_large_payload_becomes_several_records_kept_together() -> None:
    books = Books(body_bytes_max=10_000)
    traces = make_traces(10, 10)
    books.take(encode(traces))
    [records] = books.kept
    assert len(records) >= 5
    assert all(len(AGENT_PAYLOAD_PREFIX) + len(r.body) <= 10_000 for r in records)
    assert {span.spanID for span in books.spans()} == span_ids(traces)


ODD = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.text(max_size=5)
    | st.just(BROKEN_TEXT)
    | st.binary(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=8,
)
KEYS = (
    *("service", "name", "resource", "type", "trace_id", "span_id", "parent_id", "start"),
    *("duration", "error", "meta", "metrics", "meta_struct", "span_links", "span_events"),
)


def check_answer(body: bytes) -> None:
    """Either everything is kept or counted, or nothing is."""
    books = Books(AZURE, body_bytes_max=5000)
    try:
        response = books.take(body)
    except ProtocolError:
        assert books.kept == []
        assert books.ledger.snapshot({}) == {}
        return
    assert response.status == 200
    kept = len(books.spans())
    assert kept == sum(record.count for records in books.kept for record in records)
    assert books.ledger.imbalance({"spans": kept}) == {}


@settings(deadline=None)
@given(st.dictionaries(st.sampled_from(KEYS), ODD), st.lists(ODD, max_size=16))
def test_any_value_in_any_field_is_kept_dropped_or_refused(
    fields: dict[str, Any], positions: list[Any]
) -> None:
    check_answer(encode([[{**make_span(), **fields}, make_span(), positions]]))


EXAMPLE = encode(
    [
        [
            make_span(
                meta_struct={"appsec": b"\x81\x01\x02"},
                span_links=[{"trace_id": 1, "span_id": 2, "attributes": {"a": "b"}, "flags": 1}],
                span_events=[
                    {
                        "time_unix_nano": 1,
                        "name": "exception",
                        "attributes": {
                            "a": {"type": 2, "int_value": 5},
                            "b": {"type": 4, "array_value": {"values": [{"type": 3}]}},
                        },
                    }
                ],
            ),
            make_span(),
        ],
        [make_span()],
    ]
)


@settings(deadline=None, max_examples=300)
@given(
    st.lists(st.tuples(st.integers(0, len(EXAMPLE) - 1), st.integers(0, 255)), max_size=4),
    st.integers(0, len(EXAMPLE)),
    st.booleans(),
)
def test_a_damaged_body_is_taken_or_refused(
    damage: list[tuple[int, int]], size: int, whole: bool
) -> None:
    body = bytearray(EXAMPLE)
    for index, value in damage:
        body[index] = value
    check_answer(bytes(body) if whole else bytes(body[:size]))


@settings(deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_are_taken_or_refused(body: bytes) -> None:
    check_answer(body)
