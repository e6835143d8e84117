"""`python bench/inside.py`: what a span and a request cost by stage, and SQL by length.

The listener, the receiver, the journal and the forwarder are the agent's own and do here, in this
process, what they do there, from the socket to the request to an intake. What the whole process
takes besides, `bench/run.py` prints as the difference. Says its figures as one line of JSON,
because it is run once for each twin.
"""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
import time
from collections import Counter
from statistics import median
from typing import TYPE_CHECKING, Any

import msgspec
from driver import Driver, requests_of
from measures import check_taken
from payloads import Traffic
from programs import SETTINGS
from receiving import REST, Receiving, Stopwatch, cpu_ns, measure
from sink import Sink

from mini_agent import assembly, identity
from mini_agent.assembly import TRACES
from mini_agent.config import Config
from mini_agent.flow.clock import Clock
from mini_agent.flow.loop import make_loop
from mini_agent.flow.worker import Worker
from mini_agent.forward.forwarder import Forwarder
from mini_agent.forward.journal import Journal
from mini_agent.ledger import Ledger
from mini_agent.listen.bind import bind_tcp
from mini_agent.listen.http import HttpLimits, HttpServer
from mini_agent.listen.stream import StreamListener
from mini_agent.traces.obfuscate.sql import obfuscate_sql
from mini_agent.wire.http import Response, Route

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterator
    from typing import TypeVar

    from mini_agent.forward.payload import Record

    T = TypeVar("T")

BODIES, ROUNDS = 6, 8
SMALL_REQUESTS, SMALL_ROUND = 4000, 1000
RECEIVED_ROUNDS = 3
SPANS = BODIES * 100 * 10

KEEPING_PLACES = (
    ("journal", "forward.journal", "Journal.append"),
    ("compress", "forward.packed", "Packer.pack"),
)
SENDING_PLACES = (
    ("compress", "forward.intake", "_compress"),
    ("send", "forward.intake", "Intake.deliver"),
)

# The last is as many as one tracer gets; see traces/concentrator.py.
OPEN_GROUPS = (10, 1000, 7000)
# Each of another duration: a sketch of so many bins.
GROUP_SPANS = 10

QUERY_LENGTHS = (70, 700, 7000, 70_000)
QUERIES = 100


def by_span() -> dict[str, float]:
    """Microseconds of CPU for a span of large requests, by stage, each in its middle round."""
    traffic = Traffic()
    rounds = [traffic.bodies(BODIES) for _ in range(ROUNDS)]
    received = requests_of([body for bodies in rounds for body in bodies], 100)
    whole, _, timed = measure(rounds, SPANS, median)
    # Stopwatches take time too; what the stages come to is what they come to without.
    share = whole / sum(timed.values())
    found = {"receive": _receive_us(received) / 1000}
    found |= {stage: us * share for stage, us in timed.items() if stage != REST}
    found["answer and books"] = timed[REST] * share
    return found | _kept_and_sent(rounds, SPANS)


def by_request() -> dict[str, float]:
    """The same for requests of one span."""
    bodies = Traffic().bodies(SMALL_REQUESTS, 1, 1)
    rounds = [bodies[at : at + SMALL_ROUND] for at in range(0, len(bodies), SMALL_ROUND)]
    receiver, _, _ = measure(rounds, SMALL_ROUND, median)
    received = _receive_us(requests_of(bodies, 1))
    kept = _kept_and_sent(rounds, SMALL_ROUND)
    return {"receive": received, "receiver: decode to encode": receiver, **kept}


def _receive_us(requests: list[bytes]) -> float:
    """CPU for a request that nobody looks into: socket, event loop, HTTP and the answer."""

    async def serve() -> int:
        bound = bind_tcp("127.0.0.1", 0)
        route = Route(lambda _: Response(200, b"{}"), frozenset({"PUT"}), takes_body=True)
        server = HttpServer({"/v0.4/traces": route}, HttpLimits(), Ledger(), Clock(), "state")
        listener = StreamListener(bound, server)
        accepting = asyncio.create_task(listener.run())
        driver = Driver(int(bound.url.rpartition(":")[2]), requests, count=len(requests))
        before_ns = time.process_time_ns()
        # The thread waits; it takes nothing.
        load = await asyncio.to_thread(driver.result)
        spent_ns = time.process_time_ns() - before_ns
        check_taken(load)
        listener.stop()
        await accepting
        return spent_ns

    spent_ns = median(_run(serve()) for _ in range(RECEIVED_ROUNDS))
    return spent_ns / 1000 / len(requests)


