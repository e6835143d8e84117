"""One program measured once: what is done to it, and what is read off.

A figure ends when everything that was sent has reached the intake, stats too: what an agent puts
off until later is counted all the same.
"""

from __future__ import annotations

import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from driver import CLOSED, Driver, requests_of
from payloads import ELIGIBLE_SHARE, Traffic

if TYPE_CHECKING:
    from driver import Load
    from programs import Program
    from sink import Sink

Figures = dict[str, float]

TRACES, SPANS_EACH = 100, 10
WARM_REQUESTS = 5
IDLE_S = 2.0

# The oldest open bucket of stats is complete after ten seconds at most; then it has to be sent.
ARRIVAL_S_MAX = 40.0
ASK_INTERVAL_S = 0.1

# Large requests sent to one process before it is another's turn.
LOT = 10
SMALL_REQUESTS = 4000
LATENCY_CLIENTS, LATENCY_REQUESTS = 4, 8000
FLAT_CLIENTS = 8
WATCH_INTERVAL_S = 0.05

NO_STATS = {"DD_AGENT_STATS_COMPUTATION_ENABLED": "false"}


class Bodies:
    """The requests of all measurements; made before anything is measured.

    Attributes:
        large: 100 traces with 10 spans each, of which the first few only warm up.
        small, middle: One trace with one span, and with ten.
    """

    def __init__(self, large_requests: int) -> None:
        traffic = Traffic()
        large = traffic.bodies(WARM_REQUESTS + large_requests, TRACES, SPANS_EACH)
        self.large = requests_of(large, TRACES)
        self.small = requests_of(traffic.bodies(SMALL_REQUESTS, 1, 1), 1)
        self.middle = requests_of(traffic.bodies(LATENCY_REQUESTS, 1, SPANS_EACH), 1)
        self.large_mb = sum(map(len, large)) / len(large) / 1e6
        self.span_bytes = sum(map(len, large)) / len(large) / TRACES / SPANS_EACH


def measure(program: Program, sink: Sink, bodies: Bodies, flat_s: float) -> Figures:
    """Every figure of one run, in processes of their own for each part."""
    figures: Figures = {}
    for part in (_measure_life, _measure_spans, _measure_flat_out):
        with tempfile.TemporaryDirectory(prefix="mini-agent-bench-") as folder:
            figures |= part(program, sink, bodies, Path(folder), flat_s)
    return figures


def _measure_life(program: Program, sink: Sink, bodies: Bodies, folder: Path, _: float) -> Figures:
    """From the start through idling to many small requests."""
    figures = {}
    sink.forget()
    with program.running(folder, sink.url) as agent:
        figures["accepts"] = 1000 * (agent.accepted_s - agent.started_s)
        load = Driver(agent.port, bodies.small, count=1).result()
        check_taken(load)
        # Without the time it takes to end the driver's process.
        figures["first"] = 1000 * (load.finished_s - agent.started_s)
        wait_arrived(sink, spans=1, hits=1)
        figures["idle"] = agent.memory_mb("VmRSS")
        before_s = agent.cpu_s()
        time.sleep(IDLE_S)
        figures["idle_cpu"] = 1000 * (agent.cpu_s() - before_s) / IDLE_S
        sink.forget()
        before_s = agent.cpu_s()
        check_taken(Driver(agent.port, bodies.small, count=SMALL_REQUESTS).result())
        wait_arrived(sink, spans=SMALL_REQUESTS)
        figures["request"] = 1e6 * (agent.cpu_s() - before_s) / SMALL_REQUESTS
        load = Driver(agent.port, bodies.middle, LATENCY_CLIENTS, count=LATENCY_REQUESTS).result()
        check_taken(load)
        for key, share in (("p50", 0.5), ("p99", 0.99), ("max", 1.0)):
            figures[key] = load.latency_ms(share)
    return figures


def _measure_spans(program: Program, sink: Sink, bodies: Bodies, folder: Path, _: float) -> Figures:
    """CPU for a span of large requests, with stats and without.

    Two processes that take turns: what stats cost is a small difference of large figures, and
    the machine's speed drifts.
    """
    warm, timed = bodies.large[:WARM_REQUESTS], bodies.large[WARM_REQUESTS:]
    sink.forget()
    with (
        program.running(folder / "with", sink.url) as counting,
        program.running(folder / "without", sink.url, NO_STATS) as other,
    ):
        agents = (counting, other)
        each = TRACES * SPANS_EACH
        for agent in agents:
            check_taken(Driver(agent.port, warm, count=len(warm)).result())
        # Once all of this has arrived, all is loaded that is loaded on first use.
        warmed = len(warm) * each
        wait_arrived(sink, len(agents) * warmed, hits=int(warmed * ELIGIBLE_SHARE))
        before_s = [agent.cpu_s() for agent in agents]
        for begin in range(0, len(timed), LOT):
            lot = timed[begin : begin + LOT]
            for agent in agents:
                check_taken(Driver(agent.port, lot, count=len(lot)).result())
        sent = len(bodies.large) * each
        missing = wait_arrived(sink, len(agents) * sent, hits=int(sent * ELIGIBLE_SHARE))
        spent_s = [agent.cpu_s() - s for agent, s in zip(agents, before_s, strict=True)]
    with_us, without_us = (1e6 * spent / (len(timed) * each) for spent in spent_s)
    arrived = sink.arrived()
    return {
        "span": with_us,
        "stats": (with_us - without_us) / ELIGIBLE_SHARE,
        "missing": missing,
        "wire": arrived.wire_bytes / arrived.spans,
    }


def _measure_flat_out(
    program: Program, sink: Sink, bodies: Bodies, folder: Path, seconds: float
) -> Figures:
    """As much as several clients can send, for some time."""
    sink.forget(keep=False)
    with program.running(folder, sink.url) as agent:
        driver = Driver(agent.port, bodies.large, FLAT_CLIENTS, seconds=seconds)
        journal_mb = agent.journal_mb()
        while driver.running(WATCH_INTERVAL_S):
            journal_mb = max(journal_mb, agent.journal_mb())
        load = driver.result()
        return {
            "flat_rss": agent.memory_mb("VmHWM"),
            "flat_journal": journal_mb,
            "flat_mb_s": load.statuses[200] * bodies.large_mb / load.elapsed_s,
            "flat_refused": sum(load.statuses.values()) - load.statuses[200],
            "flat_unanswered": load.statuses[CLOSED],
        }


def wait_arrived(sink: Sink, spans: int, hits: int = 0) -> int:
    """Wait until so many spans, and so many in the stats, have reached the intake.

    Returns:
        How many spans are missing after all this time, of an agent that loses some.
    """
    deadline_s = time.monotonic() + ARRIVAL_S_MAX
    while True:
        arrived = sink.arrived()
        if arrived.spans >= spans and arrived.hits >= hits:
            return 0
        if time.monotonic() > deadline_s:
            break
        time.sleep(ASK_INTERVAL_S)
    print(
        f"never arrived: {spans - arrived.spans} spans, {hits - arrived.hits} counted", flush=True
    )
    return max(0, spans - arrived.spans)


def check_taken(load: Load) -> None:
    """Every request was answered with 200."""
    wrong = Counter({status: n for status, n in load.statuses.items() if n and status != 200})
    assert not wrong, f"answers that are no 200: {dict(wrong)}"
