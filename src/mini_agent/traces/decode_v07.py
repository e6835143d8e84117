"""Trace payloads of v0.7: a map that says what is true of the whole, and chunks.

A chunk brings its sampling decision, its origin and its tags, which in older versions stand in
its spans; spans are those of v0.4. A payload's env, version, host and runtime hold for all its
chunks. Where the body does not name the tracer, the headers do.

The order of the keys is the sender's: the chunks are passed over first, then read one at a time,
both in steps.

Source: the Go agent's TracerPayload and TraceChunk (pkg/proto/datadog/trace).
"""

from __future__ import annotations

from mini_agent.traces.decode import finish, read_span, read_spans
from mini_agent.traces.encode import FRAME_TEXT_CHARACTERS_MAX
from mini_agent.traces.express import read_trace
from mini_agent.traces.lenient import (
    I32_MAX,
    I32_MIN,
    TAGS_A_STEP,
    attempt_in_steps,
    fill_in_steps,
    read_integer,
    read_text,
    read_text_map,
    read_text_map_in_steps,
)
from mini_agent.traces.normalize import normalize_tag
from mini_agent.traces.span import PRIORITY_NONE, SPANS_A_STEP
from mini_agent.wire import msgpack
from mini_agent.wire.msgpack import Reader, WrongType
from mini_agent.wire.protobuf import encode_text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator

    from mini_agent.traces.lenient import Fields, Findings, Steps
    from mini_agent.traces.sender import Sender
    from mini_agent.traces.span import TraceChunk

    _ReadField = Callable[[Reader, "_Payload", Findings], Steps]

# Tags of a payload and of a chunk are repeated with every part that either is divided into:
# they stay a small part of the intake's limit.
TAGS_BYTES_MAX = 16 * 1024


class _Payload:
    """What is read of a payload before its chunks."""

    __slots__ = ("chunks_offset", "sender")

    def __init__(self, sender: Sender) -> None:
        self.sender = sender
        self.chunks_offset: int | None = None


class _Chunk:
    """A chunk as it is being read."""

    __slots__ = ("chunk", "index", "is_dropped", "origin", "priority", "tags")

    def __init__(self, index: int) -> None:
        self.index = index
        self.priority = PRIORITY_NONE
        self.origin = ""
        self.chunk: TraceChunk | None = None
        self.tags: dict[str, str] = {}
        self.is_dropped = False

    def join(self) -> TraceChunk | None:
        """The spans, with what the chunk says of them."""
        chunk = self.chunk
        if chunk is not None:
            chunk.priority = self.priority
            chunk.origin = self.origin
            chunk.tags = self.tags
            chunk.is_dropped = self.is_dropped
        return chunk


def decode_v07(body: bytes, sender: Sender, findings: Findings) -> Iterator[TraceChunk | None]:
    """The chunks of a v0.7 payload, one at a time, without those that hold no readable span.

    None between them, and before the first, is a place to stop for a while.

    Args:
        sender: Has learned what the payload says of the whole when the first chunk comes.
        findings: Filled on the way; complete when the iteration has ended.

    Raises:
        DecodeError: The body is no payload, or no span of it can be read.
        ProtocolError: It holds more than a payload may.
    """
    reader = Reader(body)
    payload = _Payload(sender)
    steps = fill_in_steps(payload, _PAYLOAD_FIELDS, reader, findings)
    if steps is not None:
        yield from steps
    findings.take_request()
    if payload.chunks_offset is None:
        return
    reader.offset = payload.chunks_offset
    for index in range(reader.read_array() or 0):
        chunk: TraceChunk | None = None
        if reader.kind() == msgpack.NIL:
            reader.skip()
            findings.begin_trace(0)
        else:
            parts = _Chunk(index)
            steps = fill_in_steps(parts, _CHUNK_FIELDS, reader, findings)
            if steps is not None:
                yield from steps
            findings.take_request()
            chunk = parts.join()
        if chunk is not None or index % SPANS_A_STEP == SPANS_A_STEP - 1:
            yield chunk
    findings.raise_if_all_failed()


def _read_own_text(reader: Reader, findings: Findings) -> tuple[str, Steps]:
    text, steps = attempt_in_steps(read_text, "payload_type", reader, findings)
    return (text or "")[:FRAME_TEXT_CHARACTERS_MAX], steps


def _read_tags(target: Sender | _Chunk, reader: Reader, findings: Findings) -> Steps:
    start = reader.offset
    count = reader.read_map() if reader.kind() == msgpack.MAP else None
    reader.offset = start
    if count is not None and count > TAGS_A_STEP:
        return _read_many_tags(target, reader, findings)
    tags, steps = attempt_in_steps(read_text_map, "payload_type", reader, findings)
    target.tags = _bound(tags or {}, findings)
    return steps


