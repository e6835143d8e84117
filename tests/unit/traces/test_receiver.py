from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kit import protos, stats
from kit.clock import BusyClock, HandClock
from kit.payloads import BROKEN_TEXT, encode, make_payload, make_span, make_traces, span_ids

from mini_agent.errors import DecodeError, JournalFull, ProtocolError
from mini_agent.forward.payload import Kind, Record
from mini_agent.ledger import Ledger
from mini_agent.traces import stats_payload
from mini_agent.traces.encode import AGENT_PAYLOAD_PREFIX
from mini_agent.traces.enrich import Enrichment
from mini_agent.traces.filters import Filters
from mini_agent.traces.receiver import SPANS_A_LOOK, SPANS_AT_ONCE_MAX, TraceReceiver
from mini_agent.traces.stats import Stats
from mini_agent.traces.turns import TURN_S
from mini_agent.wire.http import Request, Response, Unfinished

NOW_NS = 1_790_000_000_000_000_000
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

    def __init__(
        self,
        enrichment: Enrichment = LOCAL,
        body_bytes_max: int = 1 << 20,
        filters: Filters | None = None,
        clock: HandClock | None = None,
    ) -> None:
        self.ledger = Ledger()
        self.kept: list[list[Record]] = []
        self.retry_after_s: int | None = None
        self.receiver = TraceReceiver(
            self.keep,
            enrichment,
            self.ledger,
            body_bytes_max,
            clock or HandClock(NOW_NS),  # type: ignore[arg-type]
            filters,
        )

    def keep(self, records: list[Record]) -> None:
        assert self.ledger.snapshot({}) == {}, "counted before it was kept"
        if self.retry_after_s is not None:
            raise JournalFull("full", self.retry_after_s)
        self.kept.append(records)
        # The journal books what it keeps.
        self.ledger.accepted("spans", sum(record.count for record in records))

    def take(self, body: bytes, version: str = "v04", **headers: str) -> Response:
        answer = self.begin(body, version, **headers)
        assert isinstance(answer, Response)
        return answer

    def begin(self, body: bytes, version: str = "v04", **headers: str) -> Response | Unfinished:
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        answer = getattr(self.receiver, f"take_{version}")(
            Request("POST", "/traces", "", names, body)
        )
        assert isinstance(answer, Response | Unfinished)
        return answer

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
    ids = {"trace_id": root["trace_id"], "parent_id": root["span_id"]}
    child = make_span(**ids, metrics={})
    apim = make_span(**ids, name="azure.apim", service="apim", metrics={})
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


def test_spans_are_normalized_before_anything_looks_at_them() -> None:
    books = Books(AZURE)
    root = make_span(name="__main__.show_order", service="Web", start=5, duration=2)
    child = make_span(trace_id=root["trace_id"], parent_id=root["span_id"], service="web")
    child["meta"]["long"] = "v" * 30_000
    books.take(encode([[root, child]]))
    first, second = books.spans()
    assert (first.name, first.service, first.start) == ("main.show_order", "web", NOW_NS - 2)
    # One service: the child is not where work enters it.
    assert "_top_level" in first.metrics
    assert "_top_level" not in second.metrics
    assert len(second.meta["long"]) == 25_003
    assert books.ledger.snapshot({})["spans"]["repaired"] == {
        "invalid_start_date": 1,
        "meta_value_truncate": 1,
        "name_normalized": 1,
        "service_normalized": 1,
    }


def test_spans_that_cannot_be_used_are_dropped_and_the_books_balance() -> None:
    books = Books()
    good = [make_span(), make_span()]
    traces = [[make_span(trace_id=0)], [*good, make_span(span_id=0)], [make_span()]]
    assert books.take(encode(traces)).status == 200
    assert {span.spanID for span in books.spans()} == span_ids([good, traces[2]])
    page = books.ledger.snapshot({"spans": 3})["spans"]
    assert page["accepted"] == 5
    assert page["dropped"] == {"span_id_zero": 1, "trace_id_zero": 1}
    assert books.ledger.imbalance({"spans": 3}) == {}


def test_nothing_usable_is_taken_with_a_count() -> None:
    books = Books()
    assert books.take(encode([[make_span(trace_id=0)]])).status == 200
    assert books.kept == []
    assert books.ledger.imbalance({}) == {}


