from __future__ import annotations

import math

import pytest

from mini_agent.traces import chunk as rules
from mini_agent.traces.sender import Sender
from mini_agent.traces.span import Span, TraceChunk

TRACER = Sender({})
MARKING_TRACER = Sender({"datadog-client-computed-top-level": "1"})
PRIORITY = "_sampling_priority_v1"


def make_chunk(*ids: tuple[int, int]) -> TraceChunk:
    """A chunk of spans with these (span id, parent id), all of one service."""
    spans = []
    for span_id, parent_id in ids:
        span = Span()
        span.span_id = span_id
        span.parent_id = parent_id
        span.service = "web"
        spans.append(span)
    return TraceChunk(spans)


def top_level(chunk: TraceChunk) -> list[bool]:
    return [span.get_metric("_top_level") == 1.0 for span in chunk.spans]


@pytest.mark.parametrize(
    ("ids", "root_index"),
    [
        ([(1, 0)], 0),
        ([(1, 0), (2, 1)], 0),
        ([(2, 1), (1, 0)], 1),
        ([(1, 0), (2, 0), (3, 1)], 1),  # the last without a parent
        ([(2, 9), (3, 2)], 0),  # a parent elsewhere
        ([(2, 9), (3, 8), (4, 3)], 1),  # the last of several
        ([(1, 2), (2, 1)], 1),  # a circle
        ([(1, 1)], 0),
    ],
)
def test_the_root_is_found(ids: list[tuple[int, int]], root_index: int) -> None:
    chunk = make_chunk(*ids)
    rules.find_root(chunk, TRACER)
    assert chunk.root_index == root_index


def test_the_roots_priority_counts_first() -> None:
    chunk = make_chunk((2, 1), (1, 0))
    chunk.root_index = 1
    chunk.spans[0].set_metric(PRIORITY, 2.0)
    chunk.spans[1].set_metric(PRIORITY, -1.0)
    rules.read_priority(chunk, TRACER)
    assert chunk.priority == -1


def test_the_first_priority_of_any_span_counts_when_the_root_has_none() -> None:
    chunk = make_chunk((1, 0), (2, 1), (3, 1))
    chunk.root_index = 0
    chunk.spans[1].set_metric(PRIORITY, 0.0)
    chunk.spans[2].set_metric(PRIORITY, 2.0)
    rules.read_priority(chunk, TRACER)
    assert chunk.priority == 0


def test_no_priority_stays_none() -> None:
    chunk = make_chunk((1, 0))
    rules.read_priority(chunk, TRACER)
    assert chunk.priority == -128


@pytest.mark.parametrize(
    ("value", "priority"),
    [
        (1.9, 1),
        (-1.9, -1),
        (1e300, 2**31 - 1),
        (-1e300, -(2**31)),
        (math.inf, 2**31 - 1),
        (-math.inf, -(2**31)),
        (math.nan, 0),
    ],
)
def test_an_odd_priority_becomes_the_nearest_integer_towards_zero(
    value: float, priority: int
) -> None:
    chunk = make_chunk((1, 0))
    chunk.root.set_metric(PRIORITY, value)
    rules.read_priority(chunk, TRACER)
    assert chunk.priority == priority


def test_the_origin_is_the_roots() -> None:
    chunk = make_chunk((1, 0), (2, 1))
    chunk.root_index = 0
    chunk.spans[1].set_meta("_dd.origin", "lambda")
    rules.read_origin(chunk, TRACER)
    assert chunk.origin == ""
    chunk.spans[0].set_meta("_dd.origin", "synthetics")
    rules.read_origin(chunk, TRACER)
    assert chunk.origin == "synthetics"


def test_spans_that_enter_a_service_are_top_level() -> None:
    chunk = make_chunk((1, 0), (2, 1), (3, 1), (4, 9))
    chunk.spans[2].service = "db"
    rules.mark_top_level(chunk, TRACER)
    assert top_level(chunk) == [True, False, True, True]


def test_a_root_is_top_level_even_if_a_span_has_id_zero() -> None:
    chunk = make_chunk((0, 0), (1, 0))
    rules.mark_top_level(chunk, TRACER)
    assert top_level(chunk) == [True, True]


def test_of_spans_with_one_id_the_last_is_the_parent() -> None:
    chunk = make_chunk((1, 0), (1, 0), (2, 1))
    chunk.spans[1].service = "db"
    rules.mark_top_level(chunk, TRACER)
    assert top_level(chunk) == [True, True, True]
    chunk = make_chunk((1, 0), (1, 0), (2, 1))
    chunk.spans[0].service = "db"
    rules.mark_top_level(chunk, TRACER)
    assert top_level(chunk) == [True, True, False]


def test_a_tracer_that_marks_its_own_is_believed() -> None:
    chunk = make_chunk((1, 0), (2, 1), (3, 1))
    chunk.spans[1].set_metric("_dd.top_level", 0.0)
    chunk.spans[2].set_metric("_dd.top_level", 1.0)
    rules.mark_top_level(chunk, MARKING_TRACER)
    assert top_level(chunk) == [False, True, True]


def test_the_rules_run_in_an_order_that_works() -> None:
    chunk = make_chunk((2, 1), (1, 0), (3, 1))
    chunk.spans[1].set_metric(PRIORITY, 2.0)
    chunk.spans[1].set_meta("_dd.origin", "rum")
    for rule in rules.RULES:
        rule(chunk, TRACER)
    rules.mark_top_level(chunk, TRACER)
    assert chunk.root is chunk.spans[1]
    assert chunk.priority == 2
    assert chunk.origin == "rum"
    assert top_level(chunk) == [False, True, False]


def test_what_came_with_the_chunk_stands() -> None:
    chunk = make_chunk((1, 0))
    chunk.priority, chunk.origin = 2, "rum"
    chunk.root.set_metric(PRIORITY, -1.0)
    chunk.root.set_meta("_dd.origin", "synthetics")
    rules.read_priority(chunk, TRACER)
    rules.read_origin(chunk, TRACER)
    assert (chunk.priority, chunk.origin) == (2, "rum")