def _kept_and_sent(rounds: list[list[bytes]], spans: int) -> dict[str, float]:
    """What the journal and the forwarder take for a span, by stage."""
    found: list[Counter[str]] = []
    appending = Stopwatch(KEEPING_PLACES)
    # This one waits for the intake; its stages are long enough for a slow clock.
    delivering = Stopwatch(SENDING_PLACES, time.process_time_ns)
    with tempfile.TemporaryDirectory(prefix="mini-agent-bench-") as folder, Sink() as sink:
        sink.forget(keep=False)
        config = Config.read(
            {**SETTINGS, "DD_APM_DD_URL": sink.url, "MINI_AGENT_JOURNAL_DIR": folder}
        )
        host, clock, ledger = identity.detect(SETTINGS), Clock(), Ledger()
        destination: Any = assembly.make_destination(config, host, clock)
        journal = Journal(
            assembly.make_folder(config, host, destination.url),
            bytes_max=config.journal_bytes_max,
            memory_bytes_max=config.memory_bytes_max,
            batch_age_s_max=config.flush_interval_s,
            packing_level=config.compression_level,
            clock=clock,
            ledger=ledger,
        )
        journal.open()
        worker = Worker("sender")
        records: list[list[Record]] = []
        receiving = Receiving(keep=records.append)

        async def deliver() -> None:
            forwarder = Forwarder(journal, destination, worker, clock)
            forwarder.stop()
            await forwarder.run()

        for bodies in rounds:
            for body in bodies:
                receiving.take(body)
            with appending.placed():
                appending.start()
                for each in records:
                    journal.append(TRACES, each)
                taken = Counter(appending.stop())
            # Nothing but this loop.
            del taken[REST]
            records.clear()
            with delivering.placed():
                delivering.start()
                _run(deliver())
                found.append(taken + Counter(delivering.stop()))
        worker.close()
        journal.close()
    middle = {stage: median([each[stage] for each in found]) for stage in found[0]}
    middle["read back and settle"] = middle.pop(REST)
    return {stage: ns / 1000 / spans for stage, ns in middle.items()}


def stats_pauses() -> dict[str, float]:
    """How long, in milliseconds of CPU, the event loop does nothing else for open stats.

    Open stats are kept once a second, and sent when their bucket is complete; both in steps.
    """
    found = {}
    for groups in OPEN_GROUPS:
        receiving = Receiving()
        assert receiving.stats is not None
        for body in _grouped(groups):
            receiving.take(body)
        for name, steps in (
            ("keeping", receiving.stats.snapshot(lambda _: None)),
            ("sending", receiving.stats.flush(everything=True)),
        ):
            found[f"a step of {name}, {groups:,} groups"] = _longest_ns(steps) / 1e6
    return found


def _longest_ns(steps: Iterator[None]) -> int:
    """CPU of the longest step, the last one too, which gives nothing."""
    longest_ns, more = 0, True
    while more:
        began_ns = time.process_time_ns()
        more = next(steps, steps) is not steps
        longest_ns = max(longest_ns, time.process_time_ns() - began_ns)
    return longest_ns


def _grouped(groups: int) -> Iterator[bytes]:
    """Web spans, each in a trace of its own, a few of them in each group of stats."""
    traffic = Traffic()
    for begin in [*range(0, groups, 1000)] * GROUP_SPANS:
        traces = [traffic.trace(1) for _ in range(min(1000, groups - begin))]
        for number, (span,) in enumerate(traces):
            # Resources that differ are counted apart up to a limit, so services do too.
            span |= {"resource": f"GET /page/{number}", "service": f"service-{begin}"}
        yield msgspec.msgpack.encode(traces)


def _run(work: Coroutine[Any, Any, T]) -> T:
    """On a loop as the agent's."""
    with asyncio.Runner(loop_factory=make_loop) as runner:
        return runner.run(work)


def sql() -> dict[str, float]:
    """Microseconds for 70 characters of queries of several lengths, none seen before."""
    found = {}
    for length in QUERY_LENGTHS:
        queries = [_query(number, length) for number in range(max(4, QUERIES * 70 // length))]
        best_ns = min(
            cpu_ns(lambda query: obfuscate_sql(query, ""), queries) for _ in range(ROUNDS)
        )
        found[f"{length} characters"] = best_ns / 1000 * 70 / sum(map(len, queries))
    return found


def _query(number: int, length: int) -> str:
    query = f"SELECT price FROM offers WHERE sku = 'SKU-{number:08}' AND region = 1{number:04}"
    while len(query) < length:
        number += 1
        query += f" OR o.sku = 'SKU-{number:08}' AND region = {number % 90 + 10}"
    return query[:length]


def main() -> int:
    found = {"spans": by_span(), "requests": by_request(), "pauses": stats_pauses(), "sql": sql()}
    print(json.dumps(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
