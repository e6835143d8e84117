from __future__ import annotations

import math
from typing import Any

import msgspec
import pytest
from kit.chunks import drain
from kit.payloads import (
    BROKEN_TEXT,
    MENDED_TEXT,
    MISSING,
    as_array,
    encode,
    make_payload,
    make_span,
    raw,
)

from mini_agent.errors import DecodeError
from mini_agent.traces.decode import decode_v04
from mini_agent.traces.lenient import Findings
from mini_agent.traces.span import ARRAY, BOOL, DOUBLE, INT, STRING, AttributeValue, Span

EXT = msgspec.msgpack.Ext(5, b"data")
EVERYTHING = [{"deep": [1, {"er": [2.5, None, b"x" * 300]}]}, EXT]
LINK = {
    "trace_id": 2**64 - 1,
    "trace_id_high": 3,
    "span_id": 4,
    "attributes": {"a": "b"},
    "tracestate": "dd=s:1",
    "flags": 2**32 - 1,
}
ATTRIBUTES = {
    "string": {"type": 0, "string_value": "s"},
    "bool": {"type": 1, "bool_value": True},
    "int": {"type": 2, "int_value": -(2**63)},
    "double": {"type": 3, "double_value": 2.5},
    "array": {
        "type": 4,
        "array_value": {"values": [{"type": 0, "string_value": "i"}, {"type": 2}]},
    },
}
# The same attributes as `plain` shows them.
PLAIN = {
    "string": (STRING, "s"),
    "bool": (BOOL, True),
    "int": (INT, -(2**63)),
    "double": (DOUBLE, 2.5),
    "array": (ARRAY, [(STRING, "i"), (INT, 0)]),
}


def decode(body: bytes) -> tuple[list[list[Span]], Findings]:
    findings = Findings()
    return drain(decode_v04(body, findings)), findings


def read(**overrides: Any) -> tuple[Span, Findings]:
    """One span with these keys, which must be read."""
    [[span]], findings = decode(encode([[make_span(**overrides)]]))
    assert findings.dropped == 0
    return span, findings


def fault_of(**overrides: Any) -> str:
    """Why a span with these keys is dropped; its neighbour must be read."""
    bad, good = make_span(**overrides), make_span()
    [spans], findings = decode(encode([[bad, good]]))
    assert [span.span_id for span in spans] == [good["span_id"]]
    assert (findings.spans, findings.dropped, findings.repairs) == (2, 1, {})
    return str(findings.first_fault)


def plain(value: AttributeValue) -> Any:
    """An attribute as (type, the value of that type)."""
    if value.type == ARRAY:
        return ARRAY, [plain(item) for item in value.array_value or []]
    values = (value.string_value, value.bool_value, value.int_value, value.double_value)
    return value.type, values[value.type]


def test_a_span_is_read_whole() -> None:
    sent = make_span(parent_id=7, error=1, meta_struct={"appsec": b"\x80"})
    span, findings = read(**sent)
    for field in (
        *("trace_id", "span_id", "parent_id", "start", "duration", "error"),
        *("service", "name", "resource", "type", "meta_struct"),
    ):
        assert getattr(span, field) == sent[field]
    assert dict(span.meta_items()) == sent["meta"]
    assert dict(span.metric_items()) == sent["metrics"]
    assert findings.repairs == {}


def test_traces_come_in_their_order() -> None:
    traces, findings = decode(make_payload(3, 4))
    assert [len(spans) for spans in traces] == [4, 4, 4]
    assert findings.spans == 12


def test_an_empty_span_has_defaults() -> None:
    [[span]], findings = decode(encode([[{}]]))
    assert (span.trace_id, span.service, span.duration, span.links) == (0, "", 0, ())
    assert findings.repairs == {}


# The rows of the reference's table.

TEXTS = ["service", "name", "resource", "type"]
IDS = ["trace_id", "span_id", "parent_id"]


