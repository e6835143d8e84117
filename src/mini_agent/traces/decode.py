"""Trace payloads into spans: v0.4, an array of traces, each an array of spans, in MessagePack.

The body is walked once and checked on the way. A span with a wrong field is dropped alone. Only
a body that is not MessagePack, or has another outer shape, is refused.

Traces come one at a time, so that only one trace's spans live at once. None comes where a long
trace, or a long row of empty ones, may be left for a while.

Source: reference-agent 4.1; the differences are in docs/differences.md.
"""

from __future__ import annotations

from mini_agent.traces.express import read_trace
from mini_agent.traces.lenient import (
    I32_MAX,
    I32_MIN,
    I64_MAX,
    I64_MIN,
    TAGS_A_STEP,
    U64_MAX,
    Findings,
    attempt,
    fill,
    fill_in_steps,
    in_lots,
    read_duration,
    read_integer,
    read_key,
    read_list,
    read_metric,
    read_tags,
    read_text,
    read_text_map,
)
from mini_agent.traces.span import (
    BOOL,
    DOUBLE,
    INT,
    OBJECTS_A_STEP,
    SPANS_A_STEP,
    AttributeValue,
    Span,
    SpanEvent,
    SpanLink,
    TraceChunk,
)
from mini_agent.wire import msgpack
from mini_agent.wire.msgpack import Reader, WrongType

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator
    from typing import TypeVar

    from mini_agent.traces.lenient import Fields
    from mini_agent.traces.orderly import Orderly

    Result = TypeVar("Result")
    # Fills a span, or raises WrongType; one that takes long gives its steps.
    ReadSpan = Callable[[Span, Reader, Findings], Iterator[None] | None]
    ReadTrace = Callable[[Reader, Findings], TraceChunk | None]
    # A trace in steps; None when it has no span that can be read.
    Steps = Generator[None, None, TraceChunk | None]
    BeginOrderly = Callable[[bytes, int, int], Orderly]

_U32_MAX = (1 << 32) - 1

# Of a structure that is sent as an array of its bytes, so many take less than a millisecond.
OCTETS_A_STEP = 2000

# Stands for an id that was not sent, which differs from one that was sent as nil.
_MISSING = -1


def decode_v04(body: bytes, findings: Findings) -> Iterator[TraceChunk | None]:
    """The traces of a v0.4 payload, one at a time, without those that hold no readable span.

    None between them is a place to stop for a while.

    Args:
        findings: Filled on the way; complete when the iteration has ended.

    Raises:
        DecodeError: The body is no payload, or no span of it can be read.
        ProtocolError: It holds more than a payload may.
    """
    return read_traces(Reader(body), findings, read_span, read_trace, begin_orderly)


def read_traces(
    reader: Reader,
    findings: Findings,
    read: ReadSpan,
    express: ReadTrace,
    begin_orderly: BeginOrderly,
) -> Iterator[TraceChunk | None]:
    """The traces of an array of them, one at a time; the same for every dialect but v0.7.

    None between them is a place to stop for a while.

    Args:
        read: Reads one span, or raises WrongType.
        express: Begins to read a whole trace that is in order, or gives None.
        begin_orderly: Gives what does the same for the traces that `express` left.
    """
    start = reader.offset
    trace_count = reader.read_array()
    if trace_count is None:
        raise WrongType("an array of traces", "nil", start)
    orderly: Orderly | None = None
    for trace_index in range(trace_count):
        chunk = express(reader, findings)
        if chunk is None or chunk.unread:
            if chunk is not None:
                chunk = yield from finish(chunk, reader, findings)
            if chunk is None:
                if orderly is None:
                    orderly = begin_orderly(reader.body, start, trace_count)
                chunk = yield from orderly.read_trace(trace_index, reader, findings)
            if chunk is None:
                chunk = yield from read_spans(reader, findings, read, "trace", trace_index)
        if chunk is not None or trace_index % SPANS_A_STEP == SPANS_A_STEP - 1:
            yield chunk
    findings.raise_if_all_failed()


