"""Spans into what the intake takes: fragments of an `AgentPayload`, each within its limit.

A chunk is encoded as soon as its rules have run; from then on it is bytes, one string for each
span. When the request is complete, chunks that agree on environment, version, host and runtime
share a `TracerPayload`, and each payload is cut where the intake's limit demands it: between
chunks, else between the spans of a chunk. Every size is known before a frame is written, so
nothing is encoded twice.

Source: reference-agent 4.7 and 4.9. The reference takes those four values from the first trace
that has them and applies them to the whole request (11, 38); here a chunk's own values come
first.
"""

from __future__ import annotations

from itertools import chain, islice

from mini_agent.forward.payload import Record
from mini_agent.traces import fields
from mini_agent.wire.protobuf import (
    FIXED64,
    LENGTH,
    VARINT,
    bytes_field,
    double_field,
    encode_text,
    integer_field,
    pack_double,
    pack_fixed64,
    read_varint,
    tag,
    text_field,
    text_map_field,
    varint,
    varint_bytes,
    varints,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence

    from mini_agent.traces.sender import Sender
    from mini_agent.traces.span import AttributeValue, Span, SpanEvent, SpanLink, TraceChunk

    Bytes = bytes | memoryview
    # The tags of a span, and its rare fields.
    Large = tuple[bytes, bytes]

# What the reference tells the intake about its samplers. Source: reference-agent 4.9.
_TARGET_TPS = _ERROR_TPS = 60.0

# Opens the body of every request to the intake.
AGENT_PAYLOAD_PREFIX = double_field(fields.AgentPayload.TARGET_TPS, _TARGET_TPS) + double_field(
    fields.AgentPayload.ERROR_TPS, _ERROR_TPS
)

# Texts that are repeated in the frame of every payload or chunk are cut to this: together they
# stay below a hundredth of the intake's limit. The longest the intake keeps of a tag has 200
# characters. Source: Datadog's documentation on tags.
FRAME_TEXT_CHARACTERS_MAX = 400

# How many fields are encoded, or measured, between two places to stop at: the chunks of a request
# that is several records, the spans of a chunk that is, the tags, links or events of a span.
FIELDS_A_STEP = 500

# Further groups of one request join its first one. A tracer is one program on one host: it has
# one group, a proxy for several programs a few.
GROUPS_MAX = 64

# The tags a payload is grouped by, in the order of a group's key.
_GROUP_TAGS = ("env", "version", "_dd.hostname", "runtime-id")

_SERVICE = tag(fields.Span.SERVICE, LENGTH)
_NAME = tag(fields.Span.NAME, LENGTH)
_RESOURCE = tag(fields.Span.RESOURCE, LENGTH)
_TRACE_ID = tag(fields.Span.TRACE_ID, VARINT)
_SPAN_ID = tag(fields.Span.SPAN_ID, VARINT)
_PARENT_ID = tag(fields.Span.PARENT_ID, VARINT)
_START = tag(fields.Span.START, VARINT)
_DURATION = tag(fields.Span.DURATION, VARINT)
_ERROR = tag(fields.Span.ERROR, VARINT)
_META = tag(fields.Span.META, LENGTH)
_METRICS = tag(fields.Span.METRICS, LENGTH)
_TYPE = tag(fields.Span.TYPE, LENGTH)
_PAYLOAD = tag(fields.AgentPayload.TRACER_PAYLOADS, LENGTH)
_CHUNK = tag(fields.TracerPayload.CHUNKS, LENGTH)
_CHUNK_SPAN = tag(fields.TraceChunk.SPANS, LENGTH)
_KEY = tag(fields.MapEntry.KEY, LENGTH)
_VALUE = tag(fields.MapEntry.VALUE, LENGTH)
_DOUBLE_VALUE = tag(fields.MapEntry.VALUE, FIXED64)

# Nearly all texts and tags of spans come again and again: their fields are remembered. Of each
# kind so many, and each no longer than this: one megabyte at most. When somebody makes them up,
# the memory starts anew.
REMEMBERED_MAX = 2048
_REMEMBERED_BYTES_MAX = 256


class _TextFields(dict[str, bytes]):
    """A text field by its text."""

    def __init__(self, opening: bytes) -> None:
        self._opening = opening

    def __missing__(self, text: str) -> bytes:
        encoded = encode_text(text)
        field = b"".join((self._opening, varint(len(encoded)), encoded)) if encoded else b""
        if len(field) <= _REMEMBERED_BYTES_MAX:
            if len(self) >= REMEMBERED_MAX:
                self.clear()
            self[text] = field
        return field


class _MetaFields(dict[tuple[str, str], bytes]):
    """The field of a tag by its name and text."""

    def __missing__(self, item: tuple[str, str]) -> bytes:
        key, value = encode_text(item[0]), encode_text(item[1])
        entry = b"".join((_KEY, varint(len(key)), key, _VALUE, varint(len(value)), value))
        field = b"".join((_META, varint(len(entry)), entry))
        if len(field) <= _REMEMBERED_BYTES_MAX:
            if len(self) >= REMEMBERED_MAX:
                self.clear()
            self[item] = field
        return field


class _MetricFields(dict[tuple[str, float], bytes]):
    """The field of a numeric tag by its name and number."""

    def __missing__(self, item: tuple[str, float]) -> bytes:
        key, number = encode_text(item[0]), item[1]
        entry = b"".join((_KEY, varint(len(key)), key, _DOUBLE_VALUE, pack_double(number)))
        field = b"".join((_METRICS, varint(len(entry)), entry))
        # Zero is as good as minus zero here, and no number as any other; both are spelt anew.
        if number and number == number and len(field) <= _REMEMBERED_BYTES_MAX:
            if len(self) >= REMEMBERED_MAX:
                self.clear()
            self[item] = field
        return field


class _HeadFields(dict[tuple[int, str], bytes]):
    """The fields of a chunk before its spans, by its priority and origin."""

    def __missing__(self, decision: tuple[int, str]) -> bytes:
        priority, origin = decision
        head = integer_field(fields.TraceChunk.PRIORITY, priority)
        head += text_field(fields.TraceChunk.ORIGIN, origin[:FRAME_TEXT_CHARACTERS_MAX])
        if len(origin) <= _REMEMBERED_BYTES_MAX:
            if len(self) >= REMEMBERED_MAX:
                self.clear()
            self[decision] = head
        return head


class _NumberFields(dict[int, bytes]):
    """An integer field by its number, for one chunk: its spans share some."""

    def __init__(self, opening: bytes) -> None:
        self._opening = opening

    def __missing__(self, number: int) -> bytes:
        field = self[number] = self._opening + varint(number) if number else b""
        return field


_services = _TextFields(_SERVICE)
_names = _TextFields(_NAME)
_resources = _TextFields(_RESOURCE)
_types = _TextFields(_TYPE)
_field_of_meta = _MetaFields().__getitem__
_field_of_metric = _MetricFields().__getitem__
_NO_LARGE: Mapping[int, Large] = {}
_heads = _HeadFields()


def encode_spans(spans: Sequence[Span], large: Mapping[int, Large] = _NO_LARGE) -> list[bytes]:
    """The spans of a chunk, each as a field of it.

    Args:
        large: What is encoded already, see `encode_large`.
    """
    services, names, resources, types = _services, _names, _resources, _types
    trace_ids, parent_ids = _NumberFields(_TRACE_ID), _NumberFields(_PARENT_ID)
    count = len(spans)
    numbers = varints([span.span_id for span in spans] + [span.start for span in spans])
    encoded = []
    for span, span_id, start in zip(spans, numbers[:count], numbers[count:], strict=True):
        duration, error = span.duration, span.error
        parts = [
            services[span.service],
            names[span.name],
            resources[span.resource],
            trace_ids[span.trace_id],
            _SPAN_ID + span_id if span.span_id else b"",
            parent_ids[span.parent_id],
            _START + start if span.start else b"",
            _DURATION + varint(duration) if duration else b"",
            _ERROR + varint(error) if error else b"",
        ]
        if large and id(span) in large:
            tags, rare = large[id(span)]
            parts += (tags, types[span.type], rare)
        else:
            parts += map(_field_of_meta, span.meta.items())
            parts += map(_field_of_metric, span.metrics.items())
            parts.append(types[span.type])
            if span.meta_struct or span.links or span.events:
                parts.append(encode_rare(span))
        message = b"".join(parts)
        encoded.append(b"".join((_CHUNK_SPAN, varint(len(message)), message)))
    return encoded


def encode_large(spans: Sequence[Span]) -> Generator[None, None, dict[int, Large]]:
    """In steps, what takes long in those spans that have too much for one step, by their `id`."""
    large: dict[int, Large] = {}
    for span in spans:
        tags = len(span.meta) + len(span.metrics)
        rare = len(span.links) + len(span.events) + len(span.meta_struct)
        if max(tags, rare) > FIELDS_A_STEP:
            metas = map(_field_of_meta, span.meta.items())
            metrics = map(_field_of_metric, span.metrics.items())
            encoded = yield from _join_in_steps(chain(metas, metrics))
            large[id(span)] = encoded, (yield from _join_in_steps(_rare_fields(span)))
    return large


def _join_in_steps(pieces: Iterator[bytes]) -> Generator[None, None, bytes]:
    joined = []
    while lot := list(islice(pieces, FIELDS_A_STEP)):
        joined.append(b"".join(lot))
        yield None
    return b"".join(joined)


def encode_rare(span: Span) -> bytes:
    """The fields that few spans have: structures, links and events."""
    return b"".join(_rare_fields(span))


def _rare_fields(span: Span) -> Iterator[bytes]:
    for name, structure in span.meta_struct.items():
        entry = bytes_field(fields.MapEntry.KEY, encode_text(name)) + bytes_field(
            fields.MapEntry.VALUE, structure
        )
        yield bytes_field(fields.Span.META_STRUCT, entry)
    for link in span.links:
        yield bytes_field(fields.Span.SPAN_LINKS, _encode_link(link))
    for event in span.events:
        yield bytes_field(fields.Span.SPAN_EVENTS, _encode_event(event))


def _encode_link(link: SpanLink) -> bytes:
    number = fields.SpanLink
    return b"".join(
        (
            integer_field(number.TRACE_ID, link.trace_id),
            integer_field(number.TRACE_ID_HIGH, link.trace_id_high),
            integer_field(number.SPAN_ID, link.span_id),
            text_map_field(number.ATTRIBUTES, link.attributes),
            text_field(number.TRACESTATE, link.tracestate),
            integer_field(number.FLAGS, link.flags),
        )
    )


def _encode_event(event: SpanEvent) -> bytes:
    number = fields.SpanEvent
    parts: list[bytes] = []
    if event.time_unix_nano:
        parts += (tag(number.TIME_UNIX_NANO, FIXED64), pack_fixed64(event.time_unix_nano))
    parts.append(text_field(number.NAME, event.name))
    for key, attribute in event.attributes.items():
        entry = bytes_field(fields.MapEntry.KEY, encode_text(key)) + bytes_field(
            fields.MapEntry.VALUE, _encode_attribute(attribute)
        )
        parts.append(bytes_field(number.ATTRIBUTES, entry))
    return b"".join(parts)


def _encode_attribute(attribute: AttributeValue) -> bytes:
    number = fields.AttributeValue
    parts = [
        integer_field(number.TYPE, attribute.type),
        text_field(number.STRING, attribute.string_value),
        integer_field(number.BOOL, attribute.bool_value),
        integer_field(number.INT, attribute.int_value),
        double_field(number.DOUBLE, attribute.double_value),
    ]
    if attribute.array_value is not None:
        items = [
            bytes_field(fields.AttributeArray.VALUES, _encode_attribute(item))
            for item in attribute.array_value
        ]
        parts.append(bytes_field(number.ARRAY, b"".join(items)))
    return b"".join(parts)


class _EncodedChunk:
    """A chunk, or a part of one, as bytes.

    Attributes:
        order: Which of the request's chunks it is.
        pieces: Joined, all of it as a field of its payload, `size` bytes with `count` spans. A
            long trace has megabytes: it is joined when its record is.
        head, tail: What stands before and behind the spans in the field.
    """

    __slots__ = ("count", "head", "order", "pieces", "size", "tail")

    def __init__(
        self, order: int, pieces: Sequence[Bytes], size: int, count: int, head: bytes, tail: bytes
    ) -> None:
        self.order = order
        self.pieces = pieces
        self.size = size
        self.count = count
        self.head = head
        self.tail = tail

    def spans(self) -> Iterator[memoryview]:
        """Each span, as a field of the chunk."""
        # The first piece begins with the head, the last one ends with the tail; both may be one.
        _, position = read_varint(self.pieces[0], 1)
        position += len(self.head)
        left = self.count
        for piece in self.pieces:
            view = memoryview(piece)
            while left and position < len(piece):
                size, start = read_varint(piece, position + 1)
                yield view[position : start + size]
                position = start + size
                left -= 1
            position = 0


class TraceWriter:
    """Gathers the chunks of one request, then gives them as records.

    Args:
        payload_tags: For every payload.
        body_bytes_max: Largest body the intake takes. Only a single span that is larger by
            itself makes a record that does not fit.

    Attributes:
        bytes_added: How long what was added is, encoded.
    """

    def __init__(
        self, sender: Sender, payload_tags: Mapping[str, str], body_bytes_max: int
    ) -> None:
        self._sender = sender
        self._payload_tags = payload_tags
        self._record_bytes_max = body_bytes_max - len(AGENT_PAYLOAD_PREFIX)
        # What the payload says of itself; known when its first chunk is.
        self._stated: tuple[str, ...] | None = None
        self._count = 0
        self.bytes_added = 0
        # By what a chunk says of _GROUP_TAGS, empty where it does not say.
        self._said: dict[tuple[str, ...], list[_EncodedChunk]] = {}

    def add(self, chunk: TraceChunk) -> tuple[str, ...]:
        """Encode a chunk; its spans are not looked at again.

        Returns:
            Its environment, version, host and runtime, empty where it does not say.
        """
        head, tail = _edges(chunk)
        field = chunk.encode(head, tail)
        if field is None:
            field = b"".join(_pieces(head, encode_spans(chunk.spans), tail))
        key = chunk.first_texts(_GROUP_TAGS, FRAME_TEXT_CHARACTERS_MAX)
        return self._put(chunk, key, head, (field,), tail)

    def encode_window(
        self, chunk: TraceChunk
    ) -> Generator[None, None, tuple[bytes, tuple[str, ...]]]:
        """Encode those spans of a long chunk that are in its window, in steps.

        The root is complete by then, in whatever window it is.

        Returns:
            The spans, and what the root or one of them says of _GROUP_TAGS.
        """
        encoded = chunk.encode_window()
        if encoded is None:
            large = yield from encode_large(chunk.spans)
            encoded = b"".join(encode_spans(chunk.spans, large))
        return encoded, chunk.first_texts(_GROUP_TAGS, FRAME_TEXT_CHARACTERS_MAX)

    def add_windows(
        self, chunk: TraceChunk, windows: Sequence[tuple[bytes, tuple[str, ...]]]
    ) -> tuple[str, ...]:
        """What `add` does, for a chunk of which all windows were encoded; they are in order."""
        head, tail = _edges(chunk)
        said = [texts for _, texts in windows]
        key = tuple([next(filter(None, texts), "") for texts in zip(*said, strict=True)])
        return self._put(chunk, key, head, _pieces(head, [e for e, _ in windows], tail), tail)

    def _put(
        self,
        chunk: TraceChunk,
        key: tuple[str, ...],
        head: bytes,
        pieces: Sequence[Bytes],
        tail: bytes,
    ) -> tuple[str, ...]:
        stated = self._stated
        if stated is None:
            stated = self._stated = _stated(self._sender)
        if stated:
            key = tuple([whole or own for whole, own in zip(stated, key, strict=True)])
        size = len(pieces[0]) if len(pieces) == 1 else sum(map(len, pieces))
        encoded = _EncodedChunk(self._count, pieces, size, len(chunk), head, tail)
        self._count += 1
        self.bytes_added += size
        same = self._said.get(key)
        if same is None:
            self._said[key] = [encoded]
        else:
            same.append(encoded)
        return key

    def records(self) -> list[Record]:
        """Everything that was added, in as few records as its groups and the limit allow."""
        return [record for record in self.each_record() if record is not None]

    def each_record(self) -> Iterator[Record | None]:
        """The records, each made when it is asked for: joining a large one takes milliseconds.

        None between them is a place to stop for a while.
        """
        headers = self._sender.headers
        if self._sender.dropped_headers:
            headers = {**headers, **self._sender.dropped_headers}
        for key, chunks in self._groups().items():
            head, tail = self._frame(key)
            for packed in self._lots(chunks, len(head) + len(tail)):
                if packed is None:
                    yield None
                    continue
                body = _join_payload(head, packed, tail)
                count = sum([chunk.count for chunk in packed])
                yield Record(count, headers, body)
                headers = self._sender.headers

    def _groups(self) -> dict[tuple[str, ...], list[_EncodedChunk]]:
        """The chunks by their key; what a chunk does not say is what the request first says."""
        if len(self._said) <= 1:
            return self._said
        first = tuple(
            next((key[index] for key in self._said if key[index]), "")
            for index in range(len(_GROUP_TAGS))
        )
        groups: dict[tuple[str, ...], list[_EncodedChunk]] = {}
        for said, chunks in self._said.items():
            key = tuple(own or shared for own, shared in zip(said, first, strict=True))
            if key not in groups and len(groups) >= GROUPS_MAX:
                key = next(iter(groups))
            groups.setdefault(key, []).extend(chunks)
        for chunks in groups.values():
            chunks.sort(key=lambda chunk: chunk.order)
        return groups

    def _frame(self, key: tuple[str, ...]) -> tuple[bytes, bytes]:
        """The fields of a payload before and behind its chunks."""
        number, sender = fields.TracerPayload, self._sender
        said = (*key, *self._payload_tags, *self._payload_tags.values())
        known = sender.frames.get(said)
        if known is not None:
            return known
        env, version, hostname, runtime_id = key
        head = (
            text_field(number.CONTAINER_ID, sender.container_id),
            text_field(number.LANGUAGE_NAME, sender.language),
            text_field(number.LANGUAGE_VERSION, sender.language_version),
            text_field(number.TRACER_VERSION, sender.tracer_version),
            text_field(number.RUNTIME_ID, runtime_id),
        )
        tail = (
            text_map_field(number.TAGS, {**sender.tags, **self._payload_tags}),
            text_field(number.ENV, env),
            text_field(number.HOSTNAME, hostname),
            text_field(number.APP_VERSION, version),
        )
        if len(sender.frames) >= GROUPS_MAX:
            sender.frames.clear()
        frame = sender.frames[said] = (b"".join(head), b"".join(tail))
        return frame

    def _lots(
        self, chunks: list[_EncodedChunk], frame_bytes: int
    ) -> Iterable[list[_EncodedChunk] | None]:
        """The chunks, in order, in lots that fit one record each, with places to stop."""
        together = sum([chunk.size for chunk in chunks])
        return [chunks] if self._fits(frame_bytes + together) else self._pack(chunks, frame_bytes)

    def _pack(
        self, chunks: list[_EncodedChunk], frame_bytes: int
    ) -> Iterator[list[_EncodedChunk] | None]:
        lot: list[_EncodedChunk] = []
        lot_bytes = frame_bytes
        for index, chunk in enumerate(chunks):
            if index % FIELDS_A_STEP == FIELDS_A_STEP - 1:
                yield None
            for part in self._split(chunk, frame_bytes):
                if part is None:
                    yield None
                    continue
                if lot and not self._fits(lot_bytes + part.size):
                    yield lot
                    lot = []
                    lot_bytes = frame_bytes
                lot.append(part)
                lot_bytes += part.size
        if lot:
            yield lot

    def _split(self, chunk: _EncodedChunk, frame_bytes: int) -> Iterator[_EncodedChunk | None]:
        """The chunk itself when it fits a record, else parts that do, with places to stop."""
        if self._fits(frame_bytes + chunk.size):
            yield chunk
            return
        empty_bytes = part_bytes = len(chunk.head) + len(chunk.tail)
        part: list[memoryview] = []
        for index, span in enumerate(chunk.spans()):
            if part and not self._fits(frame_bytes + _field_bytes(part_bytes + len(span))):
                yield _part(chunk, part)
                part, part_bytes = [], empty_bytes
            part.append(span)
            part_bytes += len(span)
            if index % FIELDS_A_STEP == FIELDS_A_STEP - 1:
                yield None
        yield _part(chunk, part)

    def _fits(self, payload_bytes: int) -> bool:
        return _field_bytes(payload_bytes) <= self._record_bytes_max


def _edges(chunk: TraceChunk) -> tuple[bytes, bytes]:
    """The fields of a chunk before and behind its spans."""
    tail = b""
    if chunk.tags or chunk.is_dropped:
        tail = text_map_field(fields.TraceChunk.TAGS, chunk.tags) + integer_field(
            fields.TraceChunk.DROPPED_TRACE, chunk.is_dropped
        )
    return _heads[chunk.priority, chunk.origin], tail


def _pieces(head: bytes, spans: Sequence[Bytes], tail: bytes) -> tuple[Bytes, ...]:
    """A chunk as a field of its payload; its spans may be in several pieces."""
    size = len(head) + sum(map(len, spans)) + len(tail)
    return (b"".join((_CHUNK, varint(size), head)), *spans, tail)


def _part(chunk: _EncodedChunk, spans: list[memoryview]) -> _EncodedChunk:
    """A chunk like another with some of its spans."""
    pieces = _pieces(chunk.head, spans, chunk.tail)
    size = sum(map(len, pieces))
    return _EncodedChunk(chunk.order, pieces, size, len(spans), chunk.head, chunk.tail)


def _stated(sender: Sender) -> tuple[str, ...]:
    """What the payload says of itself, in the order of _GROUP_TAGS; nothing if it says nothing.

    It holds for all chunks.
    """
    texts = (sender.env, sender.version, sender.hostname, sender.runtime_id)
    return tuple([text[:FRAME_TEXT_CHARACTERS_MAX] for text in texts]) if any(texts) else ()


def _field_bytes(message_bytes: int) -> int:
    """The size of a message as a field; all numbers of ours fit a tag of one byte."""
    return 1 + varint_bytes(message_bytes) + message_bytes


def _join_payload(head: bytes, chunks: list[_EncodedChunk], tail: bytes) -> bytes:
    size = len(head) + sum([chunk.size for chunk in chunks]) + len(tail)
    pieces = [piece for chunk in chunks for piece in chunk.pieces]
    return b"".join((_PAYLOAD, varint(size), head, *pieces, tail))
