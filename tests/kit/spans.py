"""Spans as plain values with the wire's keys, to hold what was sent against what arrived.

Both sides get every key: what a tracer leaves out and what protobuf leaves out is the default.
Numbers compare by value, so 1 and 1.0 are the same metric.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

_TEXTS = ("service", "name", "resource", "type")
_NUMBERS = ("trace_id", "span_id", "parent_id", "start", "duration", "error")
_MAPS = ("meta", "metrics", "meta_struct")

# Which key holds the value of an attribute of which type.
_VALUE_KEYS = ("string_value", "bool_value", "int_value", "double_value")
_ARRAY = 4


def from_wire(sent: Mapping[str, Any]) -> dict[str, Any]:
    """A span as a tracer sent it, decoded from MessagePack, with every key."""
    return {
        **{key: sent.get(key) or "" for key in _TEXTS},
        **{key: sent.get(key) or 0 for key in _NUMBERS},
        **{key: dict(sent.get(key) or {}) for key in _MAPS},
        "span_links": [
            {
                "trace_id": link["trace_id"],
                "trace_id_high": link.get("trace_id_high") or 0,
                "span_id": link["span_id"],
                "attributes": dict(link.get("attributes") or {}),
                "tracestate": link.get("tracestate") or "",
                "flags": link.get("flags") or 0,
            }
            for link in sent.get("span_links") or ()
        ],
        "span_events": [
            {
                "time_unix_nano": event.get("time_unix_nano") or 0,
                "name": event.get("name") or "",
                "attributes": dict(event.get("attributes") or {}),
            }
            for event in sent.get("span_events") or ()
        ],
    }


def from_proto(span: Any) -> dict[str, Any]:
    """A decoded protobuf span with the same keys."""
    return {
        "service": span.service,
        "name": span.name,
        "resource": span.resource,
        "type": span.type,
        "trace_id": span.traceID,
        "span_id": span.spanID,
        "parent_id": span.parentID,
        "start": span.start,
        "duration": span.duration,
        "error": span.error,
        "meta": dict(span.meta),
        "metrics": dict(span.metrics),
        "meta_struct": dict(span.meta_struct),
        "span_links": [
            {
                "trace_id": link.traceID,
                "trace_id_high": link.traceID_high,
                "span_id": link.spanID,
                "attributes": dict(link.attributes),
                "tracestate": link.tracestate,
                "flags": link.flags,
            }
            for link in span.spanLinks
        ],
        "span_events": [
            {
                "time_unix_nano": event.time_unix_nano,
                "name": event.name,
                "attributes": {key: _attribute(value) for key, value in event.attributes.items()},
            }
            for event in span.spanEvents
        ],
    }


def differences(sent: Mapping[str, Any], arrived: Mapping[str, Any]) -> dict[str, Any]:
    """What differs between two such spans: key, or "meta.key" and the like -> (sent, arrived).

    An entry of a map that only one side has is None on the other.
    """
    found: dict[str, Any] = {}
    for key in (*_TEXTS, *_NUMBERS, "span_links", "span_events"):
        if sent[key] != arrived[key]:
            found[key] = (sent[key], arrived[key])
    for key in _MAPS:
        for entry in {*sent[key], *arrived[key]}:
            pair = (sent[key].get(entry), arrived[key].get(entry))
            if pair[0] != pair[1]:
                found[f"{key}.{entry}"] = pair
    return found


def by_id(spans: Iterable[Any], read: Callable[[Any], dict[str, Any]]) -> dict[int, dict[str, Any]]:
    """Read spans and key them by their id, of which there must be no two alike."""
    keyed: dict[int, dict[str, Any]] = {}
    for span in map(read, spans):
        assert span["span_id"] not in keyed, f"span {span['span_id']} is there twice"
        keyed[span["span_id"]] = span
    return keyed


def _attribute(value: Any) -> dict[str, Any]:
    if value.type == _ARRAY:
        values = [_attribute(item) for item in value.array_value.values]
        return {"type": _ARRAY, "array_value": {"values": values}}
    key = _VALUE_KEYS[value.type]
    return {"type": value.type, key: getattr(value, key)}
