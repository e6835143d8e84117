"""The agent as a Windows program: served over pipe and TCP at once, ended in every way there is.

What Wine cannot show stands in unit/listen/test_bind_pipe.py with its reason, and runs on Windows.
"""

from __future__ import annotations

import json
import socket
import sys
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from kit.contracts import PIPE_BUSY
from kit.intake import Hang, Intake
from kit.payloads import encode, make_traces, span_ids
from kit.supervision import LISTENER, read_table
from kit.tracers import PROGRAMS
from kit.waiting import until
from kit.wine import KeptAgent

from mini_agent.flow.supervise import RESTARTS_MAX

# Each starts Windows programs.
pytestmark = pytest.mark.slow

Start = Callable[..., KeptAgent]
Send = Callable[..., dict[str, Any]]

# An agent whose pipe's listener dies at each "k" that it reads, and that is not patient with ports.
FRAGILE = str(PROGRAMS / "fragile_agent.py"), f"{LISTENER} \\\\.\\pipe\\"

# Nothing is sent before the end unless the end sends it.
LONG = {"MINI_AGENT_FLUSH_INTERVAL_S": "60"}


def send_by_tcp(agent: KeptAgent, service: str = "by-tcp") -> set[int]:
    made = make_traces(2, 3, service=service)
    assert agent.send(encode(made))[0] == 200
    return span_ids(made)


def test_a_trace_through_each_transport_reaches_the_intake(
    intake: Intake, agent: Start, send: Send
) -> None:
    running = agent(**LONG)
    running.wait_ready()
    by_pipe = set(send(running.pipe, service="by-pipe")["ids"])
    by_tcp = send_by_tcp(running)
    running.tell("ctrl-break")
    assert running.wait_status() == 0
    came = {span.spanID: span.service for span in intake.spans()}
    assert came == {**dict.fromkeys(by_pipe, "by-pipe"), **dict.fromkeys(by_tcp, "by-tcp")}


def test_pipe_and_tcp_are_served_at_once_and_nothing_is_lost(
    intake: Intake, agent: Start, send: Send
) -> None:
    running = agent()
    running.wait_ready()
    with ThreadPoolExecutor(2) as both:
        by_pipe = both.submit(send, running.pipe, clients=16, requests=20)
        by_tcp = both.submit(send, running.port, mode="kept", clients=4, requests=50)
        accounts = [by_pipe.result(), by_tcp.result()]
    assert [account["ends"] for account in accounts] == [{"200": 320}, {"200": 200}]
    running.tell("ctrl-c" if sys.platform != "win32" else "ctrl-break")
    assert running.wait_status() == 0
    assert intake.ids == {each for account in accounts for each in account["ids"]}


def test_one_client_that_connects_anew_a_hundred_times_is_never_cut_off(
    intake: Intake, agent: Start, send: Send
) -> None:
    running = agent(MINI_AGENT_FLUSH_INTERVAL_S="0.1")
    running.wait_ready()
    account = send(running.pipe, clients=1, requests=100)
    assert account["ends"] == {"200": 100}
    intake.wait_for(lambda: intake.ids == set(account["ids"]))


def test_bursts_of_clients_that_come_and_go_do_not_end_the_pipe(agent: Start, send: Send) -> None:
    running = agent()
    running.wait_ready()
    for _ in range(3):
        touched = send(running.pipe, mode="touch", clients=16, requests=50)
        assert set(touched["ends"]) <= {"touched", f"open: {PIPE_BUSY}"}
        assert send(running.pipe, clients=4, requests=5)["ends"] == {"200": 20}
    assert not [line for line in running.lines if line.lstrip().startswith(("WARN", "ERROR"))]


def test_a_pipe_whose_listener_dies_is_served_as_before(
    intake: Intake, agent: Start, send: Send
) -> None:
    running = agent(*FRAGILE)
    running.wait_ready()
    ids = set(send(running.pipe)["ids"])
    running.tell("write kk")
    until(lambda: sum("starting it again" in line for line in running.lines) == 2)
    account = send(running.pipe, clients=16, requests=5)
    assert account["ends"] == {"200": 80}
    running.tell("ctrl-break")
    assert running.wait_status() == 0
    assert intake.ids == ids | set(account["ids"])


def test_a_pipe_whose_listener_stays_dead_ends_the_agent_in_order(
    intake: Intake, agent: Start, send: Send
) -> None:
    running = agent(*FRAGILE, **LONG)
    running.wait_ready()
    ids = send_by_tcp(running) | set(send(running.pipe)["ids"])
    running.tell("write " + "k" * (RESTARTS_MAX + 1))
    assert running.wait_status() == read_table()[LISTENER].exit_status
    (given_up,) = [line for line in running.lines if "is given up" in line]
    assert f"{LISTENER} {running.pipe}" in given_up
    assert intake.ids == ids


def addresses(agent: KeptAgent) -> tuple[int, str]:
    """What the agent says is open: the port and the pipe."""
    status, _, body = agent.exchange("GET", "/info")
    assert status == 200
    page = json.loads(body)["config"]
    return page["receiver_port"], page["receiver_socket"]


@pytest.mark.parametrize("prefix", ["", "\\\\.\\pipe\\", "\\\\.\\PiPe\\"])
def test_the_address_pages_name_the_pipe_however_it_was_written(
    agent: Start, send: Send, prefix: str
) -> None:
    name = f"mini_agent_{uuid.uuid4().hex}"
    running = agent(DD_APM_WINDOWS_PIPE_NAME=prefix + name)
    running.wait_ready()
    assert addresses(running) == (running.port, f"\\\\.\\pipe\\{name}")
    assert send(running.pipe)["ends"] == {"200": 1}


