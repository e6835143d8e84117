"""How cost grows: CPU per span by the size of a payload, and by the number of stats groups.

Linear cost is a column of equal figures; where small payloads cost more, it is what a request
costs by itself. For every size a process of its own, and once: these are for the shape, not for
the last digit.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
from driver import Driver, requests_of
from measures import check_taken, wait_arrived
from payloads import ELIGIBLE_SHARE, Traffic

if TYPE_CHECKING:
    from collections.abc import Sequence

    from programs import Program
    from sink import Sink

PAYLOAD_SPANS = (1, 10, 100, 1000, 10_000)
STATS_GROUPS = (10, 100, 1000, 10_000, 50_000)

SPANS_EACH = 10
# Enough that the kernel's clock and the idle seconds behind the load do not matter.
PAYLOAD_SPANS_ALL = 60_000
REQUESTS_MAX = 6000
GROUPED_SPANS = 60_000
GROUPED_TRACES = 1000


def by_payload(
    program: Program, sink: Sink, sizes: Sequence[int] = PAYLOAD_SPANS
) -> dict[str, float]:
    """CPU per span in microseconds, by how many spans a payload has."""
    found = {}
    for size in sizes:
        traces, each = max(1, size // SPANS_EACH), min(size, SPANS_EACH)
        count = min(REQUESTS_MAX, PAYLOAD_SPANS_ALL // size)
        requests = requests_of(Traffic(size).bodies(count, traces, each), traces)
        found[f"{size:,}"] = _span_us(
            program, sink, requests, size, share=1.0 if size == 1 else ELIGIBLE_SHARE
        )
    return found


def by_groups(
    program: Program, sink: Sink, counts: Sequence[int] = STATS_GROUPS
) -> dict[str, float]:
    """CPU per span in microseconds, by how many groups of stats the same spans make."""
    return {
        f"{groups:,}": _span_us(program, sink, _grouped(groups), GROUPED_TRACES, share=1.0)
        for groups in counts
    }


def _grouped(groups: int) -> list[bytes]:
    """Requests of web spans alone, whose resources take turns."""
    traffic, number = Traffic(groups), 0
    bodies = []
    for _ in range(GROUPED_SPANS // GROUPED_TRACES):
        traces = [traffic.trace(1) for _ in range(GROUPED_TRACES)]
        for (span,) in traces:
            span["resource"] = f"GET /page/{number % groups}"
            number += 1
        bodies.append(msgspec.msgpack.encode(traces))
    return requests_of(bodies, GROUPED_TRACES)


def _span_us(
    program: Program, sink: Sink, requests: list[bytes], spans_each: int, share: float
) -> float:
    """CPU for a span until it and its stats have reached the intake.

    Args:
        share: Of the spans, those that are counted.
    """
    sink.forget()
    with (
        tempfile.TemporaryDirectory(prefix="mini-agent-bench-") as folder,
        program.running(Path(folder), sink.url) as agent,
    ):
        # The first loads what is loaded on first use.
        check_taken(Driver(agent.port, requests, count=1).result())
        before_s = agent.cpu_s()
        check_taken(Driver(agent.port, requests, count=len(requests)).result())
        sent = (1 + len(requests)) * spans_each
        wait_arrived(sink, sent, hits=int(sent * share))
        return 1e6 * (agent.cpu_s() - before_s) / (len(requests) * spans_each)
