from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kit.payloads import BROKEN_TEXT, encode, make_span, make_trace

from mini_agent.errors import DecodeError, ProtocolError
from mini_agent.traces.decode_v07 import TAGS_BYTES_MAX, decode_v07
from mini_agent.traces.lenient import Findings
from mini_agent.traces.sender import Sender
from mini_agent.traces.span import PRIORITY_NONE, TraceChunk

PAYLOAD: dict[str, Any] = {
    "container_id": "c1",
    "language_name": "go",
    "language_version": "1.22",
    "tracer_version": "2.0",
    "runtime_id": "r1",
    "chunks": [],
    "tags": {"_dd.tags.container": "a:b"},
    "env": "prod",
    "hostname": "box",
    "app_version": "7",
}


def decode(payload: Any, **headers: str) -> tuple[list[TraceChunk], Sender, Findings]:
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    sender, findings = Sender(names), Findings()
    body = payload if isinstance(payload, bytes) else encode(payload)
    chunks = [chunk for chunk in decode_v07(body, sender, findings) if chunk is not None]
    return chunks, sender, findings


def make_chunk(**overrides: Any) -> dict[str, Any]:
    return {
        "priority": 1,
        "origin": "rum",
        "spans": make_trace(2),
        "tags": {"_dd.p.dm": "-1"},
        "dropped_trace": True,
        **overrides,
    }


def test_a_payload_says_what_holds_for_the_whole() -> None:
    chunks, sender, _ = decode({**PAYLOAD, "chunks": [make_chunk()]})
    assert (sender.container_id, sender.language, sender.language_version) == ("c1", "go", "1.22")
    assert (sender.tracer_version, sender.runtime_id) == ("2.0", "r1")
    assert (sender.env, sender.hostname, sender.version) == ("prod", "box", "7")
    assert sender.tags == {"_dd.tags.container": "a:b"}
    [chunk] = chunks
    assert (chunk.priority, chunk.origin, chunk.is_dropped) == (1, "rum", True)
    assert chunk.tags == {"_dd.p.dm": "-1"}
    assert [span.service for span in chunk.spans] == ["checkout-api"] * 2


def test_the_whole_is_known_before_the_first_chunk() -> None:
    for spans in (1, 1000):
        sender = Sender({})
        body = encode({"chunks": [make_chunk(spans=make_trace(spans))], "env": "prod"})
        assert sender.env == ""
        next(chunk for chunk in decode_v07(body, sender, Findings()) if chunk is not None)
        assert sender.env == "prod"


def test_where_the_body_says_nothing_the_headers_do() -> None:
    _, sender, _ = decode(
        {"language_name": ""}, datadog_meta_lang="python", datadog_container_id="c2"
    )
    assert (sender.language, sender.container_id) == ("python", "c2")
    assert (sender.env, sender.tags) == ("", {})


def test_a_chunk_that_says_nothing_is_a_chunk_all_the_same() -> None:
    [chunk], _, _ = decode({"chunks": [{"spans": [make_span()], "priority": None}]})
    assert (chunk.priority, chunk.origin, chunk.is_dropped) == (PRIORITY_NONE, "", False)
    assert chunk.tags == {}


def test_what_is_no_chunk_and_what_is_not_known_is_passed_over() -> None:
    chunks, _, findings = decode(
        {"surprise": [1], "chunks": [None, {"spans": []}, {}, make_chunk(extra={"a": 1})]}
    )
    assert len(chunks) == 1
    assert findings.empty_traces == 2


def test_fields_of_a_wrong_type_are_left_out_alone() -> None:
    odd = make_chunk(priority="x", origin=5, tags={"a": "b", "c": 7}, dropped_trace="yes")
    [chunk], sender, findings = decode(
        {**PAYLOAD, "env": 7, "hostname": BROKEN_TEXT, "tags": [1], "chunks": [odd]}
    )
    assert (sender.env, sender.version, sender.tags) == ("", "7", {})
    assert sender.hostname == "a\ufffdb\ufffd"
    assert (chunk.priority, chunk.origin, chunk.is_dropped) == (PRIORITY_NONE, "", False)
    assert chunk.tags == {"a": "b", "c": "7"}
    assert findings.request_repairs == {"payload_type", "invalid_utf8", "meta_type"}
    assert findings.repairs == {}


def test_a_span_that_cannot_be_read_is_dropped_alone() -> None:
    odd = make_chunk(spans=[make_span(service=7), make_span()])
    [chunk], _, findings = decode({"chunks": [odd]})
    assert len(chunk.spans) == 1
    assert findings.dropped == 1
    assert "chunk 0, span 0: service" in str(findings.first_fault)


