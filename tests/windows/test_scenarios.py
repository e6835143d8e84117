"""Tracers, compatibility layers and our agent, in every pairing of ages: who reaches whom, by what.

The table of transport-contract 1.6 and what several applications on one host add to it. It is
printed when the tests have run; `python tests/windows/run.py scenarios` runs nothing else. What
stands in its last columns was seen in the run, and each row asserts that it is what it should be.

The row to look at is the old tracer with a new layer: with an agent that serves the pipe alone,
its traces were lost.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from kit.agent import ChildProcess
from kit.intake import Intake
from kit.ports import find_tcp_port
from kit.wine import windows_environment

# Each starts processes, most of them Windows programs.
pytestmark = pytest.mark.slow

APP = Path(__file__).parent / "programs" / "function_app.py"

COMPAT_VERSIONS = {"none": "none", "old": "1.4.0", "new": "1.5.0", "dev": "0.0.0"}

WORKS = "works"
OF_ANOTHER = "reaches another app's agent"
LOST = "lost"


@dataclass(frozen=True)
class Scenario:
    """One row.

    Attributes:
        apps: The tracers of each application on the host.
        compat: The layer of all of them. Without one the user runs an agent.
        transports: Of each tracer, in order.
        outcomes: Of each tracer's trace, in the same order.
        warns: Whether an agent should say that the port is taken.
        port_taken: Whether some other program holds the port from the beginning.
        note: What is special.
    """

    apps: tuple[tuple[str, ...], ...]
    compat: str
    transports: tuple[str, ...]
    outcomes: tuple[str, ...] = (WORKS,)
    warns: bool = False
    port_taken: bool = False
    note: str = ""

    @property
    def tracer_text(self) -> str:
        text = ", ".join(" + ".join(tracers) for tracers in self.apps)
        return f"{text} ({self.note})" if self.note else text

    def __str__(self) -> str:
        return re.sub(r"\W+", "-", f"{self.tracer_text} {self.compat}")


NEW, OLD, BOTH = ("new",), ("old",), ("new", "old")

SCENARIOS = [
    Scenario((NEW,), "none", ("TCP",)),
    Scenario((NEW,), "old", ("TCP",)),
    Scenario((NEW,), "new", ("pipe",)),
    Scenario((NEW,), "dev", ("pipe",)),
    Scenario((OLD,), "none", ("TCP",)),
    Scenario((OLD,), "old", ("TCP",)),
    Scenario((OLD,), "new", ("TCP",)),
    Scenario((OLD,), "dev", ("TCP",)),
    Scenario(
        (NEW, NEW), "new", ("pipe", "pipe"), (WORKS, WORKS), warns=True, note="two apps on a host"
    ),
    # Nothing can help the second here; its agent says so.
    Scenario(
        (OLD, OLD),
        "new",
        ("TCP", "TCP"),
        (WORKS, OF_ANOTHER),
        warns=True,
        note="two apps on a host",
    ),
    Scenario((BOTH,), "new", ("pipe", "TCP"), (WORKS, WORKS), note="in one app"),
    Scenario((NEW,), "new", ("pipe",), warns=True, port_taken=True, note="port taken"),
]


class App(ChildProcess):
    """A process of programs/function_app.py; see there what it may be told.

    Args:
        settings: What all of a host have; its own key and journal are added.

    Attributes:
        key: By which the intake sees whose agent delivered.
    """

    READY = re.compile("^mini-agent .* ready: ")

    def __init__(
        self,
        python: str,
        name: str,
        tracers: Sequence[str],
        compat: str,
        settings: Mapping[str, str],
        folder: Path,
    ) -> None:
        self.key = f"key-of-{name}"
        environment = {
            **settings,
            "DD_API_KEY": self.key,
            "MINI_AGENT_JOURNAL_DIR": str(folder / f"journal-{name}"),
            # For the end of a test; those of an app live on.
            "MINI_AGENT_CONTROL_STDIN": "true",
            "MINI_AGENT_EXIT_WITH_PARENT": "true",
        }
        words = [name, f"--tracers={','.join(tracers)}", f"--compat={COMPAT_VERSIONS[compat]}"]
        command = [python, str(APP), *words]
        super().__init__(command, environment, folder, self.READY, subprocess.PIPE)

    def __enter__(self) -> App:
        return self

    def close(self) -> None:
        """Let it end its agent first, which holds its output."""
        if self._child.poll() is None:
            # It may end in this moment, or hang, which is for the test to say.
            with contextlib.suppress(OSError, AssertionError):
                self.leave()
        super().close()

    def send(self) -> list[dict[str, Any]]:
        """Have each tracer send a trace; their accounts."""
        self.tell("send")
        line = self.wait_line(lambda line: line.startswith('[{"service"'))
        accounts: list[dict[str, Any]] = json.loads(line)
        return accounts

    def leave(self) -> int:
        """Have it end its agent, if it has one, and end; the status of both together."""
        self.tell("leave")
        status = self.wait()
        said = [line for line in self.lines if line.startswith("status ")]
        return status or sum(abs(int(line.split()[1])) for line in said)

    def warns_of(self, port: int) -> bool:
        """Whether its agent said that the port is taken."""
        return any(re.search(rf"WARN .*\b{port}\b.*taken", line) for line in self.lines)


@dataclass(frozen=True)
class Host:
    """A machine, with the Python that programs run by and the settings they all have."""

    system: str
    python: str
    settings: Mapping[str, str]
    port: int
    folder: Path

    def start(self, name: str, tracers: Sequence[str], compat: str) -> App:
        return App(self.python, name, tracers, compat, self.settings, self.folder)


@pytest.fixture(scope="session")
def system(request: pytest.FixtureRequest) -> tuple[str, str, Mapping[str, str]]:
    """Windows or Linux, as the parameter says: its name, its Python, where that finds the kit.

    Skips where it cannot be had.
    """
    if request.param == "Windows":
        python: str = request.getfixturevalue("windows_python")
        return request.param, python, windows_environment()
    if sys.platform != request.param.lower():
        pytest.skip("the rows that need no pipe are run on Linux, and all of them on Windows")
    return request.param, sys.executable, {"PYTHONPATH": os.pathsep.join(sys.path)}


@pytest.fixture
def host(system: tuple[str, str, Mapping[str, str]], intake: Intake, tmp_path: Path) -> Host:
    """One with a port of its own in the place of 8126."""
    name, python, paths = system
    port = find_tcp_port()
    settings = {
        **paths,
        "DD_APM_DD_URL": intake.url,
        # Who changes one of them changes both.
        "DD_APM_RECEIVER_PORT": str(port),
        "DD_TRACE_AGENT_PORT": str(port),
    }
    return Host(name, python, settings, port, tmp_path)


def run_apps(
    host: Host, scenario: Scenario, running: contextlib.ExitStack
) -> tuple[list[App], list[list[dict[str, Any]]]]:
    """Start everything in order, send, and end it; the apps and what their tracers say."""
    users = []
    if scenario.compat == "none":
        # Started as an old layer would: on TCP, with no word of a pipe.
        users.append(running.enter_context(host.start("user", [], "old")))
        users[0].wait_ready()
    apps = []
    for number, tracers in enumerate(scenario.apps):
        app = running.enter_context(host.start(f"app{number}", tracers, scenario.compat))
        apps.append(app)
        if not users:
            app.wait_ready()
    accounts = [app.send() for app in apps]
    # From here on all that was accepted has been delivered.
    assert [app.leave() for app in [*apps, *users]] == [0] * len([*apps, *users])
    return [*apps, *users], accounts


def outcome_of(service: str, key: str, delivered: Mapping[tuple[str, str], int]) -> str:
    """What became of a trace that is known by its service.

    Args:
        delivered: How often each service's trace came with each key.
    """
    with_keys = {by: count for (name, by), count in delivered.items() if name == service}
    if not with_keys:
        return LOST
    assert sum(with_keys.values()) == 1, f"{service} came more than once: {with_keys}"
    return WORKS if key in with_keys else OF_ANOTHER


@pytest.mark.parametrize(
    ("system", "scenario"),
    [
        *(("Windows", scenario) for scenario in SCENARIOS),
        *(("Linux", scenario) for scenario in SCENARIOS[:8] if scenario.transports == ("TCP",)),
    ],
    ids=str,
    indirect=["system"],
)
def test_each_tracer_reaches_an_agent(
    host: Host, scenario: Scenario, intake: Intake, scenario_rows: list[tuple[str, ...]]
) -> None:
    with contextlib.ExitStack() as running:
        if scenario.port_taken:
            running.enter_context(socket.create_server(("127.0.0.1", host.port)))
        apps, accounts = run_apps(host, scenario, running)
    delivered = Counter(
        (span.service, arrival.headers["dd-api-key"])
        for arrival in intake.arrivals
        for span in arrival.spans
    )
    transports, outcomes = [], []
    for app, account in zip(apps, accounts, strict=False):
        key = apps[-1].key if scenario.compat == "none" else app.key
        for each in account:
            transports.append(each["transport"])
            outcomes.append(outcome_of(each["service"], key, delivered))
    warns = any(app.warns_of(host.port) for app in apps)
    seen = ", ".join(outcomes)
    scenario_rows.append(
        (
            host.system,
            scenario.tracer_text,
            scenario.compat,
            ", ".join(transports),
            f"{seen}; an agent warns that the port is taken" if warns else seen,
        )
    )
    assert {tuple(each["ends"]) for account in accounts for each in account} == {(200, 200, 200)}
    assert tuple(transports) == scenario.transports
    assert tuple(outcomes) == scenario.outcomes
    assert warns == scenario.warns
