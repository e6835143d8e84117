"""Trace payloads of v0.7: a map that says what is true of the whole, and chunks.

A chunk brings its sampling decision, its origin and its tags, which in older versions stand in
its spans; spans are those of v0.4. A payload's env, version, host and runtime hold for all its
chunks. Where the body does not name the tracer, the headers do.

Source: the Go agent's TracerPayload and TraceChunk (pkg/proto/datadog/trace).
"""

from __future__ import annotations

from mini_agent.traces.decode import read_span, read_spans
from mini_agent.traces.encode import FRAME_TEXT_CHARACTERS_MAX
from mini_agent.traces.express import read_trace
from mini_agent.traces.lenient import (
    I32_MAX,
    I32_MIN,
    attempt,
    fill,
    read_integer,
    read_text,
    read_text_map,
)
from mini_agent.traces.normalize import normalize_tag
from mini_agent.traces.span import PRIORITY_NONE
from mini_agent.wire import msgpack
from mini_agent.wire.msgpack import Reader, WrongType
from mini_agent.wire.protobuf import encode_text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from mini_agent.traces.lenient import Fields, Findings
    from mini_agent.traces.sender import Sender
    from mini_agent.traces.span import TraceChunk

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


def decode_v07(body: bytes, sender: Sender, findings: Findings) -> Iterator[TraceChunk]:
    """The chunks of a v0.7 payload, one at a time, without those that hold no readable span.

    Args:
        sender: Learns at once what the payload says of the whole.
        findings: Filled on the way; complete when the iteration has ended.

    Raises:
        DecodeError: The body is no payload, or no span of it can be read.
        ProtocolError: It holds more than a payload may.
    """
    reader = Reader(body)
    payload = _Payload(sender)
    # The order of the keys is the sender's: the chunks are passed over, then read.
    fill(payload, _PAYLOAD_FIELDS, reader, findings)
    findings.take_request()
    if payload.chunks_offset is None:
        return iter(())
    reader.offset = payload.chunks_offset
    return _decode_chunks(reader, findings)


def _decode_chunks(reader: Reader, findings: Findings) -> Iterator[TraceChunk]:
    for index in range(reader.read_array() or 0):
        if reader.kind() == msgpack.NIL:
            reader.skip()
            findings.begin_trace(0)
            continue
        parts = _Chunk(index)
        fill(parts, _CHUNK_FIELDS, reader, findings)
        findings.take_request()
        chunk = parts.chunk
        if chunk is not None:
            chunk.priority = parts.priority
            chunk.origin = parts.origin
            chunk.tags = parts.tags
            chunk.is_dropped = parts.is_dropped
            yield chunk
    findings.raise_if_all_failed()


def _read_own_text(reader: Reader, findings: Findings) -> str:
    text = attempt(read_text, "payload_type", reader, findings) or ""
    return text[:FRAME_TEXT_CHARACTERS_MAX]


def _read_own_tags(reader: Reader, findings: Findings) -> dict[str, str]:
    tags: dict[str, str] = {}
    left_bytes = TAGS_BYTES_MAX
    for key, value in (attempt(read_text_map, "payload_type", reader, findings) or {}).items():
        left_bytes -= len(encode_text(key)) + len(encode_text(value))
        if left_bytes < 0:
            findings.change("payload_tags")
            break
        tags[key] = value
    return tags


def _read_container_id(reader: Reader, payload: _Payload, findings: Findings) -> None:
    payload.sender.container_id = _read_own_text(reader, findings) or payload.sender.container_id


def _read_language(reader: Reader, payload: _Payload, findings: Findings) -> None:
    payload.sender.language = _read_own_text(reader, findings) or payload.sender.language


def _read_language_version(reader: Reader, payload: _Payload, findings: Findings) -> None:
    sender = payload.sender
    sender.language_version = _read_own_text(reader, findings) or sender.language_version


def _read_tracer_version(reader: Reader, payload: _Payload, findings: Findings) -> None:
    sender = payload.sender
    sender.tracer_version = _read_own_text(reader, findings) or sender.tracer_version


def _read_runtime_id(reader: Reader, payload: _Payload, findings: Findings) -> None:
    payload.sender.runtime_id = _read_own_text(reader, findings)


def _read_chunks(reader: Reader, payload: _Payload, findings: Findings) -> None:
    payload.chunks_offset = reader.offset
    if reader.kind() not in (msgpack.ARRAY, msgpack.NIL):
        raise reader.wrong_type("an array of chunks")
    reader.skip()


def _read_payload_tags(reader: Reader, payload: _Payload, findings: Findings) -> None:
    payload.sender.tags = _read_own_tags(reader, findings)


def _read_env(reader: Reader, payload: _Payload, findings: Findings) -> None:
    payload.sender.env = normalize_tag(_read_own_text(reader, findings))


def _read_hostname(reader: Reader, payload: _Payload, findings: Findings) -> None:
    payload.sender.hostname = _read_own_text(reader, findings)


def _read_version(reader: Reader, payload: _Payload, findings: Findings) -> None:
    payload.sender.version = _read_own_text(reader, findings)


_PAYLOAD_FIELDS: Fields[_Payload] = {
    b"container_id": _read_container_id,
    b"language_name": _read_language,
    b"language_version": _read_language_version,
    b"tracer_version": _read_tracer_version,
    b"runtime_id": _read_runtime_id,
    b"chunks": _read_chunks,
    b"tags": _read_payload_tags,
    b"env": _read_env,
    b"hostname": _read_hostname,
    b"app_version": _read_version,
}


def _read_priority(reader: Reader, chunk: _Chunk, findings: Findings) -> None:
    priority = attempt(_read_i32, "payload_type", reader, findings)
    if priority is not None:
        chunk.priority = priority


def _read_i32(reader: Reader, findings: Findings) -> int:
    if reader.kind() == msgpack.NIL:
        reader.skip()
        return PRIORITY_NONE
    return read_integer(reader, I32_MIN, I32_MAX)


def _read_origin(reader: Reader, chunk: _Chunk, findings: Findings) -> None:
    chunk.origin = _read_own_text(reader, findings)


def _read_spans(reader: Reader, chunk: _Chunk, findings: Findings) -> None:
    # What was changed before is the chunk's, and not the first span's.
    findings.take_request()
    if reader.kind() == msgpack.NIL:
        raise WrongType("an array of spans", "nil", reader.offset)
    chunk.chunk = read_trace(reader, findings)
    if chunk.chunk is None:
        chunk.chunk = read_spans(reader, findings, read_span, "chunk", chunk.index)


def _read_chunk_tags(reader: Reader, chunk: _Chunk, findings: Findings) -> None:
    chunk.tags = _read_own_tags(reader, findings)


def _read_dropped(reader: Reader, chunk: _Chunk, findings: Findings) -> None:
    chunk.is_dropped = attempt(_read_boolean, "payload_type", reader, findings) or False


def _read_boolean(reader: Reader, findings: Findings) -> bool:
    return reader.read_boolean() or False


_CHUNK_FIELDS: Fields[_Chunk] = {
    b"priority": _read_priority,
    b"origin": _read_origin,
    b"spans": _read_spans,
    b"tags": _read_chunk_tags,
    b"dropped_trace": _read_dropped,
}
