"""`python bench/turns.py`: the longest turn of the agent's event loop, by the heaviest requests.

While a turn lasts nobody else is served; none may take more than TURN_MS_MAX. What runs is the
agent as the launcher starts it, a process with its listener, journal, stats, deliveries and
garbage collector as they are; only the loop's selector is one that notes the time (watched.py).
A request comes over a socket from another process, and is followed until nothing of it is left:
it was accepted, read, worked on, kept and answered, and then its stats were kept and sent and its
batches delivered. See heavy.py for the requests.

A turn is what the loop does between two questions to the system, and counts in CPU time of the
loop's own thread, the garbage collector's included: others on the machine and other threads only
ever add to a clock on the wall. What a turn waits for, such as a disk, is in no CPU time; so both
are printed. Of several rounds the middle counts. Each has a new agent, so that what is loaded on
first use counts, and other bodies.

MINI_AGENT_PLAIN=1 measures the plain twin alone.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import os
import platform
import signal
import socket
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from heavy import KINDS
from programs import PLAIN, Program, which_twins
from report import Table
from sink import Sink
from watched import FIELDS, FILE_BYTES, TURNS_MAX, open_notes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from heavy import Kind
    from programs import Running

ROUNDS = 3
# What no turn may take.
TURN_MS_MAX = 20.0

# Batches are sent sooner than they would be, as one request after another is waited for.
SETTINGS = {"MINI_AGENT_FLUSH_INTERVAL_S": "0.5"}
SETTLE_S_MAX = 60.0
ASK_INTERVAL_S = 0.2
# Enough to fill the sockets.
STOPPED_S = 0.3
ANSWER_S_MAX = 60.0
REST_S = 0.05


class Found:
    """Milliseconds of one request.

    Attributes:
        during, after: The longest turn until the answer, and from there until nothing is left, in
            CPU time.
        during_wall, after_wall: The same by the clock on the wall.
        whole: From the first byte of the request to the last of the answer.
    """

    __slots__ = ("after", "after_wall", "during", "during_wall", "whole")

    def __init__(
        self, during: float, during_wall: float, after: float, after_wall: float, whole: float
    ) -> None:
        self.during = during
        self.during_wall = during_wall
        self.after = after
        self.after_wall = after_wall
        self.whole = whole

    @classmethod
    def middle(cls, several: Sequence[Found]) -> Found:
        """Each figure by itself."""
        return cls(*(median(getattr(each, key) for each in several) for key in _FIGURES))

    @property
    def longest(self) -> float:
        return max(self.during, self.after)


_FIGURES = ("during", "during_wall", "after", "after_wall", "whole")

# By kind, then by twin.
Results = dict[str, dict[str, Found]]


class _Watched(Program):
    """An agent with a loop that is watched.

    Args:
        notes: The file for them.
    """

    def __init__(self, name: str, notes: Path) -> None:
        super().__init__(name)
        notes.write_bytes(bytes(FILE_BYTES))
        self._notes = open_notes(str(notes))
        *words, program = self._command
        here = str(Path(__file__).parent)
        before = f"import sys; sys.path.append({here!r}); import watched; sys.path.pop(); "
        # The agent's own program sets up the path by which it is found.
        path, call = program.split("; from ", 1)
        self._command = [*words, f"{before}{path}; watched.place({str(notes)!r}); from {call}"]

    def turns(self, seen: int) -> list[tuple[float, float, float]]:
        """Those after so many, as (began_s, ended_s, cpu_s)."""
        assert self.count - seen < TURNS_MAX, "more turns than there is room for"
        firsts = (1 + FIELDS * (number % TURNS_MAX) for number in range(seen, self.count))
        return [(self._notes[at], self._notes[at + 1], self._notes[at + 2]) for at in firsts]

    @property
    def count(self) -> int:
        """How many turns there were."""
        return int(self._notes[0])


def measure(
    twins: Sequence[str], sink: Sink, kinds: Sequence[Kind] = KINDS, rounds: int = ROUNDS
) -> tuple[Results, dict[str, float]]:
    """Every kind on every twin, the middle of all rounds; and the size of each body in MB."""
    all_found: dict[str, dict[str, list[Found]]] = {kind.name: {} for kind in kinds}
    sizes_mb: dict[str, float] = {}
    sink.forget(keep=False)
    for number in range(rounds):
        with tempfile.TemporaryDirectory(prefix=_PREFIX) as folder, contextlib.ExitStack() as stack:
            agents = [stack.enter_context(_running(twin, Path(folder), sink)) for twin in twins]
            for kind in kinds:
                request = kind.request(seed=number + 1)
                sizes_mb[kind.name] = len(request) / 1e6
                for program, found in _send(agents, kind, request):
                    all_found[kind.name].setdefault(program.name, []).append(found)
    results = {
        kind: {twin: Found.middle(several) for twin, several in by_twin.items()}
        for kind, by_twin in all_found.items()
    }
    return results, sizes_mb


_PREFIX = "mini-agent-bench-"


@contextlib.contextmanager
def _running(twin: str, folder: Path, sink: Sink) -> Iterator[tuple[_Watched, Running]]:
    """A new agent that has come to rest."""
    program = _Watched(twin, folder / f"{twin}-turns")
    with program.running(folder / twin, sink.url, SETTINGS) as agent:
        # Its port accepts before everything is loaded.
        _wait(agent.port, _is_settled)
        yield program, agent


def _send(
    agents: Sequence[tuple[_Watched, Running]], kind: Kind, request: bytes
) -> Iterator[tuple[_Watched, Found]]:
    """The same request to one after the other, then what became of it."""
    sent = []
    for program, agent in agents:
        seen = program.count
        began_s, answers = _exchange(agent, kind, request)
        statuses = {status for status, _ in answers}
        assert statuses == {kind.status}, f"{program.name}, {kind.name}: {statuses}"
        sent.append((program, agent, seen, began_s, max(at_s for _, at_s in answers)))
    for program, agent, seen, began_s, finished_s in sent:
        _wait(agent.port, _is_settled)
        # A turn that began before the answer came may be the one that gave it.
        during: list[tuple[float, float]] = [(0.0, 0.0)]
        after: list[tuple[float, float]] = [(0.0, 0.0)]
        for turn_began_s, ended_s, cpu_s in program.turns(seen):
            turns = during if turn_began_s <= finished_s else after
            turns.append((1000 * cpu_s, 1000 * (ended_s - turn_began_s)))
        during_ms, during_wall_ms = map(max, zip(*during, strict=True))
        after_ms, after_wall_ms = map(max, zip(*after, strict=True))
        whole_ms = 1000 * (finished_s - began_s)
        yield program, Found(during_ms, during_wall_ms, after_ms, after_wall_ms, whole_ms)


def _exchange(agent: Running, kind: Kind, request: bytes) -> tuple[float, list[tuple[int, float]]]:
    """Send it from every client; when that began, and the status and the time of each answer.

    Several clients have connections that the agent knows, and send while it is stopped: it finds
    all of them ready in the same turn, which otherwise is a matter of luck.
    """
    several = kind.clients > 1
    with contextlib.ExitStack() as stack:
        clients = [
            stack.enter_context(socket.create_connection(("127.0.0.1", agent.port), ANSWER_S_MAX))
            for _ in range(kind.clients)
        ]
        threads = stack.enter_context(ThreadPoolExecutor(kind.clients))
        if several:
            # One more has the answer to this question.
            _wait(agent.port, lambda page: page["connections"] > kind.clients)
            os.kill(agent.pid, signal.SIGSTOP)
        try:
            began_s = time.perf_counter()
            answers = [threads.submit(_ask, client, request) for client in clients]
            if several:
                time.sleep(STOPPED_S)
                began_s = time.perf_counter()
        finally:
            os.kill(agent.pid, signal.SIGCONT)
        return began_s, [answer.result() for answer in answers]


def _ask(client: socket.socket, request: bytes) -> tuple[int, float]:
    client.sendall(request)
    answer = http.client.HTTPResponse(client)
    answer.begin()
    answer.read()
    return answer.status, time.perf_counter()


def _wait(port: int, is_so: Callable[[dict[str, Any]], bool]) -> None:
    """Wait until the agent's status page says so."""
    deadline_s = time.monotonic() + SETTLE_S_MAX
    while True:
        time.sleep(ASK_INTERVAL_S)
        connection = http.client.HTTPConnection("127.0.0.1", port)
        connection.request("GET", "/status")
        page = json.loads(connection.getresponse().read())
        connection.close()
        if is_so(page):
            break
        assert time.monotonic() < deadline_s, f"not within {SETTLE_S_MAX} s: {page}"
    # The turn that gave this answer ends a little after it.
    time.sleep(REST_S)


