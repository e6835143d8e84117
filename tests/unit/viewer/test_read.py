from __future__ import annotations

import base64
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kit import protos

from mini_agent.errors import DecodeError
from mini_agent.viewer.read import read_payload
from mini_agent.wire import protobuf

I64_MAX = (1 << 63) - 1


def the_only_span(body: bytes) -> tuple:
    (part,) = read_payload(body)
    (row,) = part.spans
    return row


def wrap(span_message: bytes) -> bytes:
    """A body with one span, whose message may be anything."""
    chunk = protobuf.bytes_field(3, span_message)
    return protobuf.bytes_field(5, protobuf.bytes_field(6, chunk))


def test_every_field_of_a_span_is_read(span, body):
    messages = protos.load()
    link = messages.SpanLink(
        traceID=1, traceID_high=2, spanID=3, tracestate="a=b", flags=1, attributes={"k": "v"}
    )
    row = the_only_span(
        body(
            [
                span(
                    (1 << 64) - 1,
                    (1 << 63) + 5,
                    name="n",
                    resource="r",
                    type="web",
                    start=5,
                    duration=7,
                    error=-1,
                    meta={"a": "b"},
                    metrics={"m": 0.5},
                    meta_struct={"s": b"\x00\xff"},
                    spanLinks=[link],
                    spanEvents=[messages.SpanEvent(time_unix_nano=9, name="e")],
                )
            ]
        )
    )
    assert row[:9] == (
        "ffffffffffffffff", "8000000000000005", 5, 7, -1, "web", "n", "r", "web",
    )  # fmt: skip
    meta, metrics, meta_struct, links, events = (json.loads(text) for text in row[9:])
    assert meta == {"a": "b"}
    assert metrics == {"m": 0.5}
    assert base64.b64decode(meta_struct["s"]) == b"\x00\xff"
    assert links == [
        {
            "trace_id": "00000000000000020000000000000001",
            "span_id": "0000000000000003",
            "attributes": {"k": "v"},
            "tracestate": "a=b",
            "flags": 1,
        }
    ]
    assert events == [{"time_ns": 9, "name": "e", "attributes": {}}]


def test_attributes_of_events_keep_their_types(span, body):
    messages = protos.load()
    value, item = messages.AttributeAnyValue, messages.AttributeArrayValue
    attributes = {
        "text": value(type=0, string_value="x"),
        "bool": value(type=1, bool_value=True),
        "int": value(type=2, int_value=-3),
        "double": value(type=3, double_value=2.5),
        "array": value(
            type=4,
            array_value=messages.AttributeArray(
                values=[item(type=2, int_value=1), item(type=0, string_value="y")]
            ),
        ),
    }
    event = messages.SpanEvent(name="e", attributes=attributes)
    (read,) = json.loads(the_only_span(body([span(1, spanEvents=[event])]))[13])
    assert read["attributes"] == {
        "text": "x",
        "bool": True,
        "int": -3,
        "double": 2.5,
        "array": [1, "y"],
    }


def test_arrays_in_arrays_cannot_exhaust_the_stack():
    value = b""
    for _ in range(20_000):
        array = protobuf.bytes_field(1, value)
        value = protobuf.integer_field(1, 4) + protobuf.bytes_field(6, array)
    entry = protobuf.bytes_field(1, b"deep") + protobuf.bytes_field(2, value)
    event = protobuf.bytes_field(3, entry)
    read = json.loads(the_only_span(wrap(protobuf.bytes_field(15, event)))[13])
    assert read[0]["attributes"] == {"deep": [""]}


def test_what_a_span_lacks_is_empty():
    row = the_only_span(wrap(b""))
    assert row == ("0" * 16, None, 0, 0, 0, "", "", "", "", None, None, None, None, None)


def test_chunks_of_one_trace_are_gathered(span, body):
    (part,) = read_payload(body([span(1)], [span(2, 1, service="db")]))
    assert [row[0][-1] for row in part.spans] == ["1", "2"]
    assert part.services == {"web", "db"}


def test_spans_go_to_the_trace_they_name(span, body):
    parts = read_payload(body([span(1, traceID=7), span(2, traceID=8)]))
    assert [part.trace_id_low for part in parts] == [7, 8]


def test_what_is_true_of_the_chunk_is_told(span, body):
    (part,) = read_payload(body([span(1)], env="prod", priority=2, origin="lambda"))
    assert (part.env, part.priority, part.origin) == ("prod", 2, "lambda")


def test_a_priority_of_zero_is_a_priority(span, body):
    (part,) = read_payload(body([span(1)], priority=0))
    assert part.priority == 0


def test_what_the_tracer_did_not_tell_is_none(span, body):
    (part,) = read_payload(body([span(1)], priority=-128))
    assert (part.env, part.priority, part.origin) == (None, None, None)


def test_one_span_tells_the_high_bits_of_its_trace(span, body):
    meta = {"_dd.p.tid": "6741a3f500000000"}
    (part,) = read_payload(body([span(1, meta=meta), span(2, 1)]))
    assert part.trace_id_high == 0x6741A3F500000000


@pytest.mark.parametrize("text", ["", "6741", "6741a3f50000000g", "-741a3f500000000", "1_0" * 6])
def test_high_bits_that_are_no_hexadecimal_number_are_not_known(span, body, text):
    (part,) = read_payload(body([span(1, meta={"_dd.p.tid": text})]))
    assert part.trace_id_high == 0


@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
def test_numbers_json_cannot_say_become_null(span, body, number):
    assert json.loads(the_only_span(body([span(1, metrics={"m": number})]))[10]) == {"m": None}


@pytest.mark.parametrize(
    ("start", "duration", "kept"), [(5, -1, 0), (I64_MAX, 1, 0), (I64_MAX - 1, 1, 1)]
)
def test_the_end_of_a_span_is_a_64_bit_number(span, body, start, duration, kept):
    row = the_only_span(body([span(1, start=start, duration=duration)]))
    assert row[2:4] == (start, kept)


def test_text_that_is_not_utf8_gets_replacement_characters():
    assert the_only_span(wrap(protobuf.bytes_field(2, b"a\xffb")))[6] == "a\ufffdb"


def test_unknown_fields_are_skipped():
    unknown = protobuf.bytes_field(99, b"x") + protobuf.double_field(98, 1.0)
    name = protobuf.bytes_field(2, b"n")
    chunk = unknown + protobuf.bytes_field(3, unknown + name + unknown)
    tracer = protobuf.bytes_field(6, chunk) + unknown
    assert the_only_span(unknown + protobuf.bytes_field(5, tracer))[6] == "n"


def test_known_fields_of_another_wire_type_are_skipped():
    fields = [protobuf.integer_field(number, 3) for number in (1, 2, 3, 10, 11, 12, 13, 14, 15)]
    texts = [protobuf.bytes_field(number, b"") for number in (4, 5, 6, 7, 8, 9)]
    row = the_only_span(wrap(b"".join(fields + texts)))
    assert row[:9] == ("0" * 16, None, 0, 0, 0, "", "", "", "")


def test_a_body_that_is_cut_off_is_refused(span, body):
    whole = body([span(1, meta={"a": "b"})])
    with pytest.raises(DecodeError):
        read_payload(whole[:-3])


def test_an_empty_body_has_no_traces():
    assert read_payload(b"") == []


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(garbage):
    for attempt in (garbage, wrap(garbage), wrap(protobuf.bytes_field(15, garbage))):
        try:
            read_payload(attempt)
        except DecodeError:
            continue
