"""The supervision table in agent.py, part by part: each is killed, and what the table says happens.

The table is read from the module's docstring, so what it says is what is expected here. The named
pipe, which is one of the listeners, is killed in windows/test_pipe_agent.py.
"""

from __future__ import annotations

import ast
import contextlib
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from kit.agent import AgentProcess, ChildProcess
from kit.contracts import SocketClient
from kit.http_client import read_answer, request
from kit.intake import Intake
from kit.payloads import encode, make_span, make_traces, span_ids
from kit.supervision import LISTENER, Row, read_table
from kit.tracers import PROGRAMS
from kit.waiting import until

import mini_agent
from mini_agent.flow.supervise import RESTARTS_MAX
from mini_agent.forward.batch import read_folder

pytestmark = pytest.mark.skipif(
    not hasattr(socket, "AF_UNIX"), reason="this system has no Unix sockets"
)

TABLE = read_table()

# The table's rows, and for the listeners one part for each transport.
PARTS = [name for name in TABLE if name != LISTENER]
PARTS += [f"{LISTENER} http://", f"{LISTENER} unix://"]

SPANS = 4
UPLOAD_S_MAX = 0.1


def row_of(part: str) -> Row:
    return TABLE[LISTENER if part.startswith(LISTENER) else part]


class Scene:
    """One agent with every part there is, one of which can be killed.

    Its port is in other hands where the part is the one that waits for it.
    """

    READY = re.compile(r"^mini-agent .* ready: traces on (http://(?P<host>[\d.]+):(?P<port>\d+))?")

    def __init__(self, intake: Intake, folder: Path, part: str, deaths: int = 0) -> None:
        self.intake = intake
        self.journal = folder / "journal"
        self.socket_path = str(folder / "apm.socket")
        self.held = contextlib.ExitStack()
        self.port = 0
        self.left: set[int] = set()
        if part == "TCP port retry":
            holder = self.held.enter_context(socket.create_server(("127.0.0.1", 0)))
            self.port = holder.getsockname()[1]
        self.settings = {
            "DD_API_KEY": "key",
            "DD_APM_DD_URL": intake.url,
            "DD_APM_RECEIVER_PORT": str(self.port),
            "DD_APM_RECEIVER_SOCKET": self.socket_path,
            "DD_APM_RECEIVER_TIMEOUT": str(UPLOAD_S_MAX),
            "DD_AGENT_STATS_COMPUTATION_ENABLED": "true",
            "MINI_AGENT_FLUSH_INTERVAL_S": "0.1",
            "MINI_AGENT_JOURNAL_DIR": str(self.journal),
        }
        self._folder = folder
        self._command = [sys.executable, str(PROGRAMS / "fragile_agent.py"), part, str(deaths)]

    def start(self, **settings: str) -> ChildProcess:
        settings = {**self.settings, **settings}
        return ChildProcess(self._command, settings, self._folder, self.READY, subprocess.PIPE)

    def leave_spans(self) -> None:
        """Let a predecessor be killed before it could deliver."""
        self.intake.answer_always(503)
        with AgentProcess(self.settings, self._folder) as predecessor:
            predecessor.wait_ready()
            made = make_traces(2, 3)
            assert predecessor.send(encode(made))[0] == 200
            predecessor.kill()
            predecessor.wait()
        self.left = span_ids(made)
        self.intake.answer_always(202)

    def connect(self, agent: ChildProcess, transport: str) -> SocketClient:
        if transport == "unix":
            return SocketClient(socket.AF_UNIX, self.socket_path)
        return SocketClient(socket.AF_INET, ("127.0.0.1", agent.port))

    def send(self, agent: ChildProcess, transport: str = "unix") -> set[int]:
        """Send some spans that count in the stats; the ids of those acknowledged."""
        started_ns = time.time_ns() - 1000
        made = [[make_span(start=started_ns, duration=1000)] for _ in range(SPANS)]
        client = self.connect(agent, transport)
        client.send(request("POST", "/v0.4/traces", body=encode(made)))
        answer = read_answer(client.read)
        client.close()
        assert answer is not None
        assert answer.status == 200
        return span_ids(made)

    def hits(self) -> int:
        return sum(entry["Hits"] for entry in self.intake.stats_entries())

    def kept_count(self) -> int:
        """Spans in the journal, whoever's."""
        folders = read_folder(str(self.journal))
        return sum(
            record.count for kind, records in folders if kind == "traces" for record in records
        )


# How it is seen that a part does its work again, by row of the table.


def listens_again(scene: Scene, agent: ChildProcess) -> None:
    for transport in ("tcp", "unix"):
        ids = scene.send(agent, transport)
        scene.intake.wait_for(lambda ids=ids: ids <= scene.intake.ids)


