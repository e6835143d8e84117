"""What tests of every kind are given."""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from kit.agent import AgentProcess
from kit.intake import Intake

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping


@pytest.fixture(autouse=True)
def _no_child_is_left() -> Iterator[None]:
    """Fail a test that leaves a process behind, and end that process."""
    before = _children()
    yield
    left = {pid: words for pid, words in _children().items() if pid not in before}
    for pid in left:
        with contextlib.suppress(ProcessLookupError, ChildProcessError):
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
    assert not left, f"left running: {left}"


@pytest.fixture
def intake() -> Iterator[Intake]:
    """An intake that must be able to read all it is sent."""
    with Intake() as intake:
        yield intake
        assert intake.complaints == []


@pytest.fixture
def agent(intake: Intake, tmp_path: Path) -> Iterator[Callable[..., AgentProcess]]:
    """Starts agents that deliver to `intake`; each is ready when returned, unless told not to wait.

    All agents of a test share a folder, and so the journal: starting another is a restart.
    """
    with contextlib.ExitStack() as running:

        def start(
            environment: Mapping[str, str] | None = None, *, wait: bool = True
        ) -> AgentProcess:
            settings = {"DD_APM_DD_URL": intake.url, **(environment or {})}
            started = running.enter_context(AgentProcess(settings, tmp_path / "agent"))
            if wait:
                started.wait_ready()
            return started

        yield start


def _children() -> dict[int, str]:
    """The children of this process and their command lines; none where the system does not say."""
    children = {}
    # Per thread, because a child belongs to the thread that started it until that thread ends.
    for listing in Path("/proc/self/task").glob("*/children"):
        # Threads and processes end while we look at them.
        with contextlib.suppress(OSError):
            for pid in map(int, listing.read_text().split()):
                words = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
                # Lives as long as we do and is not started by a test alone.
                if "multiprocessing" not in words:
                    children[pid] = words.strip() or "ended and not waited for"
    return children