@pytest.mark.parametrize("field", TEXTS)
class TestTexts:
    @pytest.mark.parametrize("value", ["", "a", "ü漢🎈", "x" * 31, "x" * 300, "x" * 70_000])
    def test_a_string_is_taken_as_it_is(self, field: str, value: str) -> None:
        span, _ = read(**{field: value})
        assert getattr(span, field) == value

    def test_binary_is_taken_as_text(self, field: str) -> None:
        span, _ = read(**{field: "ü".encode()})
        assert getattr(span, field) == "ü"

    @pytest.mark.parametrize("value", [None, MISSING])
    def test_nil_and_nothing_are_empty(self, field: str, value: object) -> None:
        span, findings = read(**{field: value})
        assert getattr(span, field) == ""
        assert findings.repairs == {}

    def test_what_is_not_utf8_is_mended(self, field: str) -> None:
        span, findings = read(**{field: BROKEN_TEXT})
        assert getattr(span, field) == MENDED_TEXT
        assert findings.repairs == {"invalid_utf8": 1}

    @pytest.mark.parametrize("value", [1, -1, 1.5, True, EXT, ["a"], {"a": "b"}])
    def test_anything_else_drops_the_span(self, field: str, value: Any) -> None:
        assert f"trace 0, span 0: {field}: expected a string, found " in fault_of(**{field: value})


@pytest.mark.parametrize("field", IDS)
class TestIds:
    @pytest.mark.parametrize("value", [0, 1, 127, 128, 2**16, 2**32, 2**63, 2**64 - 1])
    def test_an_integer_that_is_not_negative_is_taken(self, field: str, value: int) -> None:
        span, _ = read(**{field: value})
        assert getattr(span, field) == value

    def test_a_signed_format_is_taken(self, field: str) -> None:
        span, _ = read(**{field: raw(b"\xd3" + (5).to_bytes(8, "big"))})
        assert getattr(span, field) == 5

    @pytest.mark.parametrize("value", [None, MISSING])
    def test_nil_and_nothing_are_zero(self, field: str, value: object) -> None:
        span, _ = read(**{field: value})
        assert getattr(span, field) == 0

    @pytest.mark.parametrize("value", [-1, -(2**63), 1.0, "1", True, b"1", [1]])
    def test_anything_else_drops_the_span(self, field: str, value: Any) -> None:
        assert f"trace 0, span 0: {field}: expected an integer" in fault_of(**{field: value})


class TestStart:
    @pytest.mark.parametrize("value", [0, -1, -(2**63), 2**63 - 1])
    def test_an_integer_of_64_bits_is_taken(self, value: int) -> None:
        assert read(start=value)[0].start == value

    @pytest.mark.parametrize("value", [None, MISSING])
    def test_nil_and_nothing_are_zero(self, value: object) -> None:
        assert read(start=value)[0].start == 0

    @pytest.mark.parametrize("value", [2**63, 1.0, "1", True])
    def test_anything_else_drops_the_span(self, value: Any) -> None:
        assert "span 0: start: expected an integer" in fault_of(start=value)


class TestDuration:
    @pytest.mark.parametrize("value", [0, 1, 2**63 - 1])
    def test_an_integer_is_taken(self, value: int) -> None:
        span, findings = read(duration=value)
        assert span.duration == value
        assert findings.repairs == {}

    @pytest.mark.parametrize("value", [None, MISSING])
    def test_nil_and_nothing_are_zero(self, value: object) -> None:
        span, findings = read(duration=value)
        assert span.duration == 0
        assert findings.repairs == {}

    @pytest.mark.parametrize(
        "value", [-1, 2**63, True, 1.5, "long", b"\x00" * 300, EVERYTHING, {"a": [{}]}, EXT]
    )
    def test_anything_else_is_zero_and_the_rest_of_the_span_is_read(self, value: Any) -> None:
        span, findings = read(duration=value, meta={"a": "b"}, resource="after")
        assert span.duration == 0
        assert span.resource == "after"
        assert dict(span.meta_items()) == {"a": "b"}
        assert findings.repairs == {"duration": 1}


class TestError:
    @pytest.mark.parametrize("value", [0, 1, -1, 2**31 - 1, -(2**31)])
    def test_an_integer_of_32_bits_is_taken(self, value: int) -> None:
        assert read(error=value)[0].error == value

    @pytest.mark.parametrize("value", [None, MISSING])
    def test_nil_and_nothing_are_zero(self, value: object) -> None:
        assert read(error=value)[0].error == 0

    @pytest.mark.parametrize("value", [True, 1.0, 2**31, -(2**31) - 1, "1"])
    def test_anything_else_drops_the_span(self, value: Any) -> None:
        assert "span 0: error: expected an integer" in fault_of(error=value)


