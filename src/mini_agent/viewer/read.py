"""An intake body of traces into rows for the store.

The body is what a delivery would have carried, encoded by the agent itself. Reading it is
tolerant all the same, as protobuf readers are: an unknown field is skipped, a known one of
another wire type too, text that is not UTF-8 gets replacement characters. Only a message that is
cut off or no protobuf at all is refused.

Tags become JSON here, since a span is shown one at a time and seldom: the store need not know
them one by one. Numbers that JSON cannot say (NaN, infinities) become null.
"""

from __future__ import annotations

import msgspec

from mini_agent.traces import fields
from mini_agent.wire.protobuf import LENGTH, double, read_fields, signed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeAlias, TypeVar

    T = TypeVar("T")
    # span_id, parent_id, start_ns, duration_ns, error, service, name, resource, type, and the
    # JSON of meta, metrics, meta_struct, links, events: the store's columns in their order.
    SpanRow: TypeAlias = tuple[
        str, str | None, int, int, int, str, str, str, str,
        str | None, str | None, str | None, str | None, str | None,
    ]  # fmt: skip

# The tag with the high 64 bits of a 128-bit trace id, in hexadecimal.
_HIGH_BITS = "_dd.p.tid"

# A chunk's priority when the tracer sent none. Source: reference-agent 4.3.
_NO_PRIORITY = -128

_I64_MAX = (1 << 63) - 1
_SPAN_FIELDS = fields.Span.SPAN_EVENTS + 1

_STRING, _BOOL, _INT, _DOUBLE, _ARRAY = range(5)

_encode_json = msgspec.json.Encoder().encode


class TracePart:
    """What one body says about one trace.

    Attributes:
        trace_id_low: The low 64 bits of the trace's id, those every span carries.
        trace_id_high: The high ones, zero unless a span told them.
        priority: The sampling priority, or None when the tracer sent none.
        spans: As the rows of the store's table, without the trace.
        services: Of the spans.
    """

    __slots__ = (
        "env",
        "origin",
        "priority",
        "services",
        "spans",
        "trace_id_high",
        "trace_id_low",
    )

    def __init__(self, trace_id_low: int) -> None:
        self.trace_id_low = trace_id_low
        self.trace_id_high = 0
        self.env: str | None = None
        self.origin: str | None = None
        self.priority: int | None = None
        self.spans: list[SpanRow] = []
        self.services: set[str] = set()


def read_payload(body: bytes) -> list[TracePart]:
    """Read an `AgentPayload`: its traces in the order of their first spans.

    Chunks of one trace are gathered into one part; the last one's environment, origin and
    priority hold.

    Raises:
        DecodeError: The body is not protobuf.
    """
    reading = _Reading()
    for field, wire_type, value in read_fields(body):
        if field == fields.AgentPayload.TRACER_PAYLOADS and wire_type == LENGTH:
            reading.read_tracer_payload(_bytes(value))
    return list(reading.parts.values())


class _Reading:
    """One body being read."""

    def __init__(self) -> None:
        self.parts: dict[int, TracePart] = {}
        # Most tags of a body are the same bytes in span after span; each is taken apart once.
        self._text_entries: dict[bytes, tuple[str, str]] = {}
        self._number_entries: dict[bytes, tuple[str, float]] = {}

    def read_tracer_payload(self, message: bytes) -> None:
        # The environment stands behind the chunks it is true of.
        chunks, env = [], ""
        for field, _, value in read_fields(message):
            if field == fields.TracerPayload.CHUNKS:
                chunks.append(_bytes(value))
            elif field == fields.TracerPayload.ENV:
                env = _text(value)
        for chunk in chunks:
            self._read_chunk(chunk, env)

    def _read_chunk(self, message: bytes, env: str) -> None:
        # A priority of zero is not on the wire.
        priority, origin, touched = 0, "", set()
        for field, _, value in read_fields(message):
            if field == fields.TraceChunk.SPANS:
                touched.add(self._read_span(_bytes(value)))
            elif field == fields.TraceChunk.PRIORITY:
                priority = signed(_integer(value))
            elif field == fields.TraceChunk.ORIGIN:
                origin = _text(value)
        for trace_id in touched:
            part = self.parts[trace_id]
            part.env = env or part.env
            part.origin = origin or part.origin
            if priority != _NO_PRIORITY:
                part.priority = priority

    def _read_span(self, message: bytes) -> int:
        single: list[int | bytes | None] = [None] * _SPAN_FIELDS
        meta: dict[str, str] = {}
        metrics: dict[str, float] = {}
        meta_struct: dict[str, bytes] = {}
        links: list[dict[str, object]] = []
        events: list[dict[str, object]] = []
        for field, _, value in read_fields(message):
            if field == fields.Span.META:
                name, text = _entry(_bytes(value), _text, self._text_entries)
                meta[name] = text
            elif field == fields.Span.METRICS:
                name, number = _entry(_bytes(value), _number, self._number_entries)
                metrics[name] = number
            elif field == fields.Span.META_STRUCT:
                name, packed = _entry(_bytes(value), _bytes, {})
                meta_struct[name] = packed
            elif field == fields.Span.SPAN_LINKS:
                links.append(_read_link(_bytes(value)))
            elif field == fields.Span.SPAN_EVENTS:
                events.append(_read_event(_bytes(value)))
            elif field < _SPAN_FIELDS:
                single[field] = value
        trace_id = _integer(single[fields.Span.TRACE_ID])
        part = self.parts.get(trace_id)
        if part is None:
            part = self.parts[trace_id] = TracePart(trace_id)
        part.trace_id_high = _high_bits(meta) or part.trace_id_high
        service = _text(single[fields.Span.SERVICE])
        part.services.add(service)
        parent_id = _integer(single[fields.Span.PARENT_ID])
        part.spans.append(
            (
                f"{_integer(single[fields.Span.SPAN_ID]):016x}",
                f"{parent_id:016x}" if parent_id else None,
                *_times(single[fields.Span.START], single[fields.Span.DURATION]),
                signed(_integer(single[fields.Span.ERROR])),
                service,
                _text(single[fields.Span.NAME]),
                _text(single[fields.Span.RESOURCE]),
                _text(single[fields.Span.TYPE]),
                _json(meta),
                _json(metrics),
                _json(meta_struct),
                _json(links),
                _json(events),
            )
        )
        return trace_id