def test_filtered_traces_are_dropped_whole_and_the_books_balance() -> None:
    books = Books(filters=Filters(ignore_resources=["health"], reject=["debug"]))
    kept = make_traces(1, 2)
    health = [make_span(resource="GET /health")]
    debug = make_traces(1, 3)[0]
    debug[0]["meta"]["debug"] = "1"
    # Only the root is judged.
    kept[0][1]["resource"] = "GET /health"
    assert books.take(encode([health, *kept, debug])).status == 200
    assert {span.spanID for span in books.spans()} == span_ids(kept)
    page = books.ledger.snapshot({"spans": 2})["spans"]
    assert page["accepted"] == 6
    assert page["dropped"] == {"filtered_resource": 1, "filtered_tags": 3}
    assert books.ledger.imbalance({"spans": 2}) == {}


def test_filters_judge_what_the_tracer_sent_and_not_what_we_add() -> None:
    books = Books(AZURE, filters=Filters(reject=["functionname", "origin"]))
    books.take(encode([[make_span()]]))
    assert len(books.spans()) == 1


def test_json_is_taken_where_messagepack_is() -> None:
    books = Books()
    traces = make_traces(2, 2)
    assert books.take(json.dumps(traces).encode(), "v04").status == 200
    assert {span.spanID for span in books.spans()} == span_ids(traces)


def test_v03_is_answered_with_a_word() -> None:
    books = Books()
    response = books.take(make_payload(1, 2), "v03")
    assert (response.status, response.body) == (200, b"OK\n")
    assert response.content_type == "text/plain; charset=utf-8"
    assert len(books.spans()) == 2
    assert Books().take(json.dumps(make_traces(1, 1)).encode(), "v03").body == b"OK\n"


def test_v03_is_told_when_there_is_no_room() -> None:
    books = Books()
    books.retry_after_s = 3
    response = books.take(make_payload(1, 1), "v03")
    assert response.status == 429
    assert ("Retry-After", "3") in response.headers


def test_v05_is_taken_with_all_rules() -> None:
    books = Books(AZURE)
    span = [1, 2, 0, 5, 6, 0, NOW_NS, 7, 0, {3: 4}, {}, 0]
    response = books.take(encode([["", "Web", "request", "env", "Prod"], [[span]]]), "v05")
    assert response.body == b'{"rate_by_service":{"service:,env:":1}}'
    [read] = books.spans()
    assert (read.service, read.name, read.resource) == ("web", "request", "request")
    assert read.meta["env"] == books.payloads()[0].env == "prod"
    assert read.meta["functionname"] == "orders"


def test_v07_keeps_what_holds_for_chunks_and_the_whole() -> None:
    books = Books(AZURE)
    root = make_span(metrics={"_sampling_priority_v1": 2})
    root["meta"]["_dd.origin"] = "synthetics"
    chunk = {"priority": -1, "origin": "rum", "tags": {"a": "b"}, "dropped_trace": True}
    payload = {
        "chunks": [{**chunk, "spans": [root]}, {"spans": [make_span(metrics={})]}],
        "env": "Stage",
        "hostname": "box",
        "app_version": "9",
        "runtime_id": "r1",
        "language_name": "go",
        "tags": {"own": "tag"},
    }
    assert books.take(encode(payload), "v07", datadog_meta_lang="ruby").status == 200
    [read] = books.payloads()
    assert (read.env, read.hostname, read.appVersion, read.runtimeID) == ("stage", "box", "9", "r1")
    assert read.languageName == "go"
    assert dict(read.tags) == {"own": "tag", "_dd.tags.function": "team:shop"}
    first, second = read.chunks
    assert (first.priority, first.origin, first.droppedTrace) == (-1, "rum", True)
    assert dict(first.tags) == {"a": "b"}
    assert (second.priority, second.origin, second.droppedTrace) == (-128, "", False)


def test_what_was_changed_in_no_single_span_is_the_requests() -> None:
    books = Books()
    books.take(encode({"env": 7, "chunks": [{"spans": [make_span()]}]}), "v07")
    assert books.ledger.snapshot({})["requests"]["repaired"] == {"payload_type": 1}


@pytest.mark.parametrize("version", ["v04", "v05", "v07"])
def test_who_knows_the_rates_is_not_told_again(version: str) -> None:
    body = {"v04": encode([]), "v05": encode([[], []]), "v07": encode({})}[version]
    books = Books()
    told = books.take(body, version, datadog_rates_payload_version="0")
    [(name, rates_version)] = told.headers
    assert name == "Datadog-Rates-Payload-Version"
    assert told.body == b'{"rate_by_service":{"service:,env:":1}}'
    again = books.take(body, version, datadog_rates_payload_version=rates_version)
    assert again.body == b"{}"
    assert again.headers == told.headers
    assert books.take(body, version).headers == ()


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