class TestMeta:
    def test_texts_are_taken_as_they_are(self) -> None:
        tags = {"a": "", "": "b", "ü": "漢", "k" * 300: "v" * 70_000}
        span, findings = read(meta=tags)
        assert dict(span.meta_items()) == tags
        assert findings.repairs == {}

    @pytest.mark.parametrize("value", [None, MISSING])
    def test_nil_and_nothing_are_empty(self, value: object) -> None:
        assert list(read(meta=value)[0].meta_items()) == []

    def test_binary_is_taken_as_text(self) -> None:
        span, _ = read(meta=raw(b"\x81\xc4\x01k\xc4\x02\xc3\xbc"))
        assert dict(span.meta_items()) == {"k": "ü"}

    def test_nil_values_are_left_out(self) -> None:
        span, findings = read(meta={"a": None, "b": "1", "c": None, "d": "2"})
        assert dict(span.meta_items()) == {"b": "1", "d": "2"}
        assert findings.repairs == {}

    @pytest.mark.parametrize(
        ("value", "text"),
        [
            (1, "1"),
            (-(2**63), str(-(2**63))),
            (2**64 - 1, str(2**64 - 1)),
            (1.5, "1.5"),
            (2.0, "2.0"),
            (-0.0, "-0.0"),
            (math.nan, "NaN"),
            (math.inf, "Infinity"),
            (-math.inf, "-Infinity"),
            (True, "true"),
            (False, "false"),
        ],
    )
    def test_numbers_and_booleans_become_text(self, value: Any, text: str) -> None:
        span, findings = read(meta={"a": "x", "b": value, "c": "y"})
        assert list(span.meta_items()) == [("a", "x"), ("b", text), ("c", "y")]
        assert findings.repairs == {"meta_type": 1}

    @pytest.mark.parametrize("value", [[], EVERYTHING, {}, {"a": {"b": 1}}, EXT])
    def test_other_values_are_left_out(self, value: Any) -> None:
        span, findings = read(meta={"a": "x", "b": value, "c": "y"})
        assert list(span.meta_items()) == [("a", "x"), ("c", "y")]
        assert findings.repairs == {"meta_type": 1}

    def test_only_the_text_that_is_not_utf8_is_mended(self) -> None:
        pairs = b"\xa4a\xffb\xc3" + b"\xa1v" + b"\xa2\xc3\xbc" + b"\xa2\xed\xa0"
        span, findings = read(meta=raw(b"\x82" + pairs))
        assert list(span.meta_items()) == [(MENDED_TEXT, "v"), ("ü", "\ufffd\ufffd")]
        assert findings.repairs == {"invalid_utf8": 1}

    def test_of_a_repeated_key_the_last_counts(self) -> None:
        span, _ = read(meta=raw(b"\x82\xa1a\xa11\xa1a\xa12"))
        assert dict(span.meta_items()) == {"a": "2"}

    @pytest.mark.parametrize("value", ["a", 1, ["a", "b"], EXT])
    def test_what_is_no_map_drops_the_span(self, value: Any) -> None:
        assert "span 0: meta: expected a map" in fault_of(meta=value)

    @pytest.mark.parametrize("key", [b"\x01", b"\xc0", b"\xc3", b"\x90"])
    def test_a_key_that_is_no_text_drops_the_span(self, key: bytes) -> None:
        body = b"\x82\xa1a\xa1b" + key + b"\xa1v"
        assert "span 0: meta: expected a string" in fault_of(meta=raw(body))


