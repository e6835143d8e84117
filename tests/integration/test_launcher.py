"""`mini_agent.start()` in real applications: small programs, their forks, their ends."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import signal
import socket
import sys
import sysconfig
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path

import pytest
from kit.agent import AgentProcess, ChildProcess
from kit.intake import Intake
from kit.loopback import WAIT_S_MAX
from kit.payloads import encode, make_traces, span_ids
from kit.ports import find_tcp_port

pytestmark = pytest.mark.skipif(
    not hasattr(os, "fork"), reason="sockets are handed over, and processes forked, on POSIX"
)

# What every program begins with; BODY is a file with a payload.
PRELUDE = """
import os, pathlib, socket, sys

def send(port, path="/v0.4/traces"):
    body = pathlib.Path(os.environ["BODY"]).read_bytes()
    head = f"POST {path} HTTP/1.1\\r\\nHost: x\\r\\nContent-Length: {len(body)}\\r\\n\\r\\n"
    with socket.create_connection(("127.0.0.1", port)) as client:
        client.sendall(head.encode() + body)
        return client.recv(12).decode()

def has_loaded(pid, word):
    # Where the system says it.
    maps = pathlib.Path(f"/proc/{pid}/maps")
    return maps.exists() and word in maps.read_text()

def say(*words):
    # One write, so that lines of several processes do not mix.
    os.write(1, (" ".join(map(str, words)) + "\\n").encode())
"""


class Application(ChildProcess):
    """A Python program; its output holds the agent's, which inherits the streams."""

    def __init__(
        self, program: str, environment: Mapping[str, str], folder: Path, *words: str
    ) -> None:
        command = [*(words or [sys.executable]), "-c", PRELUDE + program]
        super().__init__(command, environment, folder, AgentProcess.READY)

    def said(self, word: str) -> str:
        """The rest of the line that begins with a word."""
        line = self.wait_line(lambda line: line.startswith(word + " "))
        return line.removeprefix(word).strip()

    def wait_agent_end(self) -> str:
        """The agent's last line."""
        return self.wait_line(lambda line: "balanced" in line or "BALANCE" in line)


@pytest.fixture
def ids() -> set[int]:
    """Filled with the span ids that a program sends."""
    return set()


@pytest.fixture
def application(
    intake: Intake, tmp_path: Path, ids: set[int]
) -> Iterator[Callable[..., Application]]:
    """Starts programs whose agents deliver to `intake`."""
    made = make_traces(2, 3)
    ids |= span_ids(made)
    body = tmp_path / "body"
    body.write_bytes(encode(made))
    with ExitStack() as running:

        def start(program: str, *words: str, **environment: str) -> Application:
            settings = {
                "DD_API_KEY": "a-key-for-tests",
                "DD_APM_DD_URL": intake.url,
                "DD_APM_RECEIVER_PORT": "0",
                "MINI_AGENT_JOURNAL_DIR": str(tmp_path / "journal"),
                # What is delivered sooner is delivered because the agent ends.
                "MINI_AGENT_FLUSH_INTERVAL_S": "60",
                "PYTHONDEVMODE": "1",
                "BODY": str(body),
                **environment,
            }
            return running.enter_context(Application(program, settings, tmp_path, *words))

        yield start


Start = Callable[..., Application]


def test_a_trace_sent_right_after_start_is_delivered_though_the_program_ends_at_once(
    application: Start, intake: Intake, ids: set[int]
) -> None:
    running = application("""
import mini_agent
mini_agent.start()
say("answer", send(mini_agent.status().port))
""")
    assert running.said("answer") == "HTTP/1.1 200"
    assert "waiting=0 dropped=0" in running.wait_agent_end()
    assert running.wait() == 0
    assert intake.ids == ids
    # In development mode Python names what was forgotten.
    assert "Warning" not in running.tail()


def test_an_agent_whose_application_is_killed_delivers_and_ends(
    application: Start, intake: Intake, ids: set[int]
) -> None:
    running = application("""
import mini_agent, signal
mini_agent.start()
say("answer", send(mini_agent.status().port))
signal.pause()
""")
    assert running.said("answer") == "HTTP/1.1 200"
    running.kill()
    assert "waiting=0 dropped=0" in running.wait_agent_end()
    assert running.wait() == -signal.SIGKILL
    assert intake.ids == ids


def test_an_application_killed_while_the_agent_loads_takes_it_along(application: Start) -> None:
    running = application("""
import mini_agent, signal
mini_agent.start()
os.kill(os.getpid(), signal.SIGKILL)
""")
    assert running.wait() == -signal.SIGKILL
    # The output ended, so nobody holds it any more; what the agent said of its end is its affair.
    assert not any("Traceback" in line for line in running.lines)


