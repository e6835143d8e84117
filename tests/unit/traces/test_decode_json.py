from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kit.payloads import encode, make_span, make_traces

from mini_agent.errors import DecodeError, ProtocolError
from mini_agent.traces.decode import decode_v04
from mini_agent.traces.decode_json import JSON_BYTES_MAX, decode_json, is_json
from mini_agent.traces.lenient import Findings
from mini_agent.traces.span import Span


def decode(document: Any) -> tuple[list[list[Span]], Findings]:
    findings = Findings()
    body = document if isinstance(document, bytes) else json.dumps(document).encode()
    return list(decode_json(body, findings)), findings


def fields(span: Span) -> dict[str, Any]:
    plain = set(Span.__slots__) - {"meta", "metrics"}
    tags = {"meta": dict(span.meta_items()), "metrics": dict(span.metric_items())}
    return {**tags, **{name: getattr(span, name) for name in plain}}


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b"[]", True),
        (b" \r\n\t[[", True),
        (b"{}", True),
        (b"", False),
        (b"\x90", False),
        (encode(make_traces(1, 1)), False),
        (b"\xdc\x00\x10[", False),
        (b"null", False),
    ],
)
def test_json_is_known_by_its_first_byte(body: bytes, expected: bool) -> None:
    assert is_json(body) is expected


def test_a_payload_says_the_same_as_in_messagepack() -> None:
    traces = make_traces(3, 2, error=1)
    written, _ = decode(traces)
    plain = list(decode_v04(encode(traces), Findings()))
    assert [list(map(fields, trace)) for trace in written] == [
        list(map(fields, trace)) for trace in plain
    ]


def test_ids_have_64_bits() -> None:
    [[span]], _ = decode([[make_span(trace_id=2**64 - 1, start=-(2**63))]])
    assert (span.trace_id, span.start) == (2**64 - 1, -(2**63))


@pytest.mark.parametrize("number", [2**64, -(2**63) - 1, "long", 1.5, "7", True])
def test_a_span_that_cannot_be_read_is_dropped_alone(number: Any) -> None:
    # More digits than Python writes by itself.
    trace_id = "1" + "0" * 5000 if number == "long" else json.dumps(number)
    odd = '{"trace_id": ' + trace_id + "}"
    [[span]], findings = decode(f"[[{odd}, {json.dumps(make_span())}]]".encode())
    assert span.service == "checkout-api"
    assert findings.dropped == 1


def test_text_that_is_not_utf8_is_mended() -> None:
    [[span]], findings = decode(b'[[{"service": "a\xff"}]]')
    assert span.service == "a\ufffd"
    assert findings.request_repairs == {"invalid_utf8"}


@pytest.mark.parametrize(
    "body",
    [
        b"[",
        b"{}",
        b"[{}]",
        b"[[7]]",
        b"[NaN]",
        b"[[]] more",
        b'[["\\ud800"]]',
        b"[" * 100_000,
        b"[" * 900 + b"]" * 900,
    ],
)
def test_what_is_no_payload_is_refused(body: bytes) -> None:
    with pytest.raises(DecodeError) as caught:
        decode(body)
    assert caught.value.status == 400


def test_json_has_a_limit_of_its_own() -> None:
    with pytest.raises(ProtocolError) as caught:
        decode(b"[" + b" " * JSON_BYTES_MAX + b"]")
    assert (caught.value.status, caught.value.reason) == (413, "json_too_large")


@settings(deadline=None)
@given(st.text(alphabet='[]{}",:0123456789eE+-.ntfaulrse\\u ', max_size=60))
def test_any_text_is_read_or_refused(text: str) -> None:
    with contextlib.suppress(DecodeError):
        decode(text.encode())