class TestMetrics:
    def test_numbers_become_doubles(self) -> None:
        sent = {"a": 1, "b": -2.5, "c": 2**64 - 1, "d": -(2**63), "": 0, "k" * 300: 1e300}
        span, findings = read(metrics=sent)
        assert dict(span.metric_items()) == {key: float(value) for key, value in sent.items()}
        assert all(isinstance(value, float) for _, value in span.metric_items())
        assert findings.repairs == {}

    @pytest.mark.parametrize("value", [None, MISSING])
    def test_nil_and_nothing_are_empty(self, value: object) -> None:
        assert list(read(metrics=value)[0].metric_items()) == []

    @pytest.mark.parametrize("value", [None, True, False, "1", b"1", EVERYTHING, {"a": 1}, EXT])
    def test_other_values_are_left_out(self, value: Any) -> None:
        span, findings = read(metrics={"a": 1, "b": value, "c": 2})
        assert dict(span.metric_items()) == {"a": 1.0, "c": 2.0}
        assert findings.repairs == {"metric_type": 1}

    def test_a_key_that_is_not_utf8_is_mended(self) -> None:
        span, findings = read(metrics=raw(b"\x81\xa4a\xffb\xc3\x01"))
        assert dict(span.metric_items()) == {MENDED_TEXT: 1.0}
        assert findings.repairs == {"invalid_utf8": 1}

    @pytest.mark.parametrize("value", ["a", 1, [1]])
    def test_what_is_no_map_drops_the_span(self, value: Any) -> None:
        assert "span 0: metrics: expected a map" in fault_of(metrics=value)

    def test_a_key_that_is_no_text_drops_the_span(self) -> None:
        assert "span 0: metrics: expected a string" in fault_of(metrics=raw(b"\x81\xc0\x01"))


class TestMetaStruct:
    def test_binary_and_arrays_of_octets_are_taken(self) -> None:
        span, _ = read(meta_struct={"a": b"\x81\x01\x02", "b": [0, 127, 128, 255], "c": []})
        assert span.meta_struct == {"a": b"\x81\x01\x02", "b": b"\x00\x7f\x80\xff", "c": b""}

    @pytest.mark.parametrize("value", [None, MISSING])
    def test_nil_and_nothing_are_empty(self, value: object) -> None:
        assert read(meta_struct=value)[0].meta_struct == {}

    def test_nil_values_are_left_out(self) -> None:
        assert read(meta_struct={"a": None, "b": b""})[0].meta_struct == {"b": b""}

    @pytest.mark.parametrize("value", ["text", {"a": 1}, 1, [256], [-1], ["a"], [1.0]])
    def test_other_values_drop_the_span(self, value: Any) -> None:
        assert "span 0: meta_struct: expected " in fault_of(meta_struct={"a": value})


class TestSpanLinks:
    def test_a_link_is_read_whole(self) -> None:
        span, _ = read(span_links=[LINK, {"trace_id": 1, "span_id": 2, "new": EVERYTHING}])
        first, second = span.links
        assert {key: getattr(first, key) for key in LINK} == LINK
        assert (second.trace_id, second.span_id, second.flags) == (1, 2, 0)
        assert (second.attributes, second.tracestate, second.trace_id_high) == ({}, "", 0)

    def test_a_link_may_be_an_array(self) -> None:
        span, _ = read(span_links=[list(LINK.values()), [1, 2, 3]])
        first, second = span.links
        assert {key: getattr(first, key) for key in LINK} == LINK
        assert (second.trace_id, second.trace_id_high, second.span_id) == (1, 2, 3)

    def test_nil_is_the_default_in_every_field(self) -> None:
        [link] = read(span_links=[dict.fromkeys(LINK)])[0].links
        assert (link.trace_id, link.span_id, link.flags) == (0, 0, 0)
        assert (link.attributes, link.tracestate) == ({}, "")

    @pytest.mark.parametrize(
        "bad",
        [
            None,
            "link",
            7,
            {},
            {"trace_id": 1},
            {"span_id": 1},
            [1, 2],
            {**LINK, "trace_id": -1},
            {**LINK, "span_id": "1"},
            {**LINK, "flags": 2**32},
            {**LINK, "tracestate": 1},
            {**LINK, "attributes": ["a"]},
            {1: 2},
        ],
    )
    def test_a_link_of_another_shape_is_left_out_alone(self, bad: Any) -> None:
        span, findings = read(span_links=[bad, LINK], resource="after")
        assert [link.span_id for link in span.links] == [4]
        assert span.resource == "after"
        assert findings.repairs == {"link_type": 1}

    def test_attributes_are_mended_like_tags(self) -> None:
        link = {**LINK, "attributes": {"a": 1, "b": None, "c": BROKEN_TEXT, "d": []}}
        span, findings = read(span_links=[link])
        assert span.links[0].attributes == {"a": "1", "c": MENDED_TEXT}
        assert findings.repairs == {"meta_type": 1, "invalid_utf8": 1}

    @pytest.mark.parametrize("value", [None, [], MISSING])
    def test_no_links_are_none(self, value: Any) -> None:
        assert not read(span_links=value)[0].links

    def test_what_is_no_array_is_left_out(self) -> None:
        span, findings = read(span_links={"a": 1})
        assert span.links == []
        assert findings.repairs == {"link_type": 1}