def test_stop_delivers_and_says_that_it_did(
    application: Start, intake: Intake, ids: set[int]
) -> None:
    running = application("""
import mini_agent
mini_agent.start()
say("answer", send(mini_agent.status().port))
say("stopped", mini_agent.stop())
say("then", mini_agent.status().running, mini_agent.status().reason)
say("again", mini_agent.stop())
""")
    assert running.said("stopped") == "True"
    assert running.said("then") == "False the agent ended with status 0"
    assert running.said("again") == "True"
    assert intake.ids == ids
    assert running.wait() == 0


def test_an_agent_that_died_is_started_again_where_it_was(application: Start) -> None:
    running = application("""
import mini_agent, signal
mini_agent.start()
first = mini_agent.status()
os.kill(first.pid, signal.SIGKILL)
os.waitid(os.P_PID, first.pid, os.WEXITED | os.WNOWAIT)
say("dead", mini_agent.status().reason)
mini_agent.start()
second = mini_agent.status()
say("same", second.port == first.port and second.pid != first.pid)
say("answer", send(second.port))
""")
    assert running.said("dead") == "the agent ended with status -9"
    assert running.said("same") == "True"
    assert running.said("answer") == "HTTP/1.1 200"
    assert running.wait() == 0


def test_a_fork_uses_the_agent_and_leaves_it_alone(
    application: Start, intake: Intake, ids: set[int]
) -> None:
    running = application("""
import logging, mini_agent
logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s", stream=sys.stdout)
mini_agent.start()
port = mini_agent.status().port
child = os.fork()
if not child:
    mini_agent.start()
    say("fork", mini_agent.status().running, mini_agent.status().port == port)
    say("reason", mini_agent.status().reason)
    say("stopped", mini_agent.stop())
    sys.exit()
say("ended", os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
say("answer", send(port))
""")
    assert running.said("fork") == "False True"
    assert "runs already" in running.said("reason")
    assert running.said("stopped") == "True"
    assert running.said("ended") == "0"
    assert running.said("answer") == "HTTP/1.1 200"
    running.wait_agent_end()
    assert running.wait() == 0
    assert intake.ids == ids
    assert not [line for line in running.lines if line.startswith(("WARNING", "ERROR"))]
    assert sum(" ready: " in line for line in running.lines) == 1


def test_a_fork_that_lives_on_does_not_keep_the_agent(application: Start) -> None:
    with socket.create_server(("127.0.0.1", 0)) as life:
        life.settimeout(WAIT_S_MAX)
        running = application(
            """
import mini_agent
mini_agent.start()
say("answer", send(mini_agent.status().port))
if not os.fork():
    with socket.create_connection(("127.0.0.1", int(os.environ["LIFE"]))) as life:
        life.recv(1)
    os._exit(0)
""",
            LIFE=str(life.getsockname()[1]),
        )
        fork, _ = life.accept()
        with fork:
            running.wait_agent_end()


def test_workers_that_all_start_share_one_agent(
    application: Start, intake: Intake, ids: set[int]
) -> None:
    running = application(
        """
import mini_agent
workers = []
done, tell_done = os.pipe()
end, tell_end = os.pipe()
for _ in range(4):
    worker = os.fork()
    if not worker:
        os.close(tell_end)
        mini_agent.start()
        say("answer", send(int(os.environ["DD_APM_RECEIVER_PORT"])))
        os.write(tell_done, b"x")
        os.read(end, 1)
        sys.exit()
    workers.append(worker)
for _ in workers:
    os.read(done, 1)
os.close(tell_end)
for worker in workers:
    os.waitpid(worker, 0)
""",
        DD_APM_RECEIVER_PORT=str(find_tcp_port()),
    )
    running.wait_agent_end()
    assert running.wait() == 0
    assert running.lines.count("answer HTTP/1.1 200") == 4
    assert sum(" ready: " in line for line in running.lines) == 1
    assert set(intake.id_counts) == ids
    assert set(intake.id_counts.values()) == {4}


def test_ctrl_c_reaches_the_application_and_not_the_agent(
    application: Start, intake: Intake, ids: set[int]
) -> None:
    running = application("""
import mini_agent, signal
os.setpgid(0, 0)
mini_agent.start()
try:
    os.killpg(0, signal.SIGINT)
    signal.pause()
except KeyboardInterrupt:
    say("answer", send(mini_agent.status().port))
""")
    assert running.said("answer") == "HTTP/1.1 200"
    running.wait_agent_end()
    assert running.wait() == 0
    assert intake.ids == ids