def finish(chunk: TraceChunk, reader: Reader, findings: Findings) -> Steps:
    """Read the rest of a long trace; None when it is not in order after all."""
    while chunk.unread:
        yield None
        if not chunk.read_on(reader, findings):
            return None
    return chunk


def at_once(steps: Generator[None, None, Result]) -> Result:
    """What steps come to, where nobody is kept waiting."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            result: Result = end.value
            return result


def begin_orderly(body: bytes, start: int, count: int) -> Orderly:
    """What reads the traces in order, see there."""
    # Imported here: where the express lane is built, hardly any trace comes here.
    from mini_agent.traces.orderly import Orderly

    return Orderly(body, start, count)


def read_spans(reader: Reader, findings: Findings, read: ReadSpan, word: str, index: int) -> Steps:
    """The spans of one trace that can be read; None when there are none.

    Args:
        word, index: What the trace is called in a message.
    """
    start = reader.offset
    try:
        count = reader.read_array()
    except WrongType as fault:
        raise fault.inside(f"{word} {index}") from None
    if count is None:
        raise WrongType("an array of spans", "nil", start, (f"{word} {index}",))
    findings.begin_trace(count)
    spans = []
    objects_max = findings.objects + OBJECTS_A_STEP
    for span_index in range(count):
        start = reader.offset
        span = Span()
        try:
            steps = read(span, reader, findings)
            if steps is not None:
                yield from steps
        except WrongType as fault:
            findings.drop_span(fault.inside(f"{word} {index}, span {span_index}"))
            reader.offset = start
            yield from reader.skip_in_steps() or ()
        else:
            findings.take_span()
            spans.append(span)
        if span_index % SPANS_A_STEP == SPANS_A_STEP - 1 or findings.objects >= objects_max:
            yield None
            objects_max = findings.objects + OBJECTS_A_STEP
    return TraceChunk(spans) if spans else None


def read_span(span: Span, reader: Reader, findings: Findings) -> Iterator[None] | None:
    """One span of v0.4 or v0.7; what is left to do of a large one is given as steps."""
    return fill_in_steps(span, SPAN_FIELDS, reader, findings)


def _read_service(reader: Reader, span: Span, findings: Findings) -> None:
    span.service = read_text(reader, findings)


def _read_name(reader: Reader, span: Span, findings: Findings) -> None:
    span.name = read_text(reader, findings)


def _read_resource(reader: Reader, span: Span, findings: Findings) -> None:
    span.resource = read_text(reader, findings)


def _read_type(reader: Reader, span: Span, findings: Findings) -> None:
    span.type = read_text(reader, findings)


def _read_trace_id(reader: Reader, target: Span | SpanLink, findings: Findings) -> None:
    target.trace_id = read_integer(reader, 0, U64_MAX)


def _read_span_id(reader: Reader, target: Span | SpanLink, findings: Findings) -> None:
    target.span_id = read_integer(reader, 0, U64_MAX)


def _read_parent_id(reader: Reader, span: Span, findings: Findings) -> None:
    span.parent_id = read_integer(reader, 0, U64_MAX)


def _read_start(reader: Reader, span: Span, findings: Findings) -> None:
    span.start = read_integer(reader, I64_MIN, I64_MAX)


def _read_duration(reader: Reader, span: Span, findings: Findings) -> None:
    span.duration = read_duration(reader, findings)


def _read_error(reader: Reader, span: Span, findings: Findings) -> None:
    span.error = read_integer(reader, I32_MIN, I32_MAX)


def _read_meta(reader: Reader, span: Span, findings: Findings) -> Iterator[None] | None:
    count = reader.read_map() or 0
    findings.hold_tags(count)
    tags: dict[str, str] = {}
    span.meta = tags
    return in_lots(
        count, TAGS_A_STEP, lambda number: tags.update(read_tags(number, reader, findings))
    )


def _read_metrics(reader: Reader, span: Span, findings: Findings) -> Iterator[None] | None:
    metrics: dict[str, float] = {}
    span.metrics = metrics
    count = reader.read_map() or 0
    findings.hold_tags(count)

    def read(number: int) -> None:
        for _ in range(number):
            key = read_key(reader, findings)
            value = read_metric(reader, findings)
            if value is not None:
                metrics[key] = value

    return in_lots(count, TAGS_A_STEP, read)


def _read_meta_struct(reader: Reader, span: Span, findings: Findings) -> Iterator[None]:
    structures: dict[str, bytes] = {}
    span.meta_struct = structures
    count = reader.read_map() or 0
    findings.hold_tags(count)
    for _ in range(count):
        yield None
        key = read_key(reader, findings)
        if reader.kind() == msgpack.ARRAY:
            structures[key] = yield from _read_octets(reader)
        else:
            structure = reader.read_binary()
            if structure is not None:
                structures[key] = structure


def _read_octets(reader: Reader) -> Generator[None, None, bytes]:
    octets = bytearray()

    def read(number: int) -> None:
        octets.extend([read_integer(reader, 0, 0xFF) for _ in range(number)])

    yield from in_lots(reader.read_array() or 0, OCTETS_A_STEP, read) or ()
    return bytes(octets)


def _read_links(reader: Reader, span: Span, findings: Findings) -> Iterator[None] | None:
    links: list[SpanLink] = []
    span.links = links
    return read_list(links, _read_link, "link_type", reader, findings)


def _read_events(reader: Reader, span: Span, findings: Findings) -> Iterator[None] | None:
    events: list[SpanEvent] = []
    span.events = events
    return read_list(events, _read_event, "event_type", reader, findings)


# The order is that of a span sent as an array.
SPAN_FIELDS: Fields[Span] = {
    b"service": _read_service,
    b"name": _read_name,
    b"resource": _read_resource,
    b"trace_id": _read_trace_id,
    b"span_id": _read_span_id,
    b"parent_id": _read_parent_id,
    b"start": _read_start,
    b"duration": _read_duration,
    b"error": _read_error,
    b"meta": _read_meta,
    b"metrics": _read_metrics,
    b"type": _read_type,
    b"meta_struct": _read_meta_struct,
    b"span_links": _read_links,
    b"span_events": _read_events,
}


def _read_link(reader: Reader, findings: Findings) -> SpanLink:
    start = reader.offset
    link = SpanLink()
    link.trace_id = link.span_id = _MISSING
    fill(link, _LINK_FIELDS, reader, findings)
    if _MISSING in (link.trace_id, link.span_id):
        raise WrongType("a link with trace_id and span_id", "one without", start)
    return link


def _read_trace_id_high(reader: Reader, link: SpanLink, findings: Findings) -> None:
    link.trace_id_high = read_integer(reader, 0, U64_MAX)


def _read_link_attributes(reader: Reader, link: SpanLink, findings: Findings) -> None:
    link.attributes = read_text_map(reader, findings)


def _read_tracestate(reader: Reader, link: SpanLink, findings: Findings) -> None:
    link.tracestate = read_text(reader, findings)


def _read_flags(reader: Reader, link: SpanLink, findings: Findings) -> None:
    link.flags = read_integer(reader, 0, _U32_MAX)


_LINK_FIELDS: Fields[SpanLink] = {
    b"trace_id": _read_trace_id,
    b"trace_id_high": _read_trace_id_high,
    b"span_id": _read_span_id,
    b"attributes": _read_link_attributes,
    b"tracestate": _read_tracestate,
    b"flags": _read_flags,
}


def _read_event(reader: Reader, findings: Findings) -> SpanEvent:
    event = SpanEvent()
    fill(event, _EVENT_FIELDS, reader, findings)
    return event


def _read_time(reader: Reader, event: SpanEvent, findings: Findings) -> None:
    start = reader.offset
    if reader.kind() != msgpack.FLOAT:
        event.time_unix_nano = read_integer(reader, 0, U64_MAX)
        return
    # dd-trace sends its native events so; JavaScript's numbers are floats.
    time = reader.read_number() or 0.0
    if not 0 <= time < 2.0**64:
        raise WrongType("a time", "a float out of range", start)
    event.time_unix_nano = int(time)


def _read_event_name(reader: Reader, event: SpanEvent, findings: Findings) -> None:
    event.name = read_text(reader, findings)


def _read_event_attributes(reader: Reader, event: SpanEvent, findings: Findings) -> None:
    event.attributes = {}
    count = reader.read_map() or 0
    findings.hold_objects(count)
    for _ in range(count):
        key = read_key(reader, findings)
        attribute = attempt(_read_attribute, "event_type", reader, findings)
        if attribute is not None:
            event.attributes[key] = attribute


_EVENT_FIELDS: Fields[SpanEvent] = {
    b"time_unix_nano": _read_time,
    b"name": _read_event_name,
    b"attributes": _read_event_attributes,
}


def _read_attribute(reader: Reader, findings: Findings) -> AttributeValue:
    return _attribute(_ATTRIBUTE_FIELDS, reader, findings)


def _read_item(reader: Reader, findings: Findings) -> AttributeValue:
    return _attribute(_ITEM_FIELDS, reader, findings)


def _attribute(
    fields: Fields[AttributeValue], reader: Reader, findings: Findings
) -> AttributeValue:
    """A typed value, or a plain one that shows its type."""
    kind = reader.kind()
    attribute = AttributeValue()
    if kind in (msgpack.STRING, msgpack.BINARY):
        _read_string_value(reader, attribute, findings)
    elif kind == msgpack.BOOLEAN:
        attribute.type = BOOL
        _read_bool_value(reader, attribute, findings)
    elif kind == msgpack.INTEGER:
        attribute.type = INT
        _read_int_value(reader, attribute, findings)
    elif kind == msgpack.FLOAT:
        attribute.type = DOUBLE
        _read_double_value(reader, attribute, findings)
    else:
        fill(attribute, fields, reader, findings)
    return attribute


def _read_attribute_type(reader: Reader, attribute: AttributeValue, findings: Findings) -> None:
    attribute.type = read_integer(reader, I32_MIN, I32_MAX)


def _read_string_value(reader: Reader, attribute: AttributeValue, findings: Findings) -> None:
    attribute.string_value = read_text(reader, findings)


def _read_bool_value(reader: Reader, attribute: AttributeValue, findings: Findings) -> None:
    attribute.bool_value = reader.read_boolean() or False


def _read_int_value(reader: Reader, attribute: AttributeValue, findings: Findings) -> None:
    attribute.int_value = read_integer(reader, I64_MIN, I64_MAX)


def _read_double_value(reader: Reader, attribute: AttributeValue, findings: Findings) -> None:
    value = reader.read_number()
    attribute.double_value = 0.0 if value is None else value


def _read_array_value(reader: Reader, attribute: AttributeValue, findings: Findings) -> None:
    if reader.kind() == msgpack.NIL:
        reader.skip()
        attribute.array_value = None
        return
    attribute.array_value = []
    fill(attribute, _ARRAY_FIELDS, reader, findings)


def _read_values(
    reader: Reader, attribute: AttributeValue, findings: Findings
) -> Iterator[None] | None:
    items: list[AttributeValue] = []
    attribute.array_value = items
    return read_list(items, _read_item, "event_type", reader, findings)


_ITEM_FIELDS: Fields[AttributeValue] = {
    b"type": _read_attribute_type,
    b"string_value": _read_string_value,
    b"bool_value": _read_bool_value,
    b"int_value": _read_int_value,
    b"double_value": _read_double_value,
}
_ATTRIBUTE_FIELDS: Fields[AttributeValue] = {**_ITEM_FIELDS, b"array_value": _read_array_value}
_ARRAY_FIELDS: Fields[AttributeValue] = {b"values": _read_values}
