from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from kit import protos, spans
from kit.chunks import drain
from kit.payloads import encode, make_payload, make_span, make_traces, span_ids

from mini_agent.forward.payload import Record
from mini_agent.traces import encode as encoding
from mini_agent.traces.decode import decode_v04
from mini_agent.traces.encode import AGENT_PAYLOAD_PREFIX, TraceWriter, encode_spans
from mini_agent.traces.lenient import Findings
from mini_agent.traces.sender import Sender
from mini_agent.traces.span import AttributeValue, Span, SpanEvent, SpanLink, TraceChunk

UNLIMITED = 1 << 30
SENDER = Sender(
    {
        "datadog-meta-lang": "python",
        "datadog-meta-lang-version": "3.14",
        "datadog-meta-tracer-version": "4.1",
        "datadog-container-id": "c0ffee",
        "datadog-client-dropped-p0-spans": "7",
    }
)


def write(
    traces: list[list[dict[str, Any]]],
    body_bytes_max: int = UNLIMITED,
    sender: Sender = SENDER,
    tags: dict[str, str] | None = None,
) -> list[Record]:
    """The records for traces as a tracer sends them; roots are the first spans."""
    writer = TraceWriter(sender, tags or {}, body_bytes_max)
    for chunk in drain(decode_v04(encode(traces), Findings())):
        chunk.root_index = 0
        writer.add(chunk)
    return writer.records()


def test_a_chunk_says_that_it_was_dropped_and_what_its_tags_are() -> None:
    chunk = TraceChunk([Span()])
    chunk.is_dropped, chunk.tags = True, {"_dd.p.dm": "-1"}
    writer = TraceWriter(SENDER, {}, UNLIMITED)
    writer.add(chunk)
    writer.add(TraceChunk([Span()]))
    first, second = (each for payload in read(writer.records()) for each in payload.chunks)
    assert (first.droppedTrace, dict(first.tags)) == (True, {"_dd.p.dm": "-1"})
    assert (second.droppedTrace, dict(second.tags)) == (False, {})


def test_what_a_payload_says_of_itself_holds_for_all_its_chunks() -> None:
    sender = Sender({})
    sender.env, sender.version, sender.hostname, sender.runtime_id = "e", "v" * 500, "h", "r"
    sender.tags = {"a": "own", "b": "own"}
    [payload] = read(write(make_traces(2, 1), sender=sender, tags={"b": "ours"}))
    assert (payload.env, payload.hostname, payload.runtimeID) == ("e", "h", "r")
    assert payload.appVersion == "v" * encoding.FRAME_TEXT_CHARACTERS_MAX
    assert dict(payload.tags) == {"a": "own", "b": "ours"}


def read(records: list[Record]) -> list[Any]:
    """The tracer payloads in the body these records make, by the official runtime."""
    body = AGENT_PAYLOAD_PREFIX + b"".join(record.body for record in records)
    return list(protos.load().AgentPayload.FromString(body).tracerPayloads)


def read_spans(records: list[Record]) -> list[Any]:
    return [span for payload in read(records) for chunk in payload.chunks for span in chunk.spans]


def make_meta_span(**meta: str) -> dict[str, Any]:
    return make_span(meta=meta)


def test_the_prefix_tells_the_samplers_rates() -> None:
    payload = protos.load().AgentPayload.FromString(AGENT_PAYLOAD_PREFIX)
    assert (payload.targetTPS, payload.errorTPS) == (60.0, 60.0)
    assert payload.SerializeToString() == AGENT_PAYLOAD_PREFIX


# What a tracer may send in each field, edges included.

