"""Windows for tests: the real one where we are on it, Wine's elsewhere.

`scripts/wine-python` makes the Windows Python that runs under Wine; a test that needs it and does
not find it is skipped with that advice. What follows from Wine and not from us stands here: one
process keeps Wine's services running, because the program that starts them would otherwise give
them its output to hold; console events are delivered in Wine's own way.
"""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from kit.agent import AgentProcess, ChildProcess
from kit.loopback import WAIT_S_MAX

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

ROOT = Path(__file__).resolve().parents[2]
RIG_SETTING = "MINI_AGENT_WINE_PYTHON"

PROGRAM_S_MAX = 90.0


def is_wine() -> bool:
    """Whether this Windows is Wine. Asked on Windows only."""
    assert sys.platform == "win32"
    import ctypes

    return hasattr(ctypes.WinDLL("ntdll"), "wine_get_version")


def find_windows_python() -> str:
    """A command that runs a Windows Python with what the agent needs; else the test is skipped."""
    if sys.platform == "win32":
        return sys.executable
    cache = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    rig = Path(os.environ.get(RIG_SETTING) or f"{cache}/mini-agent/wine-python-3.11")
    if not (rig / ".made").exists():
        pytest.skip("neither Windows nor Wine's Python is here; scripts/wine-python makes it")
    return str(rig / "bin" / "wpython")


def run_windows(command: Sequence[str], timeout_s: float = PROGRAM_S_MAX) -> str:
    """Run a Windows program to its end and return what it printed."""
    ended = subprocess.run(
        list(command),
        env={**os.environ, **windows_environment()},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=timeout_s,
    )
    assert ended.returncode == 0, f"status {ended.returncode}:\n{ended.stdout}{ended.stderr}"
    return ended.stdout


class KeptAgent(ChildProcess):
    """An agent that is a Windows program, started and treated by tests/windows' keeper.py.

    Args:
        keeper: The command of the keeper.
        environment: Settings of the agent.
    """

    def __init__(self, keeper: Sequence[str], environment: Mapping[str, str], folder: Path) -> None:
        settings = {**windows_environment(), **environment}
        super().__init__(keeper, settings, folder, AgentProcess.READY, subprocess.PIPE)

    def __enter__(self) -> KeptAgent:
        return self

    def close(self) -> None:
        """End the agent first: it holds the keeper's output, and outlives it."""
        if self._child.poll() is None:
            # The keeper may end in this moment.
            with contextlib.suppress(OSError, AssertionError):
                self.tell("kill")
                self.wait_status()
        super().close()

    @property
    def pipe(self) -> str:
        """The pipe it said it serves."""
        line = self.wait_line(lambda line: " ready: " in line)
        found = re.search(r"\\\\\.\\pipe\\[a-z0-9_]+", line)
        assert found is not None, line
        return found.group()

    def wait_status(self) -> int:
        """Wait for the agent's end; its exit status."""
        line = self.wait_line(lambda line: line.startswith("status "))
        return int(line.split()[1])


def windows_environment() -> dict[str, str]:
    """What a Windows Python needs to find the agent and the tests' kit."""
    # A drive's letter would be cut off at the colon.
    folders = [str(ROOT / "src"), str(ROOT / "tests")]
    return {"PYTHONPATH": ";".join(folders), "PYTHONDONTWRITEBYTECODE": "1"}


@contextlib.contextmanager
def wine_services(python: str) -> Iterator[None]:
    """Keep what Wine runs for itself alive, with nothing of ours in its hands."""
    if sys.platform == "win32":
        yield
        return
    with subprocess.Popen(
        [python, "-c", "import sys; print(flush=True); sys.stdin.read()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as keeping:
        try:
            # What comes first starts Wine's services, which hold its output for as long as they
            # live: only when one process has come and gone they are there for sure.
            subprocess.run(
                [python, "-c", ""],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                timeout=PROGRAM_S_MAX,
                check=True,
            )
            yield
        finally:
            assert keeping.stdin is not None
            keeping.stdin.close()
            keeping.wait(WAIT_S_MAX)
