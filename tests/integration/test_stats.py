"""Stats of the whole agent: what was counted arrives, whatever ends the agent."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from kit.intake import STATS
from kit.payloads import encode, make_span
from kit.waiting import until

if TYPE_CHECKING:
    from kit.agent import AgentProcess
    from kit.intake import Intake

    Start = Callable[..., AgentProcess]

ON = {"DD_AGENT_STATS_COMPUTATION_ENABLED": "true"}


def send(agent: AgentProcess, count: int = 5, **headers: str) -> None:
    now_ns = time.time_ns()
    traces = [[make_span(start=now_ns - 1000, duration=1000, resource="r")] for _ in range(count)]
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    assert agent.send(encode(traces), headers=names)[0] == 200


def hits(intake: Intake) -> int:
    return sum(entry["Hits"] for entry in intake.stats_entries())


def client_payload(**overrides: Any) -> bytes:
    group = {"Service": "shop", "Hits": 7, "OkSummary": b"\x0a"}
    bucket = {"Start": time.time_ns(), "Duration": 10**10, "Stats": [group]}
    return encode({"Hostname": "laptop", "Env": "prod", "Stats": [bucket], **overrides})


def test_open_buckets_are_delivered_at_a_stop(intake: Intake, agent: Start) -> None:
    with agent(ON) as running:
        send(running)
        running.terminate()
        assert running.wait() == 0
    assert hits(intake) == 5
    (arrival,) = intake.arrivals_at(STATS)
    assert arrival.headers["content-encoding"] == "gzip"
    assert arrival.headers["content-type"] == "application/msgpack"
    assert "stats: adopted=0 accepted=1 delivered=1" in running.final_report()


def test_open_buckets_survive_a_kill(intake: Intake, agent: Start, tmp_path: Path) -> None:
    with agent(ON) as running:
        send(running)
        journal = Path(running.journal_path)
        until(lambda: list(journal.glob("*/*.checkpoint")))
        running.kill()
        running.wait()
    assert hits(intake) == 0
    with agent(ON) as successor:
        until(lambda: successor.status()["open_stats_groups"])
        send(successor)
        successor.terminate()
        assert successor.wait() == 0
    assert hits(intake) == 10
    assert list(journal.iterdir()) == [], "nothing is left behind"


def test_stats_wait_for_an_intake_that_is_away(intake: Intake, agent: Start) -> None:
    intake.answer_always(503, path=STATS)
    with agent({**ON, "MINI_AGENT_STOP_GRACE_S": "1"}) as running:
        send(running)
        assert running.send(client_payload(), "/v0.6/stats")[0] == 202
        running.terminate()
        assert running.wait() == 0
    assert "stats: adopted=0 accepted=2 delivered=0 waiting=2" in running.final_report()
    intake.answer_always(202)
    with agent() as successor:
        intake.wait_for(lambda: hits(intake) == 12)
        successor.terminate()
        assert successor.wait() == 0
    assert {arrival.taken for arrival in intake.arrivals_at(STATS)[-2:]} == {True}


@pytest.mark.parametrize("method", ["PUT", "POST"])
def test_what_a_tracer_counted_is_passed_on(intake: Intake, agent: Start, method: str) -> None:
    with agent() as running:
        status, answer = running.send(client_payload(), "/v0.6/stats", method=method)
        assert status == 202
        assert answer == b'{"message":"Successfully buffered stats to be flushed."}'
        intake.wait_for(lambda: intake.stats_entries())
        running.terminate()
        assert running.wait() == 0
    (entry,) = intake.stats_entries()
    assert (entry["Hits"], entry["payload.Env"], entry["payload.Hostname"]) == (7, "prod", "")
    assert entry["bucket.Start"] % 10**10 == 0


def test_what_the_tracer_counts_is_left_to_it(intake: Intake, agent: Start) -> None:
    with agent(ON) as running:
        send(running, Datadog_Client_Computed_Stats="yes")
        assert running.status()["open_stats_groups"] == 0


@pytest.mark.parametrize(("settings", "may_drop"), [({}, True), (ON, False)])
def test_info_says_who_counts(
    intake: Intake, agent: Start, settings: dict[str, str], may_drop: bool
) -> None:
    with agent(settings) as running:
        status, _, body = running.exchange("GET", "/info")
    page = json.loads(body)
    assert status == 200
    assert "/v0.6/stats" in page["endpoints"]
    assert page["client_drop_p0s"] is may_drop


def test_without_an_account_nothing_is_counted(intake: Intake, agent: Start) -> None:
    with agent({**ON, "DD_API_KEY": ""}) as running:
        send(running)
        assert running.status()["open_stats_groups"] == 0
        assert running.send(client_payload(), "/v0.6/stats")[0] == 404
        running.terminate()
        assert running.wait() == 0
