"""What is true of the spans of one trace together: its root, priority, origin, top-level spans.

Each function is a chunk rule: it takes a chunk and the tracer that sent it, and changes the
chunk. They run in the order of RULES.

Source: reference-agent 4.3 to 4.5.
"""

from __future__ import annotations

import math

from mini_agent.traces.span import PRIORITY_NONE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from mini_agent.traces.sender import Sender
    from mini_agent.traces.span import TraceChunk

    ChunkRule = Callable[[TraceChunk, Sender], None]

ORIGIN = "_dd.origin"
_PRIORITY = "_sampling_priority_v1"
_TRACER_TOP_LEVEL = "_dd.top_level"
_TOP_LEVEL = "_top_level"

_I32_MIN, _I32_MAX = -(1 << 31), (1 << 31) - 1


def find_root(chunk: TraceChunk, sender: Sender) -> None:
    """Find the span that stands for the chunk.

    The last span without a parent; else the last one whose parent is elsewhere; else, in a
    circle, the last one.
    """
    spans = chunk.spans
    for index in range(len(spans) - 1, -1, -1):
        if spans[index].parent_id == 0:
            chunk.root_index = index
            return
    ids = {span.span_id for span in spans}
    chunk.root_index = len(spans) - 1
    for index in range(len(spans) - 1, -1, -1):
        if spans[index].parent_id not in ids:
            chunk.root_index = index
            return


def read_priority(chunk: TraceChunk, sender: Sender) -> None:
    """Take the sampling decision from the root, else from the first span that has one.

    A decision that came with the chunk itself stands.
    """
    if chunk.priority != PRIORITY_NONE:
        return
    priority = chunk.root.get_metric(_PRIORITY)
    if priority is None:
        for span in chunk.spans:
            priority = span.get_metric(_PRIORITY)
            if priority is not None:
                break
        else:
            return
    chunk.priority = _to_i32(priority)


def read_origin(chunk: TraceChunk, sender: Sender) -> None:
    """Take the origin from the root, as the tracer set it, when the chunk did not bring one."""
    if not chunk.origin:
        chunk.origin = chunk.root.get_meta(ORIGIN) or ""


def mark_top_level(chunk: TraceChunk, sender: Sender) -> None:
    """Mark the spans by which work enters a service; they are what is billed and counted."""
    if sender.computed_top_level:
        for span in chunk.spans:
            if span.get_metric(_TRACER_TOP_LEVEL) is not None:
                span.set_metric(_TOP_LEVEL, 1.0)
        return
    services = {span.span_id: span.service for span in chunk.spans}
    for span in chunk.spans:
        # A parent of 0 is none, even if some span has that id.
        if span.parent_id == 0 or services.get(span.parent_id) != span.service:
            span.set_metric(_TOP_LEVEL, 1.0)


RULES: tuple[ChunkRule, ...] = (find_root, read_priority, read_origin, mark_top_level)


def _to_i32(value: float) -> int:
    if math.isnan(value):
        return 0
    return int(min(max(value, _I32_MIN), _I32_MAX))
