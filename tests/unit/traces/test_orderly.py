"""Which traces msgspec reads, and what it leaves; that both ways come to the same is held by
test_express.py."""

from __future__ import annotations

import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from kit.payloads import (
    BROKEN_TEXT,
    MISSING,
    as_array,
    encode,
    make_payload,
    make_span,
    make_traces,
    raw,
)

from mini_agent.errors import ProtocolError
from mini_agent.traces.decode import at_once
from mini_agent.traces.lenient import SPANS_MAX, TAGS_MAX, Findings
from mini_agent.traces.orderly import BYTES_MAX, STEP_BYTES_MAX, Orderly, OrderlyTable
from mini_agent.traces.span import SPANS_A_STEP, TraceChunk
from mini_agent.wire.msgpack import Reader

CORPUS = Path(__file__).resolve().parents[2] / "corpus"


def read(body: bytes) -> list[bool]:
    """Which traces are in order."""
    reader = Reader(body)
    count = reader.read_array() or 0
    traces = Orderly(body, 0, count)
    findings = Findings()
    taken = []
    for index in range(count):
        start = reader.offset
        chunk = at_once(traces.read_trace(index, reader, findings))
        taken.append(chunk is not None)
        if chunk is None:
            assert reader.offset == start
            reader.skip()
    assert findings.repairs == {}
    assert findings.dropped == 0
    return taken


def read_first(body: bytes) -> TraceChunk | None:
    return at_once(Orderly(body, 0, 1).read_trace(0, Reader(body, 1), Findings()))


def test_usual_traces_are_in_order() -> None:
    assert read(make_payload(3, 5)) == [True] * 3
    for path in CORPUS.glob("v04-*.msgpack"):
        assert all(read(path.read_bytes())), path.name


def test_structures_links_and_events_are_in_order() -> None:
    link = {"trace_id": 1, "span_id": 2, "attributes": {"a": "b"}, "flags": 1}
    event = {"time_unix_nano": 1, "name": "e", "attributes": {"a": 1}}
    body = encode([[make_span(meta_struct={"a": b"\x01"}, span_links=[link], span_events=[event])]])
    chunk = read_first(body)
    assert chunk is not None
    [span] = chunk.spans
    assert span.meta_struct == {"a": b"\x01"}
    assert [link.span_id for link in span.links] == [2]
    assert [event.name for event in span.events] == ["e"]


@pytest.mark.parametrize(
    "fields",
    [
        {"service": None},
        {"name": b"binary"},
        {"resource": BROKEN_TEXT},
        {"type": 1},
        {"trace_id": -1},
        {"span_id": 1.0},
        {"parent_id": True},
        {"start": 2**63},
        {"duration": -1},
        {"error": 2**31},
        {"meta": None},
        {"meta": {"a": 1}},
        {"meta": {"a": BROKEN_TEXT}},
        {"metrics": {"a": None}},
        {"metrics": {"a": "1"}},
        {"metrics": {"a": False}},
        {"meta_struct": {"a": 1}},
        {"span_links": [{"trace_id": 1}]},
        {"span_events": [{"name": BROKEN_TEXT}]},
        {"unknown": raw(b"\x91" * 100_000 + b"\xc0")},
    ],
    ids=lambda fields: next(iter(fields)),
)
def test_a_trace_with_an_odd_field_is_left_and_the_others_are_not(fields: dict[str, Any]) -> None:
    traces = [[make_span()], [make_span(), make_span(**fields)], [make_span()]]
    taken = read(encode(traces))
    # What is nested too deeply to be walked is seen before any trace is read.
    assert taken == ([False] * 3 if "unknown" in fields else [True, False, True])


@pytest.mark.parametrize("trace", [None, [], [None], [as_array(make_span())], {"a": 1}])
def test_what_is_no_trace_of_maps_is_left(trace: Any) -> None:
    assert read(encode([trace, [make_span()]])) == [False, True]