def test_texts_and_tags_that_are_repeated_have_a_limit() -> None:
    _, sender, findings = decode(
        {"hostname": "h" * 1000, "tags": {"a": "b", "long": "v" * TAGS_BYTES_MAX, "c": "d"}}
    )
    assert sender.hostname == "h" * 400
    assert sender.tags == {"a": "b"}
    assert findings.request_repairs == {"payload_tags"}


def count_steps(payload: Any) -> int:
    """How often one may stop while a payload is read."""
    return sum(1 for _ in decode_v07(encode(payload), Sender({}), Findings()))


def test_whatever_is_long_is_read_in_steps() -> None:
    long_row = [7] * 50_000
    many_tags = {str(number): "v" for number in range(20_000)}
    for payload in (
        {"chunks": [make_chunk(spans=make_trace(1000))]},
        {"chunks": [None] * 1000},
        {"chunks": [{}] * 1000},
        {"surprise": long_row},
        {"env": long_row},
        {"tags": many_tags},
        {"tags": long_row},
        {"tags": {**many_tags, 1: "odd"}},
        {"chunks": [make_chunk(tags=many_tags)]},
        {"chunks": [make_chunk(origin=long_row, priority=long_row, dropped_trace=long_row)]},
        {"chunks": [make_chunk(surprise=long_row)]},
        {"chunks": [{"spans": [{"span_links": long_row}]}]},
    ):
        assert count_steps(payload) >= 10, payload.keys()


def test_many_steps_give_what_one_gives() -> None:
    odd = [make_span(service=7), make_span(duration="x"), make_span(meta={"a": 1})]
    trace = make_trace(500)
    few, _, first = decode({"chunks": [make_chunk(spans=odd), make_chunk(spans=trace[:5])]})
    many, _, second = decode({"chunks": [make_chunk(spans=odd + trace)] * 2, "odd": [0] * 50_000})
    assert [len(chunk) for chunk in few] == [2, 5]
    assert [len(chunk) for chunk in many] == [502, 502]
    assert [(chunk.priority, chunk.origin, chunk.tags) for chunk in many] == [
        (1, "rum", {"_dd.p.dm": "-1"})
    ] * 2
    assert [span.span_id for span in many[0]][2:] == [span["span_id"] for span in trace]
    assert second.repairs == {reason: 2 * count for reason, count in first.repairs.items()}
    assert (second.spans, second.dropped) == (1006, 2)


def test_of_a_long_map_of_tags_the_first_that_fit_are_kept() -> None:
    tags = {f"{number:05}": "v" * 10 for number in range(20_000)}
    [chunk], sender, findings = decode({"tags": tags, "chunks": [make_chunk(tags=tags)]})
    assert len(chunk.tags) == TAGS_BYTES_MAX // 15
    assert list(chunk.tags.items()) == list(sender.tags.items())
    assert list(chunk.tags.items()) == list(tags.items())[: len(chunk.tags)]
    assert findings.request_repairs == {"payload_tags"}


def test_a_long_map_that_is_no_tags_is_left_out() -> None:
    tags: dict[Any, Any] = {str(number): BROKEN_TEXT for number in range(20_000)}
    [chunk], _, findings = decode({"chunks": [make_chunk(tags={**tags, 1: "odd"})]})
    assert chunk.tags == {}
    assert findings.request_repairs == {"payload_type"}


def test_a_body_that_breaks_off_in_a_later_step_is_refused() -> None:
    body = encode({"chunks": [make_chunk(spans=make_trace(500))] * 3})
    steps = decode_v07(body[:-1], Sender({}), Findings())
    assert next(steps) is None
    with pytest.raises(DecodeError):
        list(steps)


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"\xc1",
        None,
        7,
        {"chunks": 7},
        {"chunks": [7]},
        {"chunks": [{"spans": None}]},
        {"chunks": [{"spans": 7}]},
        {"chunks": [{"spans": [7]}]},
        encode({"chunks": [make_chunk()]})[:-1],
    ],
)
def test_what_is_no_payload_is_refused(payload: Any) -> None:
    with pytest.raises(DecodeError):
        decode(payload)


def test_nothing_is_a_payload() -> None:
    assert decode({})[0] == []
    assert decode({"chunks": None})[0] == []


EXAMPLE = encode({**PAYLOAD, "chunks": [make_chunk(), make_chunk()]})


@settings(deadline=None, max_examples=300)
@given(
    st.lists(st.tuples(st.integers(0, len(EXAMPLE) - 1), st.integers(0, 255)), max_size=4),
    st.integers(0, len(EXAMPLE)),
    st.booleans(),
)
def test_a_damaged_body_is_read_or_refused(
    damage: list[tuple[int, int]], size: int, whole: bool
) -> None:
    body = bytearray(EXAMPLE)
    for index, value in damage:
        body[index] = value
    try:
        chunks, _, findings = decode(bytes(body) if whole else bytes(body[:size]))
    except ProtocolError:
        return
    assert sum(len(chunk.spans) for chunk in chunks) <= findings.spans
