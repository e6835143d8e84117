"""Promise 5: all configured transports at once, and none that quietly goes missing."""

from __future__ import annotations

import http.client
import json
import os
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from kit.agent import AgentProcess, make_environment
from kit.intake import Intake
from kit.loopback import WAIT_S_MAX
from kit.payloads import encode, make_traces, span_ids
from kit.tracers import ProgramRun, run_flask_shop, run_node_shop

from mini_agent import entrances

Start = Callable[..., AgentProcess]

pytestmark = pytest.mark.skipif(
    not hasattr(socket, "AF_UNIX"), reason="this system has no Unix sockets"
)


class UnixConnection(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=WAIT_S_MAX)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(WAIT_S_MAX)
        self.sock.connect(self._path)


def send_unix(path: str, service: str) -> set[int]:
    made = make_traces(1, 2, service=service)
    connection = UnixConnection(path)
    connection.request("PUT", "/v0.4/traces", encode(made))
    assert connection.getresponse().status == 200
    connection.close()
    return span_ids(made)


def info_of(agent: AgentProcess) -> dict[str, object]:
    page: dict[str, object] = json.loads(agent.exchange("GET", "/info")[2])
    return page


def test_a_trace_through_each_transport_reaches_the_intake(
    intake: Intake, agent: Start, tmp_path: Path
) -> None:
    path = str(tmp_path / "apm.socket")
    with agent({"DD_APM_RECEIVER_SOCKET": path}) as running:
        ids = send_unix(path, "by-unix")
        made = make_traces(1, 2, service="by-tcp")
        assert running.send(encode(made))[0] == 200
        assert info_of(running)["config"] == {
            "receiver_port": running.port,
            "statsd_port": 0,
            "receiver_socket": path,
        }
        running.terminate()
        assert running.wait() == 0
    assert intake.ids == ids | span_ids(made)
    assert {span.service for span in intake.spans()} == {"by-unix", "by-tcp"}
    assert not os.path.exists(path)


def test_a_taken_port_is_a_warning_while_a_socket_serves(
    intake: Intake, agent: Start, tmp_path: Path
) -> None:
    path = str(tmp_path / "apm.socket")
    with socket.create_server(("127.0.0.1", 0)) as holder:
        port = holder.getsockname()[1]
        settings = {"DD_APM_RECEIVER_SOCKET": path, "DD_APM_RECEIVER_PORT": str(port)}
        running = agent(settings, wait=False)
        line = running.wait_line(lambda line: f"port {port}" in line)
        assert re.search(r"WARN .* taken .*tracers that know only TCP", line)
        running.wait_line(lambda line: " ready: " in line)
        ids = send_unix(path, "by-unix")
        connection = UnixConnection(path)
        connection.request("GET", "/info")
        page = json.loads(connection.getresponse().read())
        connection.close()
        assert page["config"]["receiver_port"] == 0
    running.terminate()
    assert running.wait() == 0
    assert intake.ids == ids


def test_a_port_that_becomes_free_is_picked_up(agent: Start, tmp_path: Path) -> None:
    """The retry waits TCP_RETRY_S, which is the ceiling's concern and not slept for."""
    assert entrances.TCP_RETRY_S < WAIT_S_MAX
    path = str(tmp_path / "apm.socket")
    with socket.create_server(("127.0.0.1", 0)) as holder:
        port = holder.getsockname()[1]
        settings = {"DD_APM_RECEIVER_SOCKET": path, "DD_APM_RECEIVER_PORT": str(port)}
        running = agent(settings, wait=False)
        running.wait_line(lambda line: " ready: " in line)
    running.wait_line(lambda line: "is free now" in line)
    running.port = port
    before = running.exchange("GET", "/info")
    assert json.loads(before[2])["config"]["receiver_port"] == port


def test_a_live_socket_file_is_respected(agent: Start, tmp_path: Path) -> None:
    path = str(tmp_path / "apm.socket")
    with socket.socket(socket.AF_UNIX) as owner:
        owner.bind(path)
        owner.listen()
        with agent({"DD_APM_RECEIVER_SOCKET": path}) as running:
            line = running.wait_line(lambda line: path in line and "WARN" in line)
            assert "another program serves it" in line
        assert os.path.exists(path)


def test_sockets_a_launcher_bound_are_served(intake: Intake, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as given:
        port = given.getsockname()[1]
        settings = {
            "DD_API_KEY": "key",
            "DD_APM_DD_URL": intake.url,
            "MINI_AGENT_JOURNAL_DIR": str(tmp_path / "journal"),
            "DD_APM_NET_RECEIVER_FD": str(given.fileno()),
        }
        child = subprocess.Popen(
            [sys.executable, "-m", "mini_agent", "run"],
            env=make_environment(settings, tmp_path),
            pass_fds=[given.fileno()],
            stdout=subprocess.PIPE,
            text=True,
        )
    # Our copy is closed; the connection waits in the backlog of the child's.
    made = make_traces(1, 2)
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=WAIT_S_MAX)
    connection.request("POST", "/v0.4/traces", encode(made))
    assert connection.getresponse().status == 200
    connection.close()
    child.terminate()
    with child:
        said = child.communicate(timeout=WAIT_S_MAX)[0]
    assert child.returncode == 0, said
    assert intake.ids == span_ids(made)


def test_the_holder_of_a_port_is_named_when_nothing_can_be_served(agent: Start) -> None:
    with socket.create_server(("127.0.0.1", 0)) as holder:
        port = holder.getsockname()[1]
        refused = agent({"DD_APM_RECEIVER_PORT": str(port)}, wait=False)
        assert refused.wait() == 1
    assert str(port) in refused.tail()
    if os.path.exists("/proc/net/tcp"):
        assert f"(process {os.getpid()})" in refused.tail()


@pytest.mark.slow
def test_real_tracers_over_both_transports_at_once(
    intake: Intake, agent: Start, tmp_path: Path
) -> None:
    path = str(tmp_path / "apm.socket")
    with agent({"DD_APM_RECEIVER_SOCKET": path}) as running:
        made: list[dict[str, object]] = []

        def trace(run: Callable[..., ProgramRun], url: str, name: str) -> None:
            folder = tmp_path / name
            folder.mkdir()
            made.extend(run(url, folder).made)

        programs = [
            threading.Thread(target=trace, args=(run_flask_shop, f"unix://{path}", "py-unix")),
            threading.Thread(target=trace, args=(run_flask_shop, running.url, "py-tcp")),
            threading.Thread(target=trace, args=(run_node_shop, f"unix://{path}", "js-unix")),
        ]
        for program in programs:
            program.start()
        for program in programs:
            program.join()
        assert made
        wanted = {int(str(span["span_id"])) for span in made}
        intake.wait_for(lambda: wanted <= intake.ids)
