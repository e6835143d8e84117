"""`mini_agent.start()` on Windows: the port is bound in the application and given to the agent."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from kit.agent import AgentProcess, ChildProcess
from kit.intake import Intake
from kit.wine import windows_environment

pytestmark = pytest.mark.slow

STARTER = Path(__file__).parent / "programs" / "starter.py"


def test_what_is_sent_right_after_start_arrives_by_port_and_by_pipe(
    intake: Intake, windows_python: str, tmp_path: Path
) -> None:
    settings = {
        **windows_environment(),
        "DD_API_KEY": "a-key-for-tests",
        "DD_APM_DD_URL": intake.url,
        "DD_APM_RECEIVER_PORT": "0",
        "MINI_AGENT_JOURNAL_DIR": str(tmp_path / "journal"),
    }
    ready = AgentProcess.READY
    command = [windows_python, str(STARTER)]
    with ChildProcess(command, settings, tmp_path, ready, subprocess.PIPE) as application:
        assert application.wait() == 0
    assert {"by port 200", "by pipe 200"} <= set(application.lines)
    assert "stopped True" in application.lines
    assert intake.span_count == 4
    assert not [line for line in application.lines if line.lstrip().startswith(("WARN", "ERROR"))]
