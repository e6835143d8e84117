"""What is true of the spans of one trace together: its root, priority, origin, top-level spans.

Each function is a chunk rule: it takes a chunk and the tracer that sent it, and changes the
chunk. They run in the order of RULES; `mark_top_level` comes behind them, and marks a long trace
window by window.

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

# What tracers decide: to drop or keep, by themselves or because a user said so.
_USUAL_PRIORITIES = {-1.0: -1, 0.0: 0, 1.0: 1, 2.0: 2}

_I32_MIN, _I32_MAX = -(1 << 31), (1 << 31) - 1


def find_root(chunk: TraceChunk, sender: Sender) -> None:
    """Find the span that stands for the chunk.

    The last span without a parent; else the last one whose parent is elsewhere; else, in a
    circle, the last one.
    """
    index = chunk.last_without_parent()
    if index < 0:
        index = chunk.last_with_parent_elsewhere()
    chunk.root_index = index if index >= 0 else len(chunk) - 1


def read_priority(chunk: TraceChunk, sender: Sender) -> None:
    """Take the sampling decision from the root, else from the first span that has one.

    A decision that came with the chunk itself stands.
    """
    if chunk.priority == PRIORITY_NONE:
        priority = chunk.first_metric(_PRIORITY)
        if priority is not None:
            chunk.priority = _to_i32(priority)


def read_origin(chunk: TraceChunk, sender: Sender) -> None:
    """Take the origin from the root, as the tracer set it, when the chunk did not bring one."""
    if not chunk.origin:
        chunk.origin = chunk.root.get_meta(ORIGIN) or ""


def mark_top_level(chunk: TraceChunk, sender: Sender) -> None:
    """Mark the spans by which work enters a service; they are what is billed and counted."""
    if sender.computed_top_level:
        chunk.mark_where(_TRACER_TOP_LEVEL, _TOP_LEVEL)
    else:
        chunk.mark_entries(_TOP_LEVEL)


RULES: tuple[ChunkRule, ...] = (find_root, read_priority, read_origin)


def _to_i32(value: float) -> int:
    usual = _USUAL_PRIORITIES.get(value)
    if usual is not None:
        return usual
    if math.isnan(value):
        return 0
    return int(min(max(value, _I32_MIN), _I32_MAX))