def _is_settled(page: dict[str, Any]) -> bool:
    """Whether nothing is left that the agent could do."""
    return not page["open_stats_groups"] and not page["journal"]["batches"]


def table(results: Results, sizes_mb: Mapping[str, float]) -> Table:
    """A row for each kind."""
    twins = list(next(iter(results.values())))
    words = ("until the answer", "after it", "whole")
    found = Table(["request", "MB", *(f"{twin}: {w}" for twin in twins for w in words), _KEPT])
    for kind, by_twin in results.items():
        late = [twin for twin in twins if by_twin[twin].longest > TURN_MS_MAX]
        cells = []
        for twin in twins:
            each = by_twin[twin]
            cells += [
                f"{each.during:.1f} ({each.during_wall:.1f})",
                f"{each.after:.1f} ({each.after_wall:.1f})",
                f"{each.whole:,.0f}",
            ]
        verdict = ", ".join(f"{twin}: NO" for twin in late) or "yes"
        found.rows.append([kind, f"{sizes_mb[kind]:.1f}", *cells, verdict])
    return found


_KEPT = f"within {TURN_MS_MAX:.0f} ms"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--kinds", default="", help="only those with this in their name")
    options = parser.parse_args()
    twins = [PLAIN] if os.environ.get("MINI_AGENT_PLAIN") else which_twins()
    kinds = [kind for kind in KINDS if options.kinds in kind.name]
    with Sink() as sink:
        results = measure(twins, sink, kinds, options.rounds)
    print(
        f"Python {platform.python_version()}, median of {options.rounds}; the longest turn in ms "
        f"of CPU of the loop's thread, in brackets on the wall; the whole request on the wall"
    )
    print(table(*results).text())
    return 0


if __name__ == "__main__":
    sys.exit(main())