TEXT = st.text(max_size=40) | st.sampled_from(["x" * 127, "x" * 128, "ü" * 9000])
U64 = st.integers(0, 2**64 - 1)
I64 = st.integers(-(2**63), 2**63 - 1)
REAL = st.floats(allow_nan=False)
TEXTS = st.dictionaries(TEXT, TEXT, max_size=6)
SCALARS = {
    0: ("string_value", TEXT),
    1: ("bool_value", st.booleans()),
    2: ("int_value", I64),
    3: ("double_value", REAL),
}
SCALAR = st.sampled_from(list(SCALARS)).flatmap(
    lambda number: st.fixed_dictionaries(
        {"type": st.just(number), SCALARS[number][0]: SCALARS[number][1]}
    )
)
ATTRIBUTE = SCALAR | st.lists(SCALAR, max_size=3).map(
    lambda items: {"type": 4, "array_value": {"values": items}}
)
LINK = st.fixed_dictionaries(
    {"trace_id": U64, "span_id": U64},
    optional={
        "trace_id_high": U64,
        "attributes": TEXTS,
        "tracestate": TEXT,
        "flags": st.integers(0, 2**32 - 1),
    },
)
EVENT = st.fixed_dictionaries(
    {},
    optional={
        "time_unix_nano": U64,
        "name": TEXT,
        "attributes": st.dictionaries(TEXT, ATTRIBUTE, max_size=4),
    },
)
SPAN = st.fixed_dictionaries(
    {},
    optional={
        "service": TEXT,
        "name": TEXT,
        "resource": TEXT,
        "type": TEXT,
        "trace_id": U64,
        "span_id": U64,
        "parent_id": U64,
        "start": I64,
        "duration": st.integers(0, 2**63 - 1),
        "error": st.integers(-(2**31), 2**31 - 1),
        "meta": TEXTS,
        "metrics": st.dictionaries(TEXT, REAL | I64 | U64, max_size=6),
        "meta_struct": st.dictionaries(TEXT, st.binary(max_size=300), max_size=3),
        "span_links": st.lists(LINK, max_size=2),
        "span_events": st.lists(EVENT, max_size=2),
    },
)


@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(SPAN)
def test_what_a_tracer_sends_is_what_the_official_runtime_reads(sent: dict[str, Any]) -> None:
    [arrived] = read_spans(write([[sent]]))
    expected = spans.from_wire(sent)
    expected["metrics"] = {key: float(value) for key, value in expected["metrics"].items()}
    assert spans.differences(expected, spans.from_proto(arrived)) == {}


def test_numbers_that_are_none_survive() -> None:
    [span] = read_spans(write([[make_span(metrics={"a": math.nan, "b": -0.0})]]))
    assert math.isnan(span.metrics["a"])
    assert math.copysign(1, span.metrics["b"]) == -1
    attribute = {"type": 3, "double_value": -0.0}
    [span] = read_spans(write([[make_span(span_events=[{"attributes": {"a": attribute}}])]]))
    assert math.copysign(1, span.spanEvents[0].attributes["a"].double_value) == -1


def test_tags_of_every_length_survive() -> None:
    lengths = range(140)
    meta = {"k" * length: "v" * (130 - length) for length in lengths}
    metrics = {"k" * length: float(length) for length in lengths}
    [span] = read_spans(write([[make_span(meta=meta, metrics=metrics)]]))
    assert dict(span.meta) == meta
    assert dict(span.metrics) == metrics


def test_an_empty_span_is_an_empty_message() -> None:
    assert encode_spans([Span()]) == [b"\x1a\x00"]


def test_what_rules_have_set_is_encoded() -> None:
    span = Span()
    span.service = "ü"
    span.set_meta("k", "v")
    span.set_metric("m", 0.5)
    span.meta_struct["s"] = b"x"
    link = SpanLink()
    link.trace_id, link.attributes = 5, {"a": "b"}
    span.links = [link]
    event = SpanEvent()
    event.name, event.time_unix_nano = "e", 2**64 - 1
    event.attributes["a"] = AttributeValue(99, "s", True, -1, 0.5, [AttributeValue(2, int_value=3)])
    event.attributes["empty"] = AttributeValue(4, array_value=[])
    span.events = [event]
    [encoded] = encode_spans([span])
    [read_back] = protos.load().TraceChunk.FromString(encoded).spans
    assert read_back.service == "ü"
    assert dict(read_back.meta) == {"k": "v"}
    assert dict(read_back.metrics) == {"m": 0.5}
    assert dict(read_back.meta_struct) == {"s": b"x"}
    assert read_back.spanLinks[0].traceID == 5
    assert read_back.spanEvents[0].time_unix_nano == 2**64 - 1
    attribute = read_back.spanEvents[0].attributes["a"]
    assert (attribute.type, attribute.string_value, attribute.bool_value) == (99, "s", True)
    assert (attribute.int_value, attribute.double_value) == (-1, 0.5)
    assert attribute.array_value.values[0].int_value == 3
    assert read_back.spanEvents[0].attributes["empty"].HasField("array_value")
    assert not attribute.array_value.values[0].string_value


