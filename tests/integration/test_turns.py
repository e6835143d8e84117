"""Large bodies and many clients: others are served meanwhile, and nothing is lost."""

from __future__ import annotations

import os
import select
import signal
import sys
from collections.abc import Callable, Iterator

import pytest
from kit.agent import AgentProcess
from kit.http_client import RawClient, request
from kit.intake import Intake
from kit.loopback import WAIT_S_MAX
from kit.payloads import encode, make_span, span_ids
from kit.waiting import until

from mini_agent.flow.loop import EVENTS_MAX

Start = Callable[..., AgentProcess]

# Each is too long to be remembered, so it is obfuscated for each span. Together they take many
# turns with compiled modules too, and are longer than one read of a connection.
QUERY = "SELECT " + ", ".join(f"a{n}.b{n} + {n} * 'x{n}'" for n in range(500))
TRACES = 800

INFO = b"GET /info HTTP/1.1\r\nHost: x\r\n\r\n"


class Large:
    """A client that sends one large body; it is worked on when this is made."""

    def __init__(self, agent: AgentProcess, traces: int = TRACES, behind: bytes = b"") -> None:
        made = [[make_span(type="sql", resource=QUERY)] for _ in range(traces)]
        self.ids = span_ids(made)
        sent = request("POST", "/v0.4/traces", body=encode(made))
        self.client = RawClient(agent.host, agent.port, WAIT_S_MAX)
        self.other = RawClient(agent.host, agent.port, WAIT_S_MAX)
        self.client.send(sent[:-1])
        # A read of it for each of these, at least: nothing is left to read but the last byte.
        for _ in range(len(sent) // 65536):
            self.ask()
        self.client.send(sent[-1:] + behind)

    def ask(self) -> None:
        """Have another client served."""
        self.other.send(INFO)
        assert self.other.answer().status == 200

    @property
    def is_answered(self) -> bool:
        readable, _, _ = select.select([self.client.socket], [], [], 0)
        return bool(readable)

    def close(self) -> None:
        self.client.close()
        self.other.close()


@pytest.fixture
def running(agent: Start) -> Iterator[AgentProcess]:
    with agent({"MINI_AGENT_FLUSH_INTERVAL_S": "1"}) as started:
        yield started


def accepted(agent: AgentProcess) -> int:
    """Spans in the journal or delivered."""
    counts = agent.status()["ledger"].get("spans", {})
    return int(counts.get("accepted", 0))


def test_others_are_answered_before_a_large_body_is(running: AgentProcess, intake: Intake) -> None:
    large = Large(running)
    # The first may have been read before the last byte; the second was sent behind it.
    for _ in range(2):
        large.ask()
        assert not large.is_answered
    assert large.client.answer().status == 200
    large.close()
    intake.wait_for(lambda: intake.ids == large.ids)


def test_what_is_behind_a_large_body_keeps_its_order(running: AgentProcess) -> None:
    missing = request("GET", "/nowhere")
    large = Large(running, behind=INFO + missing + INFO)
    assert [large.client.answer().status for _ in range(4)] == [200, 200, 404, 200]
    large.close()


def test_a_client_that_leaves_has_sent_its_body(running: AgentProcess, intake: Intake) -> None:
    large = Large(running)
    large.ask()
    large.client.reset()
    until(lambda: accepted(running) == TRACES)
    intake.wait_for(lambda: intake.ids == large.ids)
    large.close()


def test_a_stop_answers_and_delivers_what_is_worked_on(
    running: AgentProcess, intake: Intake
) -> None:
    large = Large(running)
    for _ in range(2):
        large.ask()
    assert not large.is_answered
    running.terminate()
    answer = large.client.answer()
    assert (answer.status, answer.closes) == (200, True)
    large.close()
    assert running.wait() == 0
    assert intake.ids == large.ids
    assert "balanced" in running.final_report()


def test_a_stop_finishes_what_a_client_has_left_behind(
    running: AgentProcess, intake: Intake
) -> None:
    large = Large(running)
    large.ask()
    large.client.reset()
    large.ask()
    running.terminate()
    assert running.wait() == 0
    assert intake.ids == large.ids
    large.close()


@pytest.mark.skipif(sys.platform == "win32", reason="no process can be held there")
def test_a_stop_answers_all_whose_requests_had_come(running: AgentProcess) -> None:
    """They are more than a turn serves."""
    clients = [RawClient(running.host, running.port, WAIT_S_MAX) for _ in range(12 * EVENTS_MAX)]
    for client in clients:
        client.send(INFO)
        assert client.answer().status == 200
    os.kill(running.pid, signal.SIGSTOP)
    try:
        for client in clients:
            client.send(INFO)
        running.terminate()
    finally:
        os.kill(running.pid, signal.SIGCONT)
    assert {client.answer().status for client in clients} == {200}
    for client in clients:
        client.close()
    assert running.wait() == 0