def test_fields_that_are_missing_are_as_in_an_empty_span() -> None:
    body = encode([[make_span(**dict.fromkeys(make_span(), MISSING))]])
    chunk = read_first(body)
    assert chunk is not None
    [span] = chunk.spans
    assert (span.service, span.trace_id, span.meta, span.links) == ("", 0, {}, ())


def test_a_body_with_something_behind_its_traces_is_left() -> None:
    assert read(make_payload(2, 2) + b"\xc0") == [False, False]


def test_a_long_trace_is_read_in_steps() -> None:
    body = make_payload(1, 1000)
    assert len(body) > STEP_BYTES_MAX
    steps = Orderly(body, 0, 1).read_trace(0, Reader(body, 1), Findings())
    assert sum(1 for _ in steps) >= 1000 // SPANS_A_STEP
    assert read(body) == [True]
    in_order = [make_span() for _ in range(1000)]
    assert read(encode([in_order, [*in_order, make_span(service=None)]])) == [True, False]


def test_more_spans_or_bytes_than_a_trace_may_have_are_left() -> None:
    spans = SPANS_MAX + 1
    assert read(b"\x91\xdd" + spans.to_bytes(4, "big") + b"\x80" * spans) == [False]
    assert read(encode([[make_span(resource="x" * BYTES_MAX)]])) == [False]
    traces = Orderly(b"\xdd" + spans.to_bytes(4, "big") + b"\x90" * spans, 0, spans)
    assert at_once(traces.read_trace(0, Reader(b""), Findings())) is None


def test_tags_are_counted_in_bodies_that_may_have_too_many() -> None:
    tags = TAGS_MAX // 10
    some = raw(
        b"\xdf" + tags.to_bytes(4, "big") + b"".join(b"\xa5%05x\xa0" % i for i in range(tags))
    )
    body = encode([[{"meta": some}]] * 11)
    with pytest.raises(ProtocolError, match="1,000,000 tags"):
        read(body)


def test_a_long_trace_of_too_many_tags_is_refused_before_all_of_them_are_made() -> None:
    # In spans of many, each of the fewest bytes, and as many spans as there are tags allowed.
    tags = {f"{n:x}": "" for n in range(100)}
    spans = [{"meta": tags}] * 40_000
    body = encode([spans])
    reader, findings = Reader(body, 1), Findings()
    tracemalloc.start()
    try:
        with pytest.raises(ProtocolError, match="1,000,000 tags"):
            at_once(Orderly(body, 0, 1).read_trace(0, reader, findings))
        most = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    # A quarter of it, where a span of a hundred tags has 5 KB.
    assert most < 100 * 1024 * 1024


def test_a_table_s_spans_are_in_order_when_they_point_into_it() -> None:
    texts = ["", "a", "ü"]
    sound = [1, 1, 2, 7, 8, 0, 5, 6, 0, {1: 2}, {1: 2}, 0]
    for row, is_sound in (
        (sound, True),
        ([*sound, "more"], True),
        (sound[:-1], False),
        ([*sound[:-1], 3], False),
        ([None, *sound[1:]], False),
        ([*sound[:9], {1: 3}, {}, 0], False),
    ):
        body = encode([[row]])
        findings = Findings()
        traces = OrderlyTable(body, 0, 1, texts, [0, 1, 2])
        chunk = at_once(traces.read_trace(0, Reader(body, 1), findings))
        assert (chunk is not None) is is_sound, row
        if chunk is not None:
            [span] = chunk.spans
            assert (span.resource, span.meta, span.metrics) == ("ü", {"a": "ü"}, {"a": 2.0})
            assert (span.trace_id, span.span_id, span.start, span.duration) == (7, 8, 5, 6)


def test_nothing_is_shared_between_spans() -> None:
    body = encode(make_traces(1, 2))
    chunk = read_first(body)
    assert chunk is not None
    first, second = chunk.spans
    first.set_meta("a", "b")
    assert second.get_meta("a") is None
    first.set_metric("a", 1.0)
    assert second.get_metric("a") is None