def test_the_agent_inherits_nothing_but_its_sockets(application: Start) -> None:
    running = application("""
import mini_agent
kept = socket.create_server(("127.0.0.1", 0))
os.set_inheritable(kept.fileno(), True)
mini_agent.start()
status = mini_agent.status()
send(status.port, "/info")
mine = os.stat(kept.fileno()).st_ino
links = [os.readlink(entry) for entry in pathlib.Path(f"/proc/{status.pid}/fd").iterdir()
         if entry.is_symlink()] if os.path.exists("/proc") else []
say("leaked", f"socket:[{mine}]" in links)
""")
    assert running.said("leaked") == "False"
    running.wait_agent_end()


def test_ddtrace_in_the_same_process_is_served_and_not_loaded_into_the_agent(
    application: Start, intake: Intake
) -> None:
    runner = shutil.which("ddtrace-run", path=sysconfig.get_path("scripts"))
    assert runner is not None, "`pip install -e .[dev]` brings ddtrace"
    running = application(
        """
import mini_agent
mini_agent.start()
from ddtrace.trace import tracer
for number in range(5):
    with tracer.trace("work", resource=str(number)):
        with tracer.trace("inner"):
            pass
tracer.flush()
say("traced", has_loaded(os.getpid(), "ddtrace"), has_loaded(mini_agent.status().pid, "ddtrace"))
""",
        runner,
        sys.executable,
        DD_APM_RECEIVER_PORT=(port := str(find_tcp_port())),
        DD_TRACE_AGENT_URL=f"http://127.0.0.1:{port}",
        DD_TRACE_API_VERSION="v0.4",
        DD_TRACE_STATS_COMPUTATION_ENABLED="false",
        DD_INSTRUMENTATION_TELEMETRY_ENABLED="false",
        DD_REMOTE_CONFIGURATION_ENABLED="false",
        DD_CRASHTRACKING_ENABLED="false",
        PYTHONDEVMODE="",
    )
    running.wait_agent_end()
    assert running.wait() == 0
    if sys.platform == "linux":
        assert running.said("traced") == "True False"
    assert sorted({span.name for span in intake.spans()}) == ["inner", "work"]
    assert len(intake.ids) == 10


@pytest.mark.skipif(
    importlib.util.find_spec("datadog_serverless_compat") is None, reason="not installed"
)
@pytest.mark.parametrize("traced", [False, True], ids=["plain", "under ddtrace-run"])
def test_the_real_launcher_starts_our_agent_in_place_of_its_own(
    application: Start, intake: Intake, ids: set[int], traced: bool
) -> None:
    script = shutil.which("mini-agent-compat", path=sysconfig.get_path("scripts"))
    assert script is not None, "`pip install -e .[dev]` brings it"
    words = []
    if traced:
        words = [shutil.which("ddtrace-run", path=sysconfig.get_path("scripts")), sys.executable]
    port = find_tcp_port()
    running = application(
        """
from datadog_serverless_compat import start
start()
port = int(os.environ["DD_APM_RECEIVER_PORT"])
while True:
    try:
        say("answer", send(port))
        break
    except ConnectionRefusedError:
        os.sched_yield()
children = pathlib.Path(f"/proc/self/task/{os.getpid()}/children")
agents = children.read_text().split() if children.exists() else []
say("traced", has_loaded("self", "ddtrace"), *(has_loaded(pid, "ddtrace") for pid in agents))
""",
        *words,
        DD_SERVERLESS_COMPAT_PATH=script,
        DD_APM_RECEIVER_PORT=str(port),
        FUNCTIONS_EXTENSION_VERSION="~4",
        FUNCTIONS_WORKER_RUNTIME="python",
        WEBSITE_SITE_NAME="site",
        DD_TRACE_ENABLED="false",
        DD_INSTRUMENTATION_TELEMETRY_ENABLED="false",
        DD_REMOTE_CONFIGURATION_ENABLED="false",
        PYTHONDEVMODE="",
    )
    assert running.said("answer") == "HTTP/1.1 200"
    running.wait_agent_end()
    assert running.wait() == 0
    if sys.platform == "linux":
        # An agent with a tracer would trace its own deliveries.
        assert running.said("traced") == f"{traced} False"
    assert intake.ids == ids
    (tag,) = {span.meta["_dd.serverless_compat_version"] for span in intake.spans()}
    assert re.fullmatch(r"\d+\.\d+\.\d+", tag)