def _read_many_tags(
    target: Sender | _Chunk, reader: Reader, findings: Findings
) -> Generator[None, None, None]:
    start = reader.offset
    tags: dict[str, str] = {}
    try:
        # Only one key is empty, so that not all of so many are kept.
        tags = yield from read_text_map_in_steps(reader, findings, TAGS_BYTES_MAX + 2)
    except WrongType:
        findings.change("payload_type")
        reader.offset = start
        yield from reader.skip_in_steps() or ()
    target.tags = _bound(tags, findings)


def _bound(sent: dict[str, str], findings: Findings) -> dict[str, str]:
    tags: dict[str, str] = {}
    left_bytes = TAGS_BYTES_MAX
    for key, value in sent.items():
        left_bytes -= len(encode_text(key)) + len(encode_text(value))
        if left_bytes < 0:
            findings.change("payload_tags")
            break
        tags[key] = value
    return tags


def _read_chunks(reader: Reader, payload: _Payload, findings: Findings) -> Steps:
    payload.chunks_offset = reader.offset
    if reader.kind() not in (msgpack.ARRAY, msgpack.NIL):
        raise reader.wrong_type("an array of chunks")
    return reader.skip_in_steps()


def _read_payload_tags(reader: Reader, payload: _Payload, findings: Findings) -> Steps:
    return _read_tags(payload.sender, reader, findings)


def _own_text(name: str, finish: Callable[[str], str] = str) -> _ReadField:
    """Reads a text that the payload says of the whole: it counts, even when it is empty."""

    def read(reader: Reader, payload: _Payload, findings: Findings) -> Steps:
        text, steps = _read_own_text(reader, findings)
        setattr(payload.sender, name, finish(text))
        return steps

    return read


def _own_text_or_header(name: str) -> _ReadField:
    """The same, but what the headers said counts when it is empty."""

    def read(reader: Reader, payload: _Payload, findings: Findings) -> Steps:
        text, steps = _read_own_text(reader, findings)
        if text:
            setattr(payload.sender, name, text)
        return steps

    return read


_PAYLOAD_FIELDS: Fields[_Payload] = {
    b"container_id": _own_text_or_header("container_id"),
    b"language_name": _own_text_or_header("language"),
    b"language_version": _own_text_or_header("language_version"),
    b"tracer_version": _own_text_or_header("tracer_version"),
    b"runtime_id": _own_text("runtime_id"),
    b"chunks": _read_chunks,
    b"tags": _read_payload_tags,
    b"env": _own_text("env", normalize_tag),
    b"hostname": _own_text("hostname"),
    b"app_version": _own_text("version"),
}


def _read_priority(reader: Reader, chunk: _Chunk, findings: Findings) -> Steps:
    priority, steps = attempt_in_steps(_read_i32, "payload_type", reader, findings)
    if priority is not None:
        chunk.priority = priority
    return steps


def _read_i32(reader: Reader, findings: Findings) -> int:
    if reader.kind() == msgpack.NIL:
        reader.skip()
        return PRIORITY_NONE
    return read_integer(reader, I32_MIN, I32_MAX)


def _read_origin(reader: Reader, chunk: _Chunk, findings: Findings) -> Steps:
    chunk.origin, steps = _read_own_text(reader, findings)
    return steps


def _read_spans(reader: Reader, chunk: _Chunk, findings: Findings) -> Steps:
    # What was changed before is the chunk's, and not the first span's.
    findings.take_request()
    if reader.kind() == msgpack.NIL:
        raise WrongType("an array of spans", "nil", reader.offset)
    begun = chunk.chunk = read_trace(reader, findings)
    if begun is None or begun.unread:
        return _read_on(begun, reader, chunk, findings)
    return None


def _read_on(
    begun: TraceChunk | None, reader: Reader, chunk: _Chunk, findings: Findings
) -> Generator[None, None, None]:
    """Read the rest of a chunk's spans, or all of them."""
    if begun is not None:
        begun = yield from finish(begun, reader, findings)
    if begun is None:
        begun = yield from read_spans(reader, findings, read_span, "chunk", chunk.index)
    chunk.chunk = begun


def _read_chunk_tags(reader: Reader, chunk: _Chunk, findings: Findings) -> Steps:
    return _read_tags(chunk, reader, findings)


def _read_dropped(reader: Reader, chunk: _Chunk, findings: Findings) -> Steps:
    is_dropped, steps = attempt_in_steps(_read_boolean, "payload_type", reader, findings)
    chunk.is_dropped = is_dropped or False
    return steps


def _read_boolean(reader: Reader, findings: Findings) -> bool:
    return reader.read_boolean() or False


_CHUNK_FIELDS: Fields[_Chunk] = {
    b"priority": _read_priority,
    b"origin": _read_origin,
    b"spans": _read_spans,
    b"tags": _read_chunk_tags,
    b"dropped_trace": _read_dropped,
}