class TestSpanEvents:
    def attributes(self, **attributes: Any) -> tuple[dict[str, Any], Findings]:
        event = {"time_unix_nano": 1, "name": "e", "attributes": attributes}
        span, findings = read(span_events=[event])
        [event_read] = span.events
        return {key: plain(value) for key, value in event_read.attributes.items()}, findings

    def test_an_event_is_read_whole(self) -> None:
        event = {"time_unix_nano": 2**64 - 1, "name": "exception", "attributes": ATTRIBUTES}
        span, findings = read(span_events=[event, {}, {"new": EVERYTHING}])
        first, second, third = span.events
        assert (first.time_unix_nano, first.name) == (2**64 - 1, "exception")
        assert {key: plain(value) for key, value in first.attributes.items()} == PLAIN
        for empty in (second, third):
            assert (empty.time_unix_nano, empty.name, empty.attributes) == (0, "", {})
        assert findings.repairs == {}

    @pytest.mark.parametrize(("sent", "taken"), [(1.5e18, 15 * 10**17), (0.0, 0), (7.9, 7)])
    def test_a_time_may_be_a_float(self, sent: float, taken: int) -> None:
        """dd-trace sends it so with native span events."""
        span, findings = read(span_events=[{"time_unix_nano": sent, "name": "e"}])
        assert [event.time_unix_nano for event in span.events] == [taken]
        assert findings.repairs == {}

    @pytest.mark.parametrize("sent", [-1.0, 2.0**64, float("nan"), float("inf")])
    def test_a_time_out_of_range_costs_its_event(self, sent: float) -> None:
        span, findings = read(span_events=[{"time_unix_nano": sent, "name": "e"}])
        assert span.events == []
        assert findings.repairs == {"event_type": 1}

    def test_events_and_attributes_may_be_arrays(self) -> None:
        attributes = {
            "string": [0, "s"],
            "bool": [1, "", True],
            "int": [2, None, None, -(2**63)],
            "double": [3, "", False, 0, 2.5],
            "array": [4, "", False, 0, 0.0, [[[0, "i"], [2]]], "later"],
        }
        span, findings = read(span_events=[[5, "exception", attributes]])
        [event] = span.events
        assert (event.time_unix_nano, event.name) == (5, "exception")
        assert {key: plain(value) for key, value in event.attributes.items()} == PLAIN
        assert findings.repairs == {}

    def test_nil_is_the_default_in_every_field(self) -> None:
        fields = ("type", "string_value", "bool_value", "int_value", "double_value", "array_value")
        found, findings = self.attributes(a=dict.fromkeys(fields), b={"array_value": {}})
        assert found == {"a": (STRING, ""), "b": (STRING, "")}
        [event] = read(span_events=[dict.fromkeys(("time_unix_nano", "name", "attributes"))])[
            0
        ].events
        assert (event.time_unix_nano, event.name, event.attributes) == (0, "", {})
        assert findings.repairs == {}

    def test_a_plain_value_shows_its_type(self) -> None:
        values = {"s": "s", "bin": b"b", "t": True, "i": -7, "d": 0.5}
        found, findings = self.attributes(**values, a={"type": 4, "array_value": {"values": ["x"]}})
        assert found == {
            "s": (STRING, "s"),
            "bin": (STRING, "b"),
            "t": (BOOL, True),
            "i": (INT, -7),
            "d": (DOUBLE, 0.5),
            "a": (ARRAY, [(STRING, "x")]),
        }
        assert findings.repairs == {}

    @pytest.mark.parametrize(
        "bad",
        [
            None,
            EXT,
            2**63,
            ["a", "b"],
            {"type": "string"},
            {"int_value": 2**63},
            {"bool_value": 1},
            {"double_value": "1"},
            {"array_value": "a"},
            {1: 2},
        ],
    )
    def test_an_attribute_of_another_shape_is_left_out_alone(self, bad: Any) -> None:
        found, findings = self.attributes(bad=bad, good={"type": 2, "int_value": 1})
        assert found == {"good": (INT, 1)}
        assert findings.repairs == {"event_type": 1}

    def test_an_item_of_another_shape_is_left_out_alone(self) -> None:
        values = [{"type": 2, "int_value": 1}, None, {"type": "x"}, {"type": 2, "int_value": 2}]
        found, findings = self.attributes(a={"type": 4, "array_value": {"values": values}})
        assert found == {"a": (ARRAY, [(INT, 1), (INT, 2)])}
        assert findings.repairs == {"event_type": 1}

    def test_an_unknown_type_is_kept_as_it_is(self) -> None:
        event = {"attributes": {"a": {"type": 99, "string_value": "s"}}}
        attribute = read(span_events=[event])[0].events[0].attributes["a"]
        assert (attribute.type, attribute.string_value) == (99, "s")

    @pytest.mark.parametrize(
        "bad",
        [None, "event", {"time_unix_nano": -1}, {"name": 1}, {"attributes": []}, {None: 1}],
    )
    def test_an_event_of_another_shape_is_left_out_alone(self, bad: Any) -> None:
        span, findings = read(span_events=[bad, {"name": "good"}], resource="after")
        assert [event.name for event in span.events] == ["good"]
        assert span.resource == "after"
        assert findings.repairs == {"event_type": 1}

    def test_texts_are_mended(self) -> None:
        attributes = {"a": {"type": 0, "string_value": BROKEN_TEXT}}
        span, findings = read(span_events=[{"name": BROKEN_TEXT, "attributes": attributes}])
        assert span.events[0].name == MENDED_TEXT
        assert span.events[0].attributes["a"].string_value == MENDED_TEXT
        assert findings.repairs == {"invalid_utf8": 1}