@pytest.mark.parametrize("name", ["two\\words", "x" * 300])
def test_a_name_that_no_pipe_can_have_is_named_and_the_port_serves(agent: Start, name: str) -> None:
    running = agent(DD_APM_WINDOWS_PIPE_NAME=name)
    running.wait_ready()
    send_by_tcp(running)
    assert addresses(running) == (running.port, "")
    (warning,) = [line for line in running.lines if line.lstrip().startswith("WARN")]
    assert name in warning


def test_a_port_in_other_hands_is_picked_up_when_it_becomes_free(agent: Start, send: Send) -> None:
    with socket.create_server(("127.0.0.1", 0)) as holder:
        port = holder.getsockname()[1]
        running = agent(*FRAGILE, DD_APM_RECEIVER_PORT=str(port))
        warning = running.wait_line(lambda line: f"port {port}" in line)
        assert "taken" in warning
        assert send(running.pipe)["ends"] == {"200": 1}
    running.wait_line(lambda line: "is free now" in line)
    running.port = port
    send_by_tcp(running)
    assert addresses(running) == (port, running.pipe)


@pytest.mark.parametrize(
    "event",
    [
        pytest.param(
            "ctrl-c",
            marks=pytest.mark.skipif(
                sys.platform == "win32", reason="a process group of its own never gets Ctrl-C"
            ),
        ),
        "ctrl-break",
        *(
            pytest.param(
                event,
                marks=pytest.mark.skipif(
                    sys.platform == "win32", reason="only Windows itself can send that event"
                ),
            )
            for event in ("close", "logoff", "shutdown")
        ),
    ],
)
def test_a_console_event_delivers_what_was_accepted(
    intake: Intake, agent: Start, send: Send, event: str
) -> None:
    running = agent(**LONG)
    running.wait_ready()
    ids = send_by_tcp(running) | set(send(running.pipe)["ids"])
    running.tell(event)
    assert running.wait_status() == 0
    assert intake.ids == ids
    assert "balanced" in running.tail()


def test_a_second_event_leaves_the_tries_out(intake: Intake, agent: Start) -> None:
    intake.answer_always(Hang())
    running = agent(MINI_AGENT_FLUSH_INTERVAL_S="0.1", MINI_AGENT_STOP_GRACE_S="600")
    running.wait_ready()
    send_by_tcp(running)
    intake.wait_for(lambda: intake.hung_count == 1)
    running.tell("ctrl-break")
    running.wait_line(lambda line: "stopping" in line)
    running.tell("ctrl-break")
    assert running.wait_status() == 0
    assert "waiting=6 dropped=0" in running.tail()


def test_a_closed_console_cannot_be_waited_out_by_a_hanging_intake(
    intake: Intake, agent: Start
) -> None:
    if sys.platform == "win32":
        pytest.skip("only Windows itself can send that event")
    intake.answer_always(Hang())
    running = agent(MINI_AGENT_FLUSH_INTERVAL_S="0.1", MINI_AGENT_STOP_GRACE_S="600")
    running.wait_ready()
    send_by_tcp(running)
    intake.wait_for(lambda: intake.hung_count == 1)
    running.tell("close")
    assert running.wait_status() == 0
    assert "waiting=6 dropped=0" in running.tail()


def test_a_closed_control_pipe_delivers_what_was_accepted(intake: Intake, agent: Start) -> None:
    running = agent(**LONG, MINI_AGENT_CONTROL_STDIN="true")
    running.wait_ready()
    ids = send_by_tcp(running)
    running.tell("close-stdin")
    assert running.wait_status() == 0
    assert intake.ids == ids


def test_the_parents_death_delivers_what_was_accepted(intake: Intake, agent: Start) -> None:
    running = agent(**LONG, MINI_AGENT_EXIT_WITH_PARENT="true")
    running.wait_ready()
    ids = send_by_tcp(running)
    running.tell("die")
    # The keeper took the agent's output along, so the intake has to tell.
    intake.wait_for(lambda: intake.ids == ids)


def test_a_name_that_cannot_be_a_pipe_is_a_warning_and_tcp_serves(agent: Start) -> None:
    running = agent(DD_APM_WINDOWS_PIPE_NAME="a\\b")
    running.wait_ready()
    assert running.wait_line(lambda line: "DD_APM_WINDOWS_PIPE_NAME" in line)
    send_by_tcp(running)
    running.tell("ctrl-break")
    assert running.wait_status() == 0


def test_what_a_killed_agent_accepted_is_delivered_by_the_next(
    intake: Intake, agent: Start
) -> None:
    """TerminateProcess, the lock of the dead, and files that are moved: as on POSIX."""
    intake.answer_always(503)
    first = agent(MINI_AGENT_FLUSH_INTERVAL_S="0.1", MINI_AGENT_EXIT_WITH_PARENT="false")
    first.wait_ready()
    ids = send_by_tcp(first)
    first.tell("kill")
    first.wait_status()
    intake.answer_always(202)
    second = agent()
    second.wait_ready()
    intake.wait_for(lambda: intake.ids == ids)
    second.tell("ctrl-break")
    assert second.wait_status() == 0
    assert "adopted=6" in second.tail()
