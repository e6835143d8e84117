"""The figures as tables: on the terminal, and as docs/benchmarks.md."""

from __future__ import annotations

import os
import platform
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from programs import COMPILED, PLAIN, REFERENCE, REFERENCE_PACKAGE, ROOT

from mini_agent import __version__

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from measures import Figures

DOCUMENT = ROOT / "docs" / "benchmarks.md"

# Each at most; by column, or for every twin of ours.
Goal = float | dict[str, float] | None


class Row:
    """One figure.

    Attributes:
        key: In what was measured.
        goal: What ours may be at most; None where none is set.
        digits: Behind the decimal point.
    """

    def __init__(self, key: str, name: str, unit: str, goal: Goal = None, digits: int = 1) -> None:
        self.key = key
        self.name = name
        self.unit = unit
        self.goal = goal
        self.digits = digits

    def goal_of(self, column: str) -> float | None:
        return self.goal.get(column) if isinstance(self.goal, dict) else self.goal


ROWS = (
    Row("span", "CPU per span, 100 traces x 10 spans", "µs", {COMPILED: 1.0, PLAIN: 12.0}, 2),
    Row("stats", "of that, stats per span that is counted", "µs", {COMPILED: 0.25}, 2),
    Row("request", "CPU per request of one span, one kept connection", "µs", {COMPILED: 50.0}),
    Row("p50", "latency, 4 clients, 10 spans each: p50", "ms", {COMPILED: 0.4}, 2),
    Row("p99", "latency p99", "ms", {COMPILED: 2.0}, 2),
    Row("max", "latency at most", "ms", {COMPILED: 30.0}),
    Row("wire", "bytes sent per span", "B", 55.0),
    Row("missing", "spans taken that never reached the intake", "", 0.0, 0),
    Row("idle", "resident memory, idle, everything loaded", "MB", 24.0),
    Row("idle_cpu", "CPU while idle, per second", "ms", None, 2),
    Row("accepts", "exec to the port accepting", "ms", 15.0),
    Row("first", "exec to the first answered trace", "ms", 70.0),
    Row("flat_mb_s", "flat out, 8 clients: taken per second", "MB"),
    Row("flat_rss", "flat out: most resident memory", "MB", 48.0),
    Row("flat_journal", "flat out: journal on disk at most", "MB"),
    Row("flat_refused", "flat out: requests not taken", "", None, 0),
    Row("flat_unanswered", "flat out: of those, without an answer", "", 0.0, 0),
    Row("sql70", "SQL obfuscation, not remembered, 70 characters", "µs", {COMPILED: 3.0}, 2),
)


class Table:
    """Cells, the first row being the heading; columns but the first are set to the right."""

    def __init__(self, *rows: Sequence[str]) -> None:
        self.rows: list[Sequence[str]] = list(rows)

    def text(self) -> str:
        widths = [max(map(len, column)) for column in zip(*self.rows, strict=True)]
        return "\n".join(
            "  ".join(
                cell.rjust(width) if index else cell.ljust(width)
                for index, (cell, width) in enumerate(zip(row, widths, strict=True))
            )
            for row in self.rows
        )

    def markdown(self) -> str:
        heading, *rows = (f"| {' | '.join(row)} |" for row in self.rows)
        rule = "| --- |" + " ---: |" * (len(self.rows[0]) - 1)
        return "\n".join((heading, rule, *rows))


def side_by_side(results: Mapping[str, Sequence[Figures]]) -> Table:
    """Medians with least and most, the ratio to the reference, and the goal."""
    ours = [name for name in results if name != REFERENCE]
    ratios = [f"{name} / reference" for name in ours]
    table = Table(["figure", "unit", *results, *ratios, "goal", "met"])
    for row in ROWS:
        values = {
            name: [run[row.key] for run in runs if row.key in run] for name, runs in results.items()
        }
        if not any(values.values()):
            continue
        middle = {name: median(found) for name, found in values.items() if found}
        table.rows.append(
            [
                row.name,
                row.unit,
                *(_spread(found, row.digits) for found in values.values()),
                *(_ratio(middle.get(name), middle.get(REFERENCE)) for name in ours),
                *_verdict(row, {name: middle[name] for name in ours if name in middle}),
            ]
        )
    return table


def _spread(values: Sequence[float], digits: int) -> str:
    if not values:
        return "-"
    middle, least, most = (f"{f(values):.{digits}f}" for f in (median, min, max))
    return middle if least == most else f"{middle} ({least} to {most})"


def _ratio(ours: float | None, reference: float | None) -> str:
    return f"{ours / reference:.3f}" if ours is not None and reference else "-"


def _verdict(row: Row, ours: Mapping[str, float]) -> tuple[str, str]:
    """The goals and whether each is met, by column where they differ."""
    goals = {name: row.goal_of(name) for name in (COMPILED, PLAIN)}
    said = {name: f"{goal:g}" for name, goal in goals.items() if goal is not None}
    if not said:
        return "", ""
    verdicts = [
        f"{name}: {'yes' if ours[name] <= goal else 'NO'}"
        for name, goal in goals.items()
        if goal is not None and name in ours
    ]
    goal = said[COMPILED] if len(set(said.values())) == 1 else " / ".join(said.values())
    return goal, ", ".join(verdicts) or "not measured"


def by_key(heading: str, results: Mapping[str, Mapping[str, float]], digits: int = 2) -> Table:
    """Columns of named figures, in the order of the first that has most of them."""
    keys = list(dict.fromkeys(key for column in results.values() for key in column))
    table = Table([heading, *results])
    for key in keys:
        found = [column.get(key) for column in results.values()]
        table.rows.append([key, *("-" if each is None else f"{each:.{digits}f}" for each in found)])
    return table


def circumstances(runs: int, span_bytes: float, command: str) -> list[str]:
    """What one must know to judge the figures."""
    memory_gb = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    return [
        f"{datetime.now(UTC):%Y-%m-%d}, `{command}`: median of {runs} runs in turn, in brackets "
        "least and most",
        f"machine: {os.cpu_count()} processors, {_processor()}, {memory_gb:.0f} GB of memory; "
        f"{platform.system()} {platform.release().split('-')[0]}, {platform.machine()}",
        f"mini-agent {__version__}, {platform.python_implementation()} "
        f"{platform.python_version()}; reference: {REFERENCE_PACKAGE.replace('==', ' ')}",
        f"payload: bench/payloads.py, {span_bytes:.0f} bytes a span on average",
    ]


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def document(
    circumstances: Sequence[str], sections: Iterable[tuple[str, str, Sequence[Table]]]
) -> str:
    """The page: what was measured on what, then a table or two for each question."""
    parts = ["# Benchmarks", INTRODUCTION, "\n".join(f"- {each}" for each in circumstances)]
    for title, words, tables in sections:
        parts += [f"## {title}", words, *(table.markdown() for table in tables)]
    return "\n\n".join(part for part in parts if part) + "\n"


INTRODUCTION = """\
Written by `.venv/bin/python bench/run.py --write`; `make bench` prints the same and takes half an
hour. The programs run as child processes on loopback, turn by turn, with the same requests from
the same driver and the same intake, each of which is a process of its own. CPU is the kernel's
figure for the whole process, threads and children included, until everything that was sent, and
the stats of it, has reached the intake. Stats are on, and so is the obfuscation of SQL, Redis and
HTTP; everything else is at its default, the journal on disk too."""