class TestSpanShape:
    def test_a_span_may_be_an_array_in_the_order_of_the_fields(self) -> None:
        sent = make_span(error=1, meta_struct={"a": b"b"}, span_links=[[1, 0, 2]])
        [[span]], _ = decode(encode([[as_array(sent)]]))
        assert (span.service, span.trace_id, span.error) == (sent["service"], sent["trace_id"], 1)
        assert dict(span.meta_items()) == sent["meta"]
        assert span.type == sent["type"]
        assert span.meta_struct == {"a": b"b"}
        assert span.links[0].span_id == 2
        assert span.events == []

    @pytest.mark.parametrize("length", [0, 1, 9, 14])
    def test_a_shorter_array_leaves_the_rest_at_its_defaults(self, length: int) -> None:
        sent = make_span(error=1)
        [[span]], _ = decode(encode([[as_array(sent, length)]]))
        assert span.service == (sent["service"] if length else "")
        assert span.error == (1 if length >= 9 else 0)
        assert dict(span.metric_items()) == (sent["metrics"] if length >= 11 else {})

    def test_what_stands_behind_the_last_field_of_an_array_is_passed_over(self) -> None:
        first, second = make_span(), make_span()
        [spans], _ = decode(encode([[[*as_array(first), EVERYTHING, 1], as_array(second)]]))
        assert [span.span_id for span in spans] == [first["span_id"], second["span_id"]]

    def test_unknown_keys_are_passed_over_whatever_their_value(self) -> None:
        span, findings = read(new=EVERYTHING, newer=EXT, **{"": None, "k" * 300: {"a": b"b"}})
        assert span.service == "checkout-api"
        assert findings.repairs == {}

    def test_keys_may_be_binary(self) -> None:
        [[span]], _ = decode(encode([[raw(b"\x81\xc4\x07service\xa1a")]]))
        assert span.service == "a"

    def test_of_a_repeated_field_the_last_counts(self) -> None:
        fields = [("service", "a"), ("meta", {"a": "1", "b": "1"}), ("start", 5)]
        fields += [("service", None), ("meta", {"a": "2"}), ("start", 6)]
        body = b"".join(encode(key) + encode(value) for key, value in fields)
        [[span]], _ = decode(encode([[raw(bytes([0x80 + len(fields)]) + body)]]))
        assert span.service == ""
        assert span.start == 6
        assert dict(span.meta_items()) == {"a": "2"}

    @pytest.mark.parametrize(
        ("span", "found"),
        [
            (None, "expected a map, found nil"),
            ("span", "expected a map, found a string"),
            (7, "expected a map, found an integer"),
            (EXT, "expected a map, found an extension"),
            ({1: 2}, "a key: expected a string, found an integer"),
            ({None: 2}, "a key: expected a string, found nil"),
        ],
    )
    def test_what_is_no_span_is_dropped_alone(self, span: Any, found: str) -> None:
        good = make_span()
        [spans], findings = decode(encode([[span, good]]))
        assert [each.span_id for each in spans] == [good["span_id"]]
        assert findings.dropped == 1
        assert f"trace 0, span 0: {found}" in str(findings.first_fault)

    def test_a_fault_in_an_array_names_its_field(self) -> None:
        bad = make_span(start="now")
        _, findings = decode(encode([[as_array(bad), make_span()]]))
        assert "trace 0, span 0: start: expected an integer, found a string" in str(
            findings.first_fault
        )

    def test_a_fault_never_shows_what_the_sender_wrote(self) -> None:
        assert "secret" not in fault_of(service=["secret"], secret=1)
        assert "secret" not in fault_of(
            secret=1, meta={"secret": "secret", "a": {}}, error="secret"
        )

    def test_a_dropped_span_counts_as_nothing_else(self) -> None:
        bad = make_span(meta={"a": 1, "b": BROKEN_TEXT}, type=1)
        _, findings = decode(encode([[bad, make_span()]]))
        assert findings.repairs == {}

    def test_a_span_is_counted_once_for_each_reason(self) -> None:
        odd = make_span(meta={"a": 1, "b": 2, "c": BROKEN_TEXT}, resource=BROKEN_TEXT)
        _, findings = decode(encode([[odd, odd, make_span()]]))
        assert findings.repairs == {"meta_type": 2, "invalid_utf8": 2}