def test_a_chunk_keeps_what_the_rules_found() -> None:
    writer = TraceWriter(SENDER, {}, UNLIMITED)
    body = make_payload(1, 2)
    [chunk] = drain(decode_v04(body, Findings()))
    chunk.origin = "rum"
    chunk.tags = {"_dd.p.dm": "-1"}
    writer.add(chunk)
    [decoded] = drain(decode_v04(body, Findings()))
    chunk = decoded.select([0])
    chunk.priority = 2
    writer.add(chunk)
    [payload] = read(writer.records())
    first, second = payload.chunks
    assert (first.priority, first.origin, dict(first.tags)) == (-128, "rum", {"_dd.p.dm": "-1"})
    assert (second.priority, second.origin, dict(second.tags)) == (2, "", {})
    assert (len(first.spans), len(second.spans)) == (2, 1)


def test_a_payload_says_who_sent_it() -> None:
    [record] = write([[make_span()]], tags={"_dd.tags.function": "a:b"})
    [payload] = read([record])
    assert payload.containerID == "c0ffee"
    assert payload.languageName == "python"
    assert payload.languageVersion == "3.14"
    assert payload.tracerVersion == "4.1"
    assert dict(payload.tags) == {"_dd.tags.function": "a:b"}
    assert payload.env == "prod"
    assert payload.appVersion == "1.4.2"
    assert payload.runtimeID == "0f9d1c1c4a1e4b7f9e3c5a8b2d6f7e10"
    assert payload.hostname == ""


def test_nothing_added_gives_no_records() -> None:
    assert TraceWriter(SENDER, {}, UNLIMITED).records() == []


class TestGroups:
    def keys(self, traces: list[list[dict[str, Any]]]) -> list[tuple[str, ...]]:
        return [
            (payload.env, payload.appVersion, payload.hostname, payload.runtimeID)
            for payload in read(write(traces))
        ]

    def test_chunks_that_agree_share_a_payload(self) -> None:
        [payload] = read(write(make_traces(5, 2)))
        assert len(payload.chunks) == 5

    def test_chunks_that_differ_do_not(self) -> None:
        traces = [[make_meta_span(env=env, version="1")] for env in ("a", "b", "a")]
        payloads = read(write(traces))
        assert [(payload.env, len(payload.chunks)) for payload in payloads] == [("a", 2), ("b", 1)]

    def test_the_root_is_asked_first_then_the_others_in_order(self) -> None:
        trace = [
            make_meta_span(env=""),
            make_meta_span(version="2"),
            make_meta_span(env="second", version="3"),
            make_meta_span(env="third", **{"_dd.hostname": "h", "runtime-id": "r"}),
        ]
        assert self.keys([trace]) == [("second", "2", "h", "r")]

    def test_a_span_with_the_roots_id_is_not_asked(self) -> None:
        trace = [make_meta_span(), make_meta_span(env="twin"), make_meta_span(env="other")]
        trace[1]["span_id"] = trace[0]["span_id"]
        assert self.keys([trace]) == [("other", "", "", "")]

    def test_what_a_chunk_does_not_say_is_what_the_request_says_first(self) -> None:
        traces = [
            [make_meta_span(version="1")],
            [make_meta_span(env="a", version="2")],
            [make_meta_span(env="b")],
        ]
        assert self.keys(traces) == [
            ("a", "1", "", ""),
            ("a", "2", "", ""),
            ("b", "1", "", ""),
        ]

    def test_there_are_only_so_many_groups(self) -> None:
        count = encoding.GROUPS_MAX + 10
        traces = [[make_meta_span(env=f"env-{index}")] for index in range(count)]
        records = write(traces)
        assert len(records) == encoding.GROUPS_MAX
        payloads = read(records)
        assert payloads[0].env == "env-0"
        assert len(payloads[0].chunks) == 11
        assert {span.spanID for span in read_spans(records)} == span_ids(traces)

    def test_texts_that_are_repeated_are_cut(self) -> None:
        [payload] = read(write([[make_meta_span(env="ü" * 1000, version="漢" * 1000)]]))
        assert payload.env == "ü" * encoding.FRAME_TEXT_CHARACTERS_MAX
        assert payload.appVersion == "漢" * encoding.FRAME_TEXT_CHARACTERS_MAX
        assert payload.chunks[0].spans[0].meta["env"] == "ü" * 1000


