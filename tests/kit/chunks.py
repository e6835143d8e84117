"""Chunks of the twin that runs, from plain spans: through the wire, as tracers send them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kit.payloads import encode
from mini_agent.traces.decode import decode_v04
from mini_agent.traces.lenient import Findings

if TYPE_CHECKING:
    from collections.abc import Iterable

    from mini_agent.traces.span import Span, TraceChunk


def drain(steps: Iterable[TraceChunk | None]) -> list[TraceChunk]:
    """All chunks that a decoder gives, with no pause between its steps."""
    return [chunk for chunk in steps if chunk is not None]


def chunk_of(*spans: Span) -> TraceChunk:
    """A chunk of these spans; its own spans are copies, and the plain ones stay as they are."""
    [chunk] = drain(decode_v04(encode([[to_wire(span) for span in spans]]), Findings()))
    return chunk


def to_wire(span: Span) -> dict[str, Any]:
    """A span without links and events as a tracer would send it."""
    assert not span.links, "links are not written here"
    assert not span.events, "events are not written here"
    return {
        "service": span.service,
        "name": span.name,
        "resource": span.resource,
        "type": span.type,
        "trace_id": span.trace_id,
        "span_id": span.span_id,
        "parent_id": span.parent_id,
        "start": span.start,
        "duration": span.duration,
        "error": span.error,
        "meta": dict(span.meta_items()),
        "metrics": dict(span.metric_items()),
        "meta_struct": dict(span.meta_struct),
    }