class TestPayloadShape:
    def test_no_traces_are_fine(self) -> None:
        assert decode(b"\x90")[0] == []

    def test_empty_traces_are_left_out(self) -> None:
        traces, findings = decode(encode([[], [make_span()], []]))
        assert [len(spans) for spans in traces] == [1]
        assert (findings.empty_traces, findings.spans) == (2, 1)

    def test_trailing_bytes_are_ignored(self) -> None:
        traces, _ = decode(make_payload() + b"\xc1 anything")
        assert len(traces) == 1

    @pytest.mark.parametrize(
        ("body", "message"),
        [
            (b"", "ends in the middle"),
            (b"\xc0", "expected an array of traces, found nil"),
            (b"\x80", "expected an array, found a map"),
            (b"\xa5hello", "expected an array, found a string"),
            (b"\x91\xc0", "trace 0: expected an array of spans, found nil"),
            (b"\x92\x90\x80", "trace 1: expected an array, found a map"),
            (b"\x91\xc1", "0xc1"),
            (b"\x91\x91\xc1", "0xc1"),
            (b"\xdd\xff\xff\xff\xff", "ends in the middle"),
            (b"\x1f\x8b\x08\x00 gzip", "expected an array, found an integer"),
        ],
    )
    def test_another_outer_shape_is_refused(self, body: bytes, message: str) -> None:
        with pytest.raises(DecodeError, match=message) as caught:
            decode(body)
        assert caught.value.status == 400

    def test_a_body_is_refused_wherever_it_is_cut_off(self) -> None:
        span = make_span(
            meta={"a": 1, "b": "2", "c": None, "d": "x" * 40},
            meta_struct={"a": b"b", "c": [1, 200]},
            span_links=[LINK, {"trace_id": "bad"}],
            span_events=[{"name": "e", "attributes": ATTRIBUTES}],
            duration=[1, {"a": 2}],
            unknown=EVERYTHING,
        )
        body = encode([[as_array(span), span], [span]])
        decode(body)
        for size in range(len(body)):
            with pytest.raises(DecodeError):
                decode(body[:size])

    def test_a_payload_of_which_nothing_can_be_read_is_refused_with_the_first_reason(self) -> None:
        body = encode([[], [make_span(), make_span(service=1)], [make_span(error="x"), None]])
        assert decode(body)[1].dropped == 3
        body = encode([[], [make_span(service=1), make_span(error="x")], [None]])
        with pytest.raises(DecodeError, match="trace 1, span 0: service: expected a string"):
            decode(body)

    def test_a_trace_of_which_nothing_can_be_read_is_left_out(self) -> None:
        traces, findings = decode(encode([[None, 1], [make_span()]]))
        assert [len(spans) for spans in traces] == [1]
        assert (findings.spans, findings.dropped, findings.empty_traces) == (3, 2, 0)