# Bodies that take longer than a turn of the loop.


def make_busy() -> Books:
    """Every look at the clock says that the turn is over."""
    return Books(AZURE, clock=BusyClock(TURN_S, NOW_NS))


def finish(unfinished: Response | Unfinished) -> tuple[Response, int]:
    """The answer, and how many turns it took after the first."""
    assert isinstance(unfinished, Unfinished)
    turns = 1
    while (answer := unfinished.go_on()) is None:
        turns += 1
    return answer, turns


def encode_v05(traces: list[list[dict[str, Any]]]) -> bytes:
    """Traces as a table of texts, and rows of numbers that point into it."""
    table: dict[str, int] = {"": 0}

    def at(text: str) -> int:
        return table.setdefault(text, len(table))

    rows = [
        [
            [
                *(at(span[key]) for key in ("service", "name", "resource")),
                *(span[key] for key in ("trace_id", "span_id", "parent_id", "start", "duration")),
                span["error"],
                {at(key): at(value) for key, value in span["meta"].items()},
                {at(key): value for key, value in span["metrics"].items()},
                at(span["type"]),
            ]
            for span in trace
        ]
        for trace in traces
    ]
    return encode([list(table), rows])


def bodies_of(traces: list[list[dict[str, Any]]]) -> list[tuple[str, bytes]]:
    """The same in every dialect."""
    chunks = [{"priority": 1, "origin": "", "spans": trace, "tags": {}} for trace in traces]
    return [
        ("v03", encode(traces)),
        ("v04", encode(traces)),
        ("v04", json.dumps(traces).encode()),
        ("v05", encode_v05(traces)),
        ("v07", encode({"chunks": chunks})),
    ]


@pytest.mark.parametrize(
    "traces",
    [make_traces(10, SPANS_A_LOOK), make_traces(2, SPANS_AT_ONCE_MAX + 300)],
    ids=["several", "long"],
)
@pytest.mark.parametrize("dialect", range(5), ids=["v03", "v04", "json", "v05", "v07"])
def test_turns_change_nothing_but_the_time(
    dialect: int, traces: list[list[dict[str, Any]]]
) -> None:
    version, body = bodies_of(traces)[dialect]
    at_once, busy = Books(AZURE), make_busy()
    expected = at_once.take(body, version)
    begun = busy.begin(body, version)
    assert busy.ledger.snapshot({}) == {}, "counted before all was read"
    answer, turns = finish(begun)
    assert turns >= 10
    assert (answer.status, answer.body) == (expected.status, expected.body)
    assert [r.body for r in busy.kept[0]] == [r.body for r in at_once.kept[0]]
    assert busy.ledger.snapshot({}) == at_once.ledger.snapshot({})
    assert {span.spanID for span in busy.spans()} == span_ids(traces)


@pytest.mark.parametrize(
    ("field", "sent", "seen"),
    [
        ("meta", {f"key-{n}": "text" for n in range(20_000)}, "meta"),
        ("metrics", {f"key-{n}": n for n in range(20_000)}, "metrics"),
        ("meta_struct", {f"key-{n}": b"structure" for n in range(10_000)}, "meta_struct"),
        ("span_links", [{"trace_id": n, "span_id": 2} for n in range(5000)], "spanLinks"),
        ("span_events", [{"time_unix_nano": n, "name": "e"} for n in range(5000)], "spanEvents"),
    ],
    ids=["texts", "numbers", "structures", "links", "events"],
)
def test_a_large_span_takes_turns_too(field: str, sent: Any, seen: str) -> None:
    traces = make_traces(1, 3)
    traces[0][1][field] = sent
    books = make_busy()
    answer, turns = finish(books.begin(encode(traces)))
    assert answer.status == 200
    assert turns >= 15
    got = getattr(books.spans()[1], seen)
    assert len(got) >= len(sent)
    if field == "span_links":
        assert [link.traceID for link in got] == list(range(5000))
    elif field == "span_events":
        assert [event.time_unix_nano for event in got] == list(range(5000))
    else:
        assert {key: got[key] for key in sent} == sent


def test_a_structure_sent_as_numbers_takes_turns() -> None:
    traces = make_traces(1, 1)
    octets = bytes(range(256)) * 400
    traces[0][0]["meta_struct"] = {"octets": list(octets)}
    books = make_busy()
    answer, turns = finish(books.begin(encode(traces)))
    assert answer.status == 200
    assert turns >= 50
    assert books.spans()[0].meta_struct["octets"] == octets