def delivers_again(scene: Scene, agent: ChildProcess) -> None:
    ids = scene.send(agent)
    scene.intake.wait_for(lambda: ids <= scene.intake.ids)


def watches_again(scene: Scene, agent: ChildProcess) -> None:
    client = scene.connect(agent, "tcp")
    client.send(request("POST", "/v0.4/traces", body=bytes(100))[:-1])
    answer = read_answer(client.read)
    assert answer is not None
    assert answer.status == 408
    client.close()


def adopts_again(scene: Scene, agent: ChildProcess) -> None:
    scene.intake.wait_for(lambda: scene.left <= scene.intake.ids)


def asks_for_the_port_again(scene: Scene, agent: ChildProcess) -> None:
    scene.held.close()
    agent.wait_line(lambda line: "is free now" in line)
    agent.port = scene.port
    scene.send(agent, "tcp")


def keeps_stats_again(scene: Scene, agent: ChildProcess) -> None:
    scene.send(agent)
    until(lambda: list(scene.journal.glob("*/*.checkpoint")))


WORKS_AGAIN: dict[str, Callable[[Scene, ChildProcess], None]] = {
    LISTENER: listens_again,
    "forwarder": delivers_again,
    "connection watch": watches_again,
    "adoption": adopts_again,
    "TCP port retry": asks_for_the_port_again,
    "stats clock": keeps_stats_again,
}


def started_parts() -> Iterator[str]:
    """What the program's text starts as parts, by the names in the table."""
    for path in Path(mini_agent.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_bytes())):
            match node:
                case ast.Call(ast.Attribute(ast.Name("parts"), "start"), [name, *_]):
                    yield part_name(name)


def part_name(name: ast.expr) -> str:
    match name:
        case ast.Constant(str(text)):
            return text
        case ast.Call(ast.Name("_part_name")):
            return LISTENER
    raise AssertionError(f"what part is {ast.unparse(name)}?")


def test_every_part_that_is_started_has_a_row_and_every_row_is_tried() -> None:
    assert set(started_parts()) == set(TABLE)
    assert set(WORKS_AGAIN) == set(TABLE)


@pytest.mark.parametrize("part", PARTS)
def test_a_part_that_dies_is_restarted_and_works_as_before(
    intake: Intake, tmp_path: Path, part: str
) -> None:
    assert row_of(part).restarted
    # Adoption is over soon: it can only be killed right at the start.
    at_once = 2 if part == "adoption" else 0
    scene = Scene(intake, tmp_path, part, at_once)
    if at_once:
        scene.leave_spans()
    with scene.held, scene.start() as agent:
        agent.wait_ready()
        ids = scene.send(agent)
        agent.tell("k" * (2 - at_once))
        until(lambda: sum("starting it again" in line for line in agent.lines) == 2)
        WORKS_AGAIN[row_of(part).part](scene, agent)
        agent.terminate()
        assert agent.wait() == 0
    deaths = [line for line in agent.lines if "died" in line]
    assert all(f"{part}" in line for line in deaths), deaths
    assert ids | scene.left <= intake.ids
    assert set(intake.id_counts.values()) == {1}
    assert agent.lines[-1].endswith("; balanced")


@pytest.mark.parametrize("part", [part for part in PARTS if part != "adoption"])
def test_a_part_that_stays_dead_ends_the_agent_in_order_and_is_named(
    intake: Intake, tmp_path: Path, part: str
) -> None:
    scene = Scene(intake, tmp_path, part)
    # Nothing is delivered before the end.
    with scene.held, scene.start(MINI_AGENT_FLUSH_INTERVAL_S="60") as agent:
        agent.wait_ready()
        ids = scene.send(agent)
        agent.tell("k" * (RESTARTS_MAX + 1))
        assert agent.wait() == row_of(part).exit_status
    (given_up,) = [line for line in agent.lines if "is given up" in line]
    assert part in given_up
    assert agent.lines[-1].endswith("; balanced")
    if part == "forwarder":
        # Nobody is left who could deliver; the next start does.
        assert (intake.arrivals, scene.kept_count()) == ([], SPANS)
    else:
        assert (intake.ids, scene.hits()) == (ids, SPANS)


def test_what_could_not_be_adopted_waits_for_the_next_start(intake: Intake, tmp_path: Path) -> None:
    scene = Scene(intake, tmp_path, "adoption", RESTARTS_MAX + 1)
    scene.leave_spans()
    with scene.start() as agent:
        assert agent.wait() == row_of("adoption").exit_status
    assert any("adoption died and is given up" in line for line in agent.lines)
    # What it took before it died is delivered, and nothing is anywhere twice.
    assert intake.span_count + scene.kept_count() == len(scene.left)
