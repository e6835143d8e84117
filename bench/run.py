"""`make bench`: the agent and the reference side by side in one run, medians and ratios.

Both run as child processes on loopback with the same intake, the same payloads and the same
driver, turn by turn, so that a machine whose speed drifts is fair to both. Figures come from the
kernel: CPU time and resident memory of the whole process.
"""

from __future__ import annotations

import argparse
import os
import platform
import socket
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from kit.agent import AgentProcess
from kit.intake import Intake
from kit.payloads import make_payload
from kit.ports import find_tcp_port
from kit.reference import ReferenceProcess

if TYPE_CHECKING:
    from kit.agent import ChildProcess

RUNS = 5
WARM_REQUESTS = 5
LOAD_REQUESTS = 60
TRACES, SPANS_EACH = 100, 10
SMALL_REQUESTS = 400

TICKS = os.sysconf("SC_CLK_TCK")


@dataclass
class Row:
    """One figure of both programs over all runs."""

    name: str
    unit: str
    ours: list[float]
    reference: list[float]

    def __str__(self) -> str:
        ours, theirs = statistics.median(self.ours), statistics.median(self.reference)
        ratio = ours / theirs if theirs else float("nan")
        return (
            f"{self.name:<44} {ours:>10.2f} {theirs:>10.2f} {self.unit:<4} {ratio:>6.2f} x"
            f"   ({min(self.ours):.2f} to {max(self.ours):.2f}; "
            f"{min(self.reference):.2f} to {max(self.reference):.2f})"
        )


def start(program: str, intake: Intake, folder: Path, port: int) -> ChildProcess:
    if program == "ours":
        return AgentProcess(
            {
                "DD_API_KEY": "key",
                "DD_APM_DD_URL": intake.url,
                "DD_APM_RECEIVER_PORT": str(port),
                "AWS_LAMBDA_INITIALIZATION_TYPE": "on-demand",
                "AWS_LAMBDA_FUNCTION_NAME": "fn",
                "MINI_AGENT_FLUSH_INTERVAL_S": "3",
            },
            folder,
        )
    return ReferenceProcess(
        {"DD_APM_DD_URL": intake.url, "DD_APM_RECEIVER_PORT": str(port)}, folder
    )


def wait_accepts(port: int) -> None:
    """Return as soon as a connection is accepted by the kernel."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            continue
        return
    raise AssertionError(f"port {port} never accepted")


def status_of(pid: int, key: str) -> float:
    """A size of /proc/PID/status, in MB."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(key + ":"):
            return int(line.split()[1]) * 1024 / 1e6
    raise AssertionError(key)


def cpu_s(pid: int) -> float:
    """CPU time of a process so far, user and system."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def one_run(program: str, figures: dict[str, list[float]]) -> None:
    with (
        tempfile.TemporaryDirectory(prefix="mini-agent-bench-") as folder,
        Intake(keep_payloads=False) as intake,
    ):
        port = find_tcp_port()
        started_s = time.monotonic()
        with start(program, intake, Path(folder), port) as child:
            wait_accepts(port)
            figures["accepts"].append((time.monotonic() - started_s) * 1000)
            child.port = port
            small = make_payload(1, 1)
            status, _ = child.send(small)
            assert status == 200, status
            figures["first"].append((time.monotonic() - started_s) * 1000)
            child.wait_ready()
            intake.wait_for_spans(1)
            figures["idle"].append(status_of(child.pid, "VmRSS"))
            # All different: a body sent twice would compress to nothing.
            bodies = [
                make_payload(TRACES, SPANS_EACH) for _ in range(WARM_REQUESTS + LOAD_REQUESTS)
            ]
            for body in bodies[:WARM_REQUESTS]:
                child.send(body)
            before_s = cpu_s(child.pid)
            for body in bodies[WARM_REQUESTS:]:
                status, _ = child.send(body)
                assert status == 200, status
            sent = 1 + len(bodies) * TRACES * SPANS_EACH
            intake.wait_for_spans(sent, 60)
            spans = LOAD_REQUESTS * TRACES * SPANS_EACH
            figures["span"].append((cpu_s(child.pid) - before_s) * 1e6 / spans)
            before_s = cpu_s(child.pid)
            for _ in range(SMALL_REQUESTS):
                child.send(small)
            figures["request"].append((cpu_s(child.pid) - before_s) * 1e6 / SMALL_REQUESTS)
            figures["peak"].append(status_of(child.pid, "VmHWM"))
            sizes = [each for each in intake.arrivals if each.wire_bytes]
            count = sum(len(each.spans) for each in sizes) or sent
            figures["wire"].append(sum(each.wire_bytes for each in sizes) / count)


ROWS = (
    ("accepts", "exec to the port accepting", "ms"),
    ("first", "exec to the first answered trace", "ms"),
    ("idle", "resident memory, idle, everything loaded", "MB"),
    ("span", "CPU per span, 100 traces x 10 spans", "µs"),
    ("request", "CPU per one-span request", "µs"),
    ("wire", "bytes sent per span", "B"),
    ("peak", "peak resident memory of this run", "MB"),
)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=RUNS)
    runs = parser.parse_args().runs
    figures: dict[str, dict[str, list[float]]] = {
        program: {key: [] for key, _, _ in ROWS} for program in ("ours", "reference")
    }
    for _ in range(runs):
        for program, its_figures in figures.items():
            one_run(program, its_figures)
    print(
        f"median of {runs} runs in turn; Python {platform.python_version()}, "
        f"{platform.system()} {platform.machine()}, {os.cpu_count()} processors"
    )
    print(f"{'':<44} {'ours':>10} {'reference':>10}")
    for key, name, unit in ROWS:
        print(Row(name, unit, figures["ours"][key], figures["reference"][key]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
