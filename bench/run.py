"""`make bench`: the agent and the reference side by side in one run, medians and ratios.

Both run as child processes on loopback with the same intake, the same requests and the same
driver, turn by turn, so that a machine whose speed drifts is fair to both. Of ours there are two
columns: the compiled twin and the plain one.

What is where: the payloads in payloads.py, load in driver.py, the intake in sink.py, starting and
reading /proc in programs.py, a run in measures.py, how cost grows in growth.py, stages inside our
process in inside.py, turns of the loop in turns.py with the requests of heavy.py, the flame graph
in flame.py, tables in report.py.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

import flame
import growth
import turns
from driver import Driver
from measures import (
    FLAT_CLIENTS,
    LATENCY_CLIENTS,
    LATENCY_REQUESTS,
    SMALL_REQUESTS,
    Bodies,
    measure,
)
from programs import COMPILED, PLAIN, REFERENCE, Program, which_twins
from report import DOCUMENT, Table, by_key, circumstances, document, side_by_side
from sink import Sink

if TYPE_CHECKING:
    from measures import Figures

RUNS = 5
LARGE_REQUESTS = 150
FLAT_S = 15.0
ALONE_S = 3.0

Section = tuple[str, str, list[Table]]


def main() -> int:
    options = _options()
    started_s = time.monotonic()
    twins = which_twins()
    if COMPILED not in twins:
        print("nothing is compiled here: there is no column for the compiled twin", flush=True)
    programs = [Program(name) for name in (*twins, REFERENCE)]
    bodies = Bodies(options.requests)
    facts = circumstances(options.runs, bodies.span_bytes, _command())
    sections: list[Section] = []
    with Sink() as sink:
        sections.append(_driver_alone(sink, bodies, options.alone))
        results: dict[str, list[Figures]] = {program.name: [] for program in programs}
        for number in range(options.runs):
            for program in programs:
                print(f"run {number + 1} of {options.runs}: {program.name}", flush=True)
                results[program.name].append(measure(program, sink, bodies, options.flat))
        inside = {name: _inside(name) for name in twins}
        for name, found in inside.items():
            for figures in results[name]:
                figures["sql70"] = next(iter(found["sql"].values()))
        sections.insert(0, ("Side by side", BESIDE, [side_by_side(results)]))
        sections.append(_stages(inside, results))
        if not options.brief:
            sections.append(_growth(programs, sink))
            print("turns of the loop", flush=True)
            found = turns.table(*turns.measure(twins, sink))
            sections.append(("Turns of the loop", TURNS, [found]))
            flame.draw(programs[0], sink, bodies)
            sections.append(("Where the time goes", f"{FLAME}\n\n![]({_picture()})", []))
    print("\n".join(facts))
    for title, _, tables in sections:
        for table in tables:
            print(f"\n{title}\n{table.text()}")
    if options.write:
        DOCUMENT.write_text(document(facts, sections))
    print(f"\n{(time.monotonic() - started_s) / 60:.0f} minutes")
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--runs", type=int, default=RUNS)
    parser.add_argument("--requests", type=int, default=LARGE_REQUESTS, help="large ones of a run")
    parser.add_argument("--flat", type=float, default=FLAT_S, help="seconds of flat out")
    parser.add_argument("--alone", type=float, default=ALONE_S, help="seconds of driver alone")
    parser.add_argument("--brief", action="store_true", help="no growth, no turns, no flame graph")
    parser.add_argument("--write", action="store_true", help=f"write {DOCUMENT.name}")
    return parser.parse_args()


def _command() -> str:
    return " ".join(["bench/run.py", *sys.argv[1:]])


def _picture() -> str:
    return os.path.relpath(flame.PICTURE, DOCUMENT.parent)


def _driver_alone(sink: Sink, bodies: Bodies, seconds: float) -> Section:
    """The same loads against an intake that answers at once."""
    sink.forget(keep=False)
    table = Table(["load", "requests/s", "MB/s", "p50 ms", "p99 ms", "driver's CPU, µs/request"])
    for name, requests, clients in (
        ("1 client, 1 span", bodies.small, 1),
        (f"{LATENCY_CLIENTS} clients, 10 spans", bodies.middle, LATENCY_CLIENTS),
        ("1 client, 1000 spans", bodies.large, 1),
        (f"{FLAT_CLIENTS} clients, 1000 spans", bodies.large, FLAT_CLIENTS),
    ):
        load = Driver(sink.port, requests, clients, seconds=seconds).result()
        answers = len(load.latencies_s)
        sent_mb = answers * sum(map(len, requests)) / len(requests) / 1e6
        table.rows.append(
            [
                name,
                f"{answers / load.elapsed_s:,.0f}",
                f"{sent_mb / load.elapsed_s:,.0f}",
                f"{load.latency_ms(0.5):.3f}",
                f"{load.latency_ms(0.99):.3f}",
                f"{1e6 * load.cpu_s / answers:.1f}",
            ]
        )
    return "The driver alone", ALONE, [table]


def _inside(twin: str) -> dict[str, dict[str, float]]:
    environment = {**os.environ, **({"MINI_AGENT_PLAIN": "1"} if twin == PLAIN else {})}
    script = str(Path(__file__).with_name("inside.py"))
    said = subprocess.check_output([sys.executable, script], env=environment)
    found: dict[str, dict[str, float]] = json.loads(said)
    return found


def _stages(
    inside: dict[str, dict[str, dict[str, float]]], results: dict[str, list[Figures]]
) -> Section:
    """CPU per span and per request by stage, what stats hold up, and SQL by length."""
    tables = []
    for stages, key, heading in (
        ("spans", "span", "1000 spans a request: µs per span"),
        ("requests", "request", "1 span a request: µs per request"),
    ):
        columns = {}
        for name, found in inside.items():
            whole = median(run[key] for run in results[name])
            rest = whole - sum(found[stages].values())
            columns[name] = {**found[stages], REMAINING: rest, "whole process": whole}
        tables.append(by_key(heading, columns))
    for part, heading in (
        ("pauses", "open stats, on the event loop: ms"),
        ("sql", "SQL not remembered: µs per 70 characters"),
    ):
        tables.append(by_key(heading, {name: found[part] for name, found in inside.items()}))
    return "By stage", STAGES, tables


def _growth(programs: list[Program], sink: Sink) -> Section:
    payloads, groups = {}, {}
    for program in programs:
        print(f"growth: {program.name}", flush=True)
        payloads[program.name] = growth.by_payload(program, sink)
        groups[program.name] = growth.by_groups(program, sink)
    tables = [
        by_key("spans per payload: µs per span", payloads),
        by_key("distinct stats groups: µs per span", groups),
    ]
    return "How cost grows", GROWTH, tables


REMAINING = "all else (difference)"

BESIDE = f"""\
One connection for the first figure; {SMALL_REQUESTS} requests for the third; {LATENCY_REQUESTS}
requests for the latencies, each client sending its next request as soon as the last is answered;
{FLAT_CLIENTS} clients in the same way, with payloads of 100 traces x 10 spans, for `flat out`.
Time from exec includes starting the interpreter. The reference has no entry for SQL alone, and no
journal. The goals are absolute; on the machine for which they were set the reference took 43 µs
for a span and 117 µs for a request of one span, so that its column tells how fast this one is."""

ALONE = """\
The same driver against the intake's own process, which reads and answers at once: what the
driver can do is far from what is asked of it below. Neither its CPU nor the intake's is in any
figure of an agent."""

STAGES = """\
In one process, the real parts one by one, each in its middle round, with stopwatches inside the
receiver; scaled to its time without them. `receive` is the socket, the event loop, HTTP and the
answer; `all else` is what the whole process takes more: sending stats, keeping open counts, the
seconds of waiting until all is delivered, and a processor shared with the driver."""

GROWTH = """\
CPU of the whole process, stats delivered, one run each. Where payloads are small, what a request
costs by itself is shared by fewer spans; linear is what stays level from there on. Of stats, the
agents count a limited number of groups apart and the rest together."""

TURNS = f"""\
The heaviest requests there may be, and how long the agent's event loop serves nobody else because
of them: its longest turn in ms until the answer, and the longest from there until the stats and
the batches are sent. A turn counts in CPU time of the loop's thread, garbage collector included,
so that others on the machine do not count; in brackets is the longest on the wall, disk included.
The whole request is in ms on the wall. Each figure is the median of {turns.ROUNDS} rounds, each of
a new agent, so that what is loaded on first use counts. None may take more than
{turns.TURN_MS_MAX:.0f} ms."""

FLAME = """\
Stacks of our process under load, from the socket to the journal and the intake: each function is
as wide as its share of the samples and stands above the one that called it; what is too narrow to
be read is left out. Open the picture by itself to see the shares."""


if __name__ == "__main__":
    sys.exit(main())
