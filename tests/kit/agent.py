"""The agent as its users run it: a child process with real signals, an environment of its own,
and a port it chose itself.

    with AgentProcess({"DD_APM_DD_URL": intake.url}, folder) as agent:
        agent.wait_ready()
        agent.send(body)
        agent.terminate()
        assert agent.wait() == 0
"""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Any

from kit.loopback import WAIT_S_MAX

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

# The journal's folder. Source: docs/configuration.md.
JOURNAL_SETTING = "MINI_AGENT_JOURNAL_DIR"

# A process group of its own, which is what Windows can send an event to, never gets Ctrl-C.
_STOP_SIGNAL = getattr(signal, "CTRL_BREAK_EVENT", signal.SIGTERM)
_INTERRUPT_SIGNAL = getattr(signal, "CTRL_BREAK_EVENT", signal.SIGINT)

# Quoted when a wait fails.
TAIL_LINES = 40


class ChildProcess:
    """A child that speaks lines and serves HTTP; killed when the with-block ends.

    Args:
        environment: All it gets, besides what a process cannot do without; HOME and the folder
            for temporary files lie in `folder`.
        ready: Finds the host and the port it serves in a line of its output, as named groups.
        stdin: What it is given as standard input.
    """

    def __init__(
        self,
        command: Sequence[str],
        environment: Mapping[str, str],
        folder: Path,
        ready: re.Pattern[str],
        stdin: int = subprocess.DEVNULL,
    ) -> None:
        self.folder = folder
        self.lines: list[str] = []
        self.host = "127.0.0.1"
        self.port = 0
        self._ready = ready
        self._is_ready = False
        self._ended = False
        self._said = threading.Condition()
        self._local = threading.local()
        self._connections: list[http.client.HTTPConnection] = []
        self._child = subprocess.Popen(
            list(command),
            env=make_environment(environment, folder),
            cwd=folder,
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            encoding="utf-8",
            errors="replace",
            # A group of its own, so that a console event meant for it does not reach us.
            creationflags=getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0),
        )
        self._listening = threading.Thread(target=self._listen, name="child-lines", daemon=True)
        self._listening.start()

    def __enter__(self) -> ChildProcess:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def pid(self) -> int:
        return self._child.pid

    @property
    def url(self) -> str:
        assert self.port, "not ready yet"
        return f"http://{self.host}:{self.port}"

    # Its life

    def wait_ready(self, timeout_s: float = WAIT_S_MAX) -> None:
        """Wait for the ready line.

        Raises:
            AssertionError: It ended, or the time is over; with its last lines.
        """
        with self._said:
            self._said.wait_for(lambda: self._is_ready or self._ended, timeout_s)
            assert self._is_ready, f"not ready; it said:\n{self.tail()}"

    def wait_line(self, matches: Callable[[str], bool], timeout_s: float = WAIT_S_MAX) -> str:
        """Wait for a line and return it; one already said counts."""
        with self._said:
            self._said.wait_for(lambda: self._ended or any(map(matches, self.lines)), timeout_s)
            found = next(filter(matches, self.lines), None)
            assert found is not None, f"it never said that; it said:\n{self.tail()}"
            return found

    def terminate(self) -> None:
        """Ask it to stop, as a service controller does."""
        self._child.send_signal(_STOP_SIGNAL)

    def interrupt(self) -> None:
        """Ask it to stop, as somebody at the keyboard does."""
        self._child.send_signal(_INTERRUPT_SIGNAL)

    def tell(self, line: str) -> None:
        """Write a line to its standard input, which must be a pipe."""
        assert self._child.stdin is not None
        self._child.stdin.write(line + "\n")
        self._child.stdin.flush()

    def kill(self) -> None:
        """End it where it stands."""
        self._child.kill()

    def wait(self, timeout_s: float = WAIT_S_MAX) -> int:
        """Wait for its end; returns the exit status once all it said has been read."""
        try:
            status = self._child.wait(timeout_s)
        except subprocess.TimeoutExpired as problem:
            raise AssertionError(f"still running; it said:\n{self.tail()}") from problem
        self._listening.join(WAIT_S_MAX)
        return status

    def close(self) -> None:
        """Kill it if it runs; may be repeated."""
        for connection in self._connections:
            connection.close()
        if self._child.poll() is None:
            self._child.kill()
        self._child.wait(WAIT_S_MAX)
        self._listening.join(WAIT_S_MAX)
        if self._child.stdin is not None:
            self._child.stdin.close()

    def tail(self) -> str:
        return "\n".join(self.lines[-TAIL_LINES:])

    # Its requests

    def send(
        self,
        body: bytes,
        path: str = "/v0.4/traces",
        headers: Mapping[str, str] | None = None,
        method: str = "POST",
    ) -> tuple[int, bytes]:
        """One request over this thread's kept connection; returns the status and the body."""
        status, _, answer = self.exchange(method, path, body, headers)
        return status, answer

    def exchange(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> tuple[int, dict[str, str], bytes]:
        """The same with the answer's headers, by lower-case name."""
        connection = self._connection()
        try:
            connection.request(method, path, body, dict(headers or {}))
            response = connection.getresponse()
            answer = response.read()
        except BaseException:
            # Out of step; the next request opens it again.
            connection.close()
            raise
        return response.status, {n.lower(): v for n, v in response.getheaders()}, answer

    def _connection(self) -> http.client.HTTPConnection:
        connection = getattr(self._local, "connection", None)
        if connection is None:
            assert self.port, "not ready yet"
            connection = http.client.HTTPConnection(self.host, self.port, timeout=WAIT_S_MAX)
            self._local.connection = connection
            self._connections.append(connection)
        return connection

    def _listen(self) -> None:
        # The stream is this thread's own: whoever else closed it would wait for as long as some
        # grandchild holds its other end.
        assert self._child.stdout is not None
        with self._child.stdout as stream:
            for line in stream:
                self._take_line(line.rstrip("\n"))
        with self._said:
            self._ended = True
            self._said.notify_all()

    def _take_line(self, line: str) -> None:
        found = None if self._is_ready else self._ready.search(line)
        with self._said:
            self.lines.append(line)
            if found is not None:
                named = found.groupdict()
                self.host = named.get("host") or self.host
                self.port = int(named.get("port") or self.port)
                self._is_ready = True
            self._said.notify_all()


class AgentProcess(ChildProcess):
    """`python -m mini_agent run`, on a port of its own choice.

    Args:
        environment: Settings; those given here win over what a run in a test always gets: a
            key, a port of its own choice, a journal in `folder` and a short flush interval.
        arguments: Further words of the command line.
    """

    READY = re.compile(
        r"^mini-agent .* ready: .*traces on http://(?P<host>[^\s:,]+|\[[^\]]+\]):(?P<port>\d+)"
    )

    def __init__(
        self, environment: Mapping[str, str], folder: Path, arguments: Sequence[str] = ()
    ) -> None:
        settings = {
            "DD_API_KEY": "a-key-for-tests",
            "DD_APM_RECEIVER_PORT": "0",
            JOURNAL_SETTING: str(folder / "journal"),
            # The shortest there is, so that tests wait for the agent and not for the clock.
            "MINI_AGENT_FLUSH_INTERVAL_S": "0.1",
            **environment,
        }
        self.journal_path = settings[JOURNAL_SETTING]
        command = [sys.executable, "-m", "mini_agent", "run", *arguments]
        super().__init__(command, settings, folder, self.READY)

    def __enter__(self) -> AgentProcess:
        return self

    def status(self) -> dict[str, Any]:
        """What it says about itself now."""
        status, _, body = self.exchange("GET", "/status")
        assert status == 200, f"status page answered {status}"
        page: dict[str, Any] = json.loads(body)
        return page

    def final_report(self) -> str:
        """The books of the run, said last."""
        for line in reversed(self.lines):
            if "balanced" in line or "OUT OF BALANCE" in line:
                return line
        raise AssertionError(f"it never reported; it said:\n{self.tail()}")

    def journal_spans(self) -> int:
        """Spans its journal holds. For a run that has ended: nothing is locked or changed."""
        # Imported here: the rest of this file must work where the package is only installed.
        from mini_agent.forward.batch import read_folder

        return sum(
            record.count
            for kind, records in read_folder(self.journal_path)
            if kind == "traces"
            for record in records
        )


def make_environment(environment: Mapping[str, str], folder: Path) -> dict[str, str]:
    """A clean environment: what a program cannot do without, folders of its own, and the rest."""
    home = folder / "home"
    temporary = folder / "tmp"
    for made in (home, temporary):
        made.mkdir(parents=True, exist_ok=True)
    needed = ("PATH", "SYSTEMROOT", "LD_LIBRARY_PATH")
    return {
        **{name: os.environ[name] for name in needed if name in os.environ},
        "HOME": str(home),
        "TMPDIR": str(temporary),
        "TEMP": str(temporary),
        "TMP": str(temporary),
        "PYTHONUNBUFFERED": "1",
        **environment,
    }