def _read_link(message: bytes) -> dict[str, object]:
    low = high = span_id = flags = 0
    tracestate = ""
    attributes: dict[str, str] = {}
    for field, _, value in read_fields(message):
        if field == fields.SpanLink.TRACE_ID:
            low = _integer(value)
        elif field == fields.SpanLink.TRACE_ID_HIGH:
            high = _integer(value)
        elif field == fields.SpanLink.SPAN_ID:
            span_id = _integer(value)
        elif field == fields.SpanLink.ATTRIBUTES:
            name, text = _entry(_bytes(value), _text, {})
            attributes[name] = text
        elif field == fields.SpanLink.TRACESTATE:
            tracestate = _text(value)
        elif field == fields.SpanLink.FLAGS:
            flags = _integer(value)
    return {
        "trace_id": f"{high:016x}{low:016x}",
        "span_id": f"{span_id:016x}",
        "attributes": attributes,
        "tracestate": tracestate,
        "flags": flags,
    }


def _read_event(message: bytes) -> dict[str, object]:
    time_ns, event_name = 0, ""
    attributes: dict[str, object] = {}
    for field, _, value in read_fields(message):
        if field == fields.SpanEvent.TIME_UNIX_NANO:
            time_ns = _integer(value)
        elif field == fields.SpanEvent.NAME:
            event_name = _text(value)
        elif field == fields.SpanEvent.ATTRIBUTES:
            name, attribute = _entry(_bytes(value), _attribute, {})
            attributes[name] = attribute
    return {"time_ns": time_ns, "name": event_name, "attributes": attributes}


def _attribute(value: int | bytes | None) -> object:
    """The value of an event's attribute, from its message."""
    kind, single = _choices(_bytes(value))
    if kind != _ARRAY:
        return _one_of(kind, single)
    array = _bytes(single.get(fields.AttributeValue.ARRAY))
    # Items hold no further arrays; one that says so reads as empty text.
    return [
        _one_of(*_choices(_bytes(item)))
        for field, _, item in read_fields(array)
        if field == fields.AttributeArray.VALUES
    ]


def _choices(message: bytes) -> tuple[int, dict[int, int | bytes]]:
    kind = _STRING
    single = {}
    for field, _, value in read_fields(message):
        if field == fields.AttributeValue.TYPE:
            kind = _integer(value)
        else:
            single[field] = value
    return kind, single


def _one_of(kind: int, single: dict[int, int | bytes]) -> object:
    if kind == _BOOL:
        return bool(_integer(single.get(fields.AttributeValue.BOOL)))
    if kind == _INT:
        return signed(_integer(single.get(fields.AttributeValue.INT)))
    if kind == _DOUBLE:
        return _number(single.get(fields.AttributeValue.DOUBLE))
    return _text(single.get(fields.AttributeValue.STRING))


def _entry(
    message: bytes, read_value: Callable[[int | bytes | None], T], known: dict[bytes, tuple[str, T]]
) -> tuple[str, T]:
    """Name and value of a map's entry."""
    entry = known.get(message)
    if entry is None:
        name: int | bytes | None = None
        value: int | bytes | None = None
        for field, _, part in read_fields(message):
            if field == fields.MapEntry.KEY:
                name = part
            elif field == fields.MapEntry.VALUE:
                value = part
        entry = known[message] = (_text(name), read_value(value))
    return entry


def _high_bits(meta: dict[str, str]) -> int:
    digits = meta.get(_HIGH_BITS, "")
    # Nothing but digits: int() would also take a sign, spaces and underscores.
    if len(digits) != 16 or digits.strip("0123456789abcdefABCDEF"):
        return 0
    return int(digits, 16)


def _times(start: int | bytes | None, duration: int | bytes | None) -> tuple[int, int]:
    """Start and duration such that the end is a number of 64 bits too."""
    start_ns = signed(_integer(start))
    duration_ns = max(0, signed(_integer(duration)))
    return start_ns, duration_ns if start_ns + duration_ns <= _I64_MAX else 0


def _json(value: dict[str, T] | list[T]) -> str | None:
    return _encode_json(value).decode() if value else None


def _bytes(value: int | bytes | None) -> bytes:
    return value if isinstance(value, bytes) else b""


def _text(value: int | bytes | None) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else ""


def _integer(value: int | bytes | None) -> int:
    return value if isinstance(value, int) else 0


def _number(value: int | bytes | None) -> float:
    return double(value) if isinstance(value, int) else 0.0
