"""A Windows Python for tests of Windows programs: Windows' own, or Wine's."""

from __future__ import annotations

import contextlib
import json
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from kit.intake import Intake
from kit.wine import KeptAgent, find_windows_python, run_windows, wine_services

PROGRAMS = Path(__file__).parent / "programs"

SCENARIO_COLUMNS = ("system", "tracer", "compat", "traces go by", "outcome")
SCENARIO_ROWS = pytest.StashKey[list[tuple[str, ...]]]()


@pytest.fixture(scope="session")
def scenario_rows(pytestconfig: pytest.Config) -> list[tuple[str, ...]]:
    """Rows of the scenario table, which is printed after all tests."""
    return pytestconfig.stash.setdefault(SCENARIO_ROWS, [])


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Print the scenario table as it was seen, if any of it ran."""
    seen = config.stash.get(SCENARIO_ROWS, [])
    if not seen:
        return
    rows = [SCENARIO_COLUMNS, *seen]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    terminalreporter.section("tracers, compatibility layers and our agent")
    for row in rows:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        terminalreporter.write_line(" | ".join(cells).rstrip())


@pytest.fixture(scope="session")
def windows_python() -> Iterator[str]:
    """The command of a Windows Python; skips where there is none."""
    python = find_windows_python()
    with wine_services(python):
        yield python


@pytest.fixture
def send(windows_python: str) -> Callable[..., dict[str, Any]]:
    """Runs programs/senders.py and returns its account."""

    def run(address: str | int, **options: object) -> dict[str, Any]:
        words = [f"--{name}={value}" for name, value in options.items()]
        command = [windows_python, str(PROGRAMS / "senders.py"), str(address), *words]
        account: dict[str, Any] = json.loads(run_windows(command))
        return account

    return run


@pytest.fixture
def agent(
    windows_python: str, intake: Intake, tmp_path: Path
) -> Iterator[Callable[..., KeptAgent]]:
    """Starts agents as Windows programs, on a pipe and a port of their own.

    Words are the interpreter's, where it is another program than the agent itself.
    """
    with contextlib.ExitStack() as running:

        def start(*words: str, **settings: str) -> KeptAgent:
            environment = {
                "DD_API_KEY": "a-key-for-tests",
                "DD_APM_DD_URL": intake.url,
                "DD_APM_RECEIVER_PORT": "0",
                "DD_APM_WINDOWS_PIPE_NAME": f"mini_agent_{uuid.uuid4().hex}",
                # So that none outlives its test, whatever happens.
                "MINI_AGENT_EXIT_WITH_PARENT": "true",
                "MINI_AGENT_JOURNAL_DIR": str(tmp_path / "journal"),
                **settings,
            }
            keeper = [windows_python, str(PROGRAMS / "keeper.py"), *words]
            return running.enter_context(KeptAgent(keeper, environment, tmp_path))

        yield start
