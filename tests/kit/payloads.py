"""Trace payloads as tracers send them (v0.4, MessagePack), for everybody's tests.

`make_span` gives one span as a dict with the wire's keys; overrides replace or add keys, and a
key set to MISSING is left out. Ids are distinct within a test run, so that a test can ask which
spans arrived.

Odd values go in as overrides: BROKEN_TEXT, `raw(...)` for bytes of one's own, msgspec's Ext, and
`as_array` for a span that is sent as an array.
"""

from __future__ import annotations

import itertools
from typing import Any

import msgspec

Json = dict[str, Any]

MISSING = object()
START_NS = 1_790_000_000_000_000_000

SPAN_KEYS = (
    "service",
    "name",
    "resource",
    "trace_id",
    "span_id",
    "parent_id",
    "start",
    "duration",
    "error",
    "meta",
    "metrics",
    "type",
    "meta_struct",
    "span_links",
    "span_events",
)

_U64 = (1 << 64) - 1
_sequence = itertools.count(1)


def next_id() -> int:
    """A fresh id of 64 bits, never zero; the multiplier is odd, so none comes twice."""
    return next(_sequence) * 0x9E3779B97F4A7C15 & _U64


def make_span(**overrides: Any) -> Json:
    """A web request's span of about 500 bytes once encoded, a root unless parent_id is given."""
    number = next(_sequence)
    span: Json = {
        "name": "flask.request",
        "service": "checkout-api",
        "resource": f"GET /api/v1/orders/{number % 50}",
        "type": "web",
        "trace_id": next_id(),
        "span_id": next_id(),
        "parent_id": 0,
        "start": START_NS + number * 1_000_003,
        "duration": 1_250_000 + number * 137,
        "error": 0,
        "meta": {
            "env": "prod",
            "version": "1.4.2",
            "runtime-id": "0f9d1c1c4a1e4b7f9e3c5a8b2d6f7e10",
            "language": "python",
            "component": "flask",
            "span.kind": "server",
            "http.method": "GET",
            "http.status_code": "200",
            "http.url": f"https://shop.example.com/api/v1/orders/{number}",
            "http.useragent": "Mozilla/5.0 (X11; Linux x86_64)",
        },
        "metrics": {"_dd.top_level": 1, "_sampling_priority_v1": 1, "process_id": 42.0},
    }
    span.update(overrides)
    return {key: value for key, value in span.items() if value is not MISSING}


def make_trace(spans: int = 1, **overrides: Any) -> list[Json]:
    """One root and its children, all of one trace id."""
    root = make_span(**overrides)
    shared = {"trace_id": root.get("trace_id"), "parent_id": root.get("span_id"), **overrides}
    return [root, *(make_span(**shared) for _ in range(spans - 1))]


def make_traces(traces: int = 1, spans_each: int = 1, **overrides: Any) -> list[list[Json]]:
    """Several traces; keep them to know which ids were sent."""
    return [make_trace(spans_each, **overrides) for _ in range(traces)]


def make_payload(traces: int = 1, spans_each: int = 1, **overrides: Any) -> bytes:
    """The body of one v0.4 request."""
    return encode(make_traces(traces, spans_each, **overrides))


def encode(value: Any) -> bytes:
    """Any plain value as MessagePack."""
    return msgspec.msgpack.encode(value)


def raw(encoded: bytes) -> msgspec.Raw:
    """Bytes that are put into a payload as they are."""
    return msgspec.Raw(encoded)


# A string of four bytes that is not UTF-8; "a\ufffdb\ufffd" once mended.
BROKEN_TEXT = raw(b"\xa4a\xffb\xc3")
MENDED_TEXT = "a\ufffdb\ufffd"


def as_array(span: Json, length: int = len(SPAN_KEYS)) -> list[Any]:
    """A span as the array of its first values; missing ones are nil."""
    return [span.get(key) for key in SPAN_KEYS[:length]]


def span_ids(traces: list[list[Json]]) -> set[int]:
    """The ids of all spans in traces of ours."""
    return {span["span_id"] for trace in traces for span in trace}
