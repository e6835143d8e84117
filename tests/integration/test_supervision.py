"""The supervision table in agent.py, part by part: what a death means."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from kit.agent import AgentProcess, ChildProcess
from kit.intake import Intake
from kit.payloads import encode, make_traces, span_ids
from kit.tracers import PROGRAMS

from mini_agent.flow.supervise import RESTARTS_MAX
from mini_agent.forward.batch import read_folder

PARTS = ["forwarder", "listener", "connection watch"]


def start(intake: Intake, folder: Path, part: str, deaths: int) -> ChildProcess:
    settings = {
        "DD_API_KEY": "key",
        "DD_APM_DD_URL": intake.url,
        "DD_APM_RECEIVER_PORT": "0",
        "MINI_AGENT_FLUSH_INTERVAL_S": "0.1",
        "MINI_AGENT_JOURNAL_DIR": str(folder / "journal"),
    }
    program = [sys.executable, str(PROGRAMS / "fragile_agent.py"), part, str(deaths)]
    return ChildProcess(program, settings, folder, AgentProcess.READY)


@pytest.mark.parametrize("part", PARTS)
def test_a_part_that_dies_is_restarted_and_nothing_is_lost(
    intake: Intake, tmp_path: Path, part: str
) -> None:
    with start(intake, tmp_path, part, deaths=2) as agent:
        agent.wait_ready()
        made = make_traces(2, 3)
        assert agent.send(encode(made))[0] == 200
        intake.wait_for(lambda: intake.ids == span_ids(made))
        agent.wait_line(lambda line: f"{part}" in line and "starting it again" in line)
        agent.terminate()
        assert agent.wait() == 0
    assert agent.lines[-1].endswith("; balanced")


@pytest.mark.parametrize("part", PARTS)
def test_a_part_that_stays_dead_ends_the_agent_in_order_and_is_named(
    intake: Intake, tmp_path: Path, part: str
) -> None:
    with start(intake, tmp_path, part, deaths=RESTARTS_MAX + 1) as agent:
        agent.wait_ready()
        assert agent.wait() == 4
    (given_up,) = [line for line in agent.lines if "is given up" in line]
    assert part in given_up
    assert agent.lines[-1].endswith("balanced")


def test_what_was_accepted_before_the_forwarder_died_is_in_the_journal(
    intake: Intake, tmp_path: Path
) -> None:
    with start(intake, tmp_path, "forwarder", deaths=1000) as agent:
        agent.wait_ready()
        made = make_traces(2, 3)
        assert agent.send(encode(made))[0] == 200
        assert agent.wait() == 4
    kept = sum(record.count for _, records in read_folder(str(tmp_path)) for record in records)
    assert kept == 6
    assert intake.arrivals == []