def test_several_spans_with_many_links_are_not_one_turn() -> None:
    traces = make_traces(1, 20)
    for span in traces[0]:
        span["span_links"] = [{"trace_id": n + 1, "span_id": 2} for n in range(200)]
    books = make_busy()
    _, turns = finish(books.begin(encode(traces)))
    assert turns >= 20
    assert [len(span.spanLinks) for span in books.spans()] == [200] * 20


def test_requests_that_take_turns_do_not_touch_each_other() -> None:
    kept: list[Record] = []
    clock = BusyClock(TURN_S, NOW_NS)
    receiver = TraceReceiver(kept.extend, LOCAL, Ledger(), 1 << 20, clock)  # type: ignore[arg-type]
    sent = [make_traces(4, SPANS_A_LOOK, service=f"service-{n}") for n in range(3)]
    requests = [Request("POST", "/traces", "", {}, encode(traces)) for traces in sent]
    begun = [receiver.take_v04(request) for request in requests]
    while begun:
        for one in list(begun):
            assert isinstance(one, Unfinished)
            if one.go_on() is not None:
                begun.remove(one)
    payloads = [
        protos.load().AgentPayload.FromString(AGENT_PAYLOAD_PREFIX + record.body).tracerPayloads[0]
        for record in kept
    ]
    spans = [[s for chunk in payload.chunks for s in chunk.spans] for payload in payloads]
    assert [{span.service for span in each} for each in spans] == [
        {f"service-{n}"} for n in range(3)
    ]
    assert [{span.spanID for span in each} for each in spans] == [span_ids(each) for each in sent]


def test_a_journal_that_is_full_in_the_end_refuses_everything_once() -> None:
    books = make_busy()
    books.retry_after_s = 3
    answer, _ = finish(books.begin(make_payload(4, SPANS_A_LOOK)))
    assert answer.status == 429
    assert answer.headers == (("Retry-After", "3"),)
    page = books.ledger.snapshot({})["spans"]
    assert page["refused"] == {"journal_full": 4 * SPANS_A_LOOK}
    assert page["accepted"] == 0
    assert books.kept == []
    assert books.ledger.imbalance({}) == {}


def test_a_body_that_breaks_off_in_a_later_turn_keeps_and_counts_nothing() -> None:
    books = make_busy()
    begun = books.begin(make_payload(4, SPANS_A_LOOK)[:-1])
    with pytest.raises(DecodeError):
        finish(begun)
    assert books.kept == []
    assert books.ledger.snapshot({}) == {}


def test_what_took_turns_is_counted_once_when_it_is_kept() -> None:
    ledger, records = Ledger(), list[Record]()
    clock = BusyClock(TURN_S, NOW_NS)
    counted = Stats("none", records.extend, ledger, clock)  # type: ignore[arg-type]
    receiver = TraceReceiver(
        lambda _: None,
        LOCAL,
        ledger,
        1 << 20,
        clock,  # type: ignore[arg-type]
        stats=counted,
    )
    begun = receiver.take_v04(Request("POST", "/traces", "", {}, make_payload(9, SPANS_A_LOOK)))
    assert counted.group_count == 0
    assert finish(begun)[0].status == 200
    for _ in counted.flush(everything=True):
        pass
    suffix = stats_payload.suffix(client_computed=False)
    kind = Kind(
        "stats", "stats", "/p", "t", stats_payload.PREFIX, 1 << 24, suffix=suffix, counted=True
    )
    entries = stats.entries(kind.join(records))
    assert sum(entry["Hits"] for entry in entries) == 9 * SPANS_A_LOOK


def test_a_turn_ends_when_its_time_is_over_and_not_before() -> None:
    """The clock says that a tenth of the time has passed since it was looked at last."""
    books = Books(AZURE, clock=BusyClock(TURN_S / 10, NOW_NS))
    assert isinstance(books.begin(make_payload(9, SPANS_A_LOOK)), Response)
    books = Books(AZURE, clock=BusyClock(TURN_S / 10, NOW_NS))
    assert isinstance(books.begin(make_payload(12, SPANS_A_LOOK)), Unfinished)


def test_a_few_spans_are_one_turn_however_slow_the_clock() -> None:
    assert make_busy().take(make_payload(SPANS_A_LOOK - 1, 1)).status == 200
