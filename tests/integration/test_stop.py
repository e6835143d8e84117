"""Promise 4: stop from the entrance, on every occasion."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from kit.agent import AgentProcess, make_environment
from kit.intake import Hang, Intake
from kit.loopback import WAIT_S_MAX
from kit.payloads import encode, make_traces, span_ids
from kit.waiting import until

Start = Callable[..., AgentProcess]


def send(agent: AgentProcess) -> set[int]:
    made = make_traces(2, 3)
    assert agent.send(encode(made))[0] == 200
    return span_ids(made)


def answers(agent: AgentProcess) -> bool:
    """Whether a new connection is served; refused and reset both mean no."""
    try:
        with socket.create_connection((agent.host, agent.port), WAIT_S_MAX) as late:
            late.sendall(b"GET /info HTTP/1.1\r\n\r\n")
            return bool(late.recv(1))
    except ConnectionError:
        return False


@pytest.mark.parametrize("way", ["terminate", "interrupt"])
def test_what_was_just_accepted_is_delivered_before_the_end(
    intake: Intake, agent: Start, way: str
) -> None:
    with agent({"MINI_AGENT_FLUSH_INTERVAL_S": "60"}) as running:
        ids = send(running)
        getattr(running, way)()
        assert running.wait() == 0
    assert intake.ids == ids
    assert running.final_report().endswith(
        "spans: adopted=0 accepted=6 delivered=6 waiting=0 dropped=0 refused=0 repaired=0; balanced"
    )


def test_a_second_signal_leaves_the_tries_out(intake: Intake, agent: Start) -> None:
    intake.answer_always(Hang())
    with agent({"MINI_AGENT_STOP_GRACE_S": "600"}) as running:
        send(running)
        intake.wait_for(lambda: intake.hung_count == 1)
        running.terminate()
        running.wait_line(lambda line: "stopping" in line)
        running.terminate()
        assert running.wait() == 0
        assert "waiting=6 dropped=0" in running.final_report()
        assert running.journal_spans() == 6


def test_the_grace_period_is_kept(intake: Intake, agent: Start) -> None:
    intake.answer_always(Hang())
    with agent({"MINI_AGENT_STOP_GRACE_S": "0.2"}) as running:
        send(running)
        intake.wait_for(lambda: intake.hung_count == 1)
        running.terminate()
        assert running.wait() == 0
        assert running.journal_spans() == 6


def test_a_request_under_way_is_finished_and_an_idle_connection_closed(
    intake: Intake, agent: Start
) -> None:
    made = make_traces(2, 3)
    body = encode(made)
    with agent() as running:
        address = (running.host, running.port)
        with (
            socket.create_connection(address, WAIT_S_MAX) as idle,
            socket.create_connection(address, WAIT_S_MAX) as busy,
        ):
            idle.sendall(b"GET /info HTTP/1.1\r\nHost: x\r\n\r\n")
            assert idle.recv(12) == b"HTTP/1.1 200"
            head = f"POST /v0.4/traces HTTP/1.1\r\nContent-Length: {len(body)}\r\n\r\n"
            busy.sendall(head.encode() + body[:100])
            # The status page was answered after the agent had seen those bytes.
            assert running.status()["connections"] == 3
            running.terminate()
            running.wait_line(lambda line: "stopping" in line)
            while idle.recv(65536):
                pass
            busy.sendall(body[100:])
            answer = busy.makefile("rb").read()
            assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
            assert b"\r\nConnection: close\r\n" in answer
        assert running.wait() == 0
    assert intake.ids == span_ids(made)


def test_no_new_connection_is_accepted_while_stopping(intake: Intake, agent: Start) -> None:
    intake.answer_always(Hang())
    with agent({"MINI_AGENT_STOP_GRACE_S": "60"}) as running:
        send(running)
        intake.wait_for(lambda: intake.hung_count == 1)
        running.terminate()
        running.wait_line(lambda line: "stopping" in line)
        until(lambda: not answers(running))
        intake.release()
        assert running.wait() == 0


@pytest.mark.skipif(os.name == "nt", reason="tests/windows does this there")
def test_it_ends_with_its_parent_where_asked_to(intake: Intake, tmp_path: Path) -> None:
    """A parent that starts an agent and is killed."""
    program = (
        "import subprocess, sys\n"
        "child = subprocess.Popen([sys.executable, '-m', 'mini_agent', 'run'])\n"
        "child.wait()\n"
    )
    environment = make_environment(
        {
            "DD_API_KEY": "key",
            "DD_APM_DD_URL": intake.url,
            "DD_APM_RECEIVER_PORT": "0",
            "MINI_AGENT_JOURNAL_DIR": str(tmp_path / "journal"),
            "MINI_AGENT_EXIT_WITH_PARENT": "true",
        },
        tmp_path,
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", program], env=environment, stdout=subprocess.PIPE, text=True
    )
    with parent:
        assert parent.stdout is not None
        lines = iter(parent.stdout.readline, "")
        assert any(" ready: " in line for line in lines)
        parent.kill()
        said = list(lines)  # Ends when the agent closes its output: when it ends.
    assert any("the parent is gone" in line for line in said)
    assert said[-1].rstrip().endswith("balanced")