class TestHeaders:
    def test_every_record_says_who_sent_it_and_one_what_was_left_out(self) -> None:
        traces = [[make_meta_span(env=env)] for env in ("a", "b", "c")]
        first, *others = write(traces)
        assert first.headers["datadog-client-dropped-p0-spans"] == "7"
        assert len(others) == 2
        for record in others:
            assert record.headers == SENDER.headers


class TestLimit:
    @settings(deadline=None)
    @given(
        st.lists(st.lists(st.integers(0, 600), min_size=1, max_size=8), max_size=8),
        st.integers(150, 3000),
        st.sampled_from(["a", "b"]),
    )
    def test_no_span_is_lost_or_repeated_and_no_record_is_too_large(
        self, sizes: list[list[int]], body_bytes_max: int, env: str
    ) -> None:
        """Spans with this many bytes of padding; some traces name an environment of their own."""
        number = 0
        traces = []
        for trace_sizes in sizes:
            trace = []
            for size in trace_sizes:
                number += 1
                meta = {"padding": "x" * size, **({"env": env} if size % 7 == 0 else {})}
                trace.append({"span_id": number, "meta": meta})
            traces.append(trace)
        records = write(traces, body_bytes_max)
        assert sorted(span.spanID for span in read_spans(records)) == list(range(1, number + 1))
        for record in records:
            held = read_spans([record])
            assert record.count == len(held)
            assert (
                len(AGENT_PAYLOAD_PREFIX) + len(record.body) <= body_bytes_max or record.count == 1
            )
        assert sum("datadog-client-dropped-p0-spans" in r.headers for r in records) == bool(records)

    def test_a_record_may_be_as_large_as_the_limit_and_no_larger(self) -> None:
        traces = make_traces(1, 5)
        [record] = write(traces)
        size = len(AGENT_PAYLOAD_PREFIX) + len(record.body)
        assert [r.body for r in write(traces, size)] == [record.body]
        assert [r.count for r in write(traces, size - 1)] == [4, 1]

    def test_chunks_share_a_record_up_to_the_limit_and_no_further(self) -> None:
        traces = make_traces(2, 3)
        [record] = write(traces)
        size = len(AGENT_PAYLOAD_PREFIX) + len(record.body)
        assert [r.body for r in write(traces, size)] == [record.body]
        assert [r.count for r in write(traces, size - 1)] == [3, 3]

    @pytest.mark.parametrize("size", [100, 127, 128, 129, 16_300, 16_383, 16_384, 16_385])
    def test_the_limit_holds_where_a_length_grows_by_a_byte(self, size: int) -> None:
        traces = [[{"span_id": n, "resource": "x" * (size // 4)} for n in range(1, 9)]]
        for body_bytes_max in range(size, size + 40):
            for record in write(traces, body_bytes_max, Sender({})):
                if record.count > 1:
                    assert len(AGENT_PAYLOAD_PREFIX) + len(record.body) <= body_bytes_max

    def test_records_are_as_full_as_they_can_be(self) -> None:
        traces = make_traces(100, 10)
        body_bytes_max = 20_000
        records = write(traces, body_bytes_max)
        largest = max(len(record.body) for record in write(traces, 1))
        trace_bytes = max(len(record.body) for record in write(traces[:1]))
        assert largest < trace_bytes
        for record in records[:-1]:
            assert len(record.body) > body_bytes_max - 2 * trace_bytes

    def test_the_parts_of_a_chunk_keep_what_is_said_of_it(self) -> None:
        writer = TraceWriter(SENDER, {"t": "1"}, 1500)
        [chunk] = drain(decode_v04(make_payload(1, 20), Findings()))
        chunk.priority, chunk.origin, chunk.tags = 1, "rum", {"a": "b"}
        writer.add(chunk)
        records = writer.records()
        assert len(records) > 5
        for payload in read(records):
            assert payload.env == "prod"
            assert dict(payload.tags) == {"t": "1"}
            for part in payload.chunks:
                assert (part.priority, part.origin, dict(part.tags)) == (1, "rum", {"a": "b"})

    def test_a_span_larger_than_the_limit_goes_alone(self) -> None:
        small = [make_span() for _ in range(4)]
        giant = make_span(resource="x" * 5000)
        records = write([[*small[:2], giant, *small[2:]]], 3000)
        assert [record.count for record in records] == [2, 1, 2]
        assert [span.spanID for span in read_spans(records)] == [
            span["span_id"] for span in (*small[:2], giant, *small[2:])
        ]
