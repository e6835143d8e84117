"""Starting: what is said, what is refused, and what is not worth dying for."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from kit.agent import AgentProcess
from kit.intake import Intake
from kit.loopback import WAIT_S_MAX
from kit.payloads import make_payload
from kit.ports import find_tcp_port

Start = Callable[..., AgentProcess]


def test_a_port_that_is_taken_ends_the_start_with_the_reason(agent: Start) -> None:
    with socket.create_server(("127.0.0.1", 0)) as holder:
        port = holder.getsockname()[1]
        with agent({"DD_APM_RECEIVER_PORT": str(port)}, wait=False) as refused:
            assert refused.wait() == 1
    (line,) = refused.lines
    assert line.startswith("mini-agent: ")
    assert str(port) in line
    assert "taken" in line


@pytest.mark.parametrize(
    ("variable", "value"),
    [("DD_SITE", "not a site"), ("DD_APM_DD_URL", "ftp://x"), ("DD_PROXY_HTTPS", "http://u:p@")],
)
def test_a_setting_nothing_can_replace_ends_the_start_and_is_named(
    agent: Start, variable: str, value: str
) -> None:
    with agent({variable: value}, wait=False) as refused:
        assert refused.wait() == 2
    assert variable in refused.tail()
    assert "u:p" not in refused.tail()


def test_a_typo_in_a_port_is_a_warning(agent: Start) -> None:
    with agent({"DD_APM_CONFIG_COMPRESSION_LEVEL": "high"}) as running:
        assert "DD_APM_CONFIG_COMPRESSION_LEVEL" in running.tail()


def test_a_connection_made_before_the_agent_is_ready_is_served(agent: Start) -> None:
    port = find_tcp_port()
    with agent({"DD_APM_RECEIVER_PORT": str(port)}, wait=False) as running:
        while True:
            try:
                early = socket.create_connection(("127.0.0.1", port), WAIT_S_MAX)
            except ConnectionRefusedError:
                continue  # Not bound yet: the interpreter starts.
            break
        with early:
            body = make_payload()
            head = f"POST /v0.4/traces HTTP/1.1\r\nContent-Length: {len(body)}\r\n\r\n"
            early.sendall(head.encode() + body)
            assert early.recv(12) == b"HTTP/1.1 200"
        running.wait_ready()


def test_the_ready_line_and_the_status_page_tell_the_truth(intake: Intake, agent: Start) -> None:
    with agent() as running:
        line = running.wait_line(lambda line: " ready: " in line)
        assert re.match(r"mini-agent [0-9.]+ \((compiled|plain)\) ready: ", line)
        assert f"traces on http://127.0.0.1:{running.port}" in line
        assert intake.url in line
        assert running.send(make_payload(2, 3))[0] == 200
        intake.wait_for_spans(6)
        page = running.status()
        assert page["environment"] == "local"
        assert page["journal"]["where"] == "disk"
        assert page["ledger"]["spans"]["accepted"] == 6


def test_the_key_is_never_said(agent: Start) -> None:
    key = "0123456789abcdef0123456789abcdef"
    with agent({"DD_API_KEY": key, "DD_LOG_LEVEL": "trace"}) as running:
        assert running.send(make_payload())[0] == 200
        assert key not in str(running.status())
        running.terminate()
        running.wait()
        assert key not in "\n".join(running.lines)
        for path in Path(running.journal_path).rglob("*"):
            if path.is_file():
                assert key.encode() not in path.read_bytes()


def test_an_unusable_journal_folder_is_said_once_and_memory_is_used(
    intake: Intake, agent: Start, tmp_path: Path
) -> None:
    in_the_way = tmp_path / "file"
    in_the_way.write_text("not a folder")
    with agent({"MINI_AGENT_JOURNAL_DIR": str(in_the_way)}) as running:
        for _ in range(3):
            assert running.send(make_payload())[0] == 200
        assert running.status()["journal"]["where"] == "memory"
        intake.wait_for_spans(3)
        running.terminate()
        assert running.wait() == 0
        assert sum("going on in memory" in line for line in running.lines) == 1


def test_the_journal_can_be_switched_off(intake: Intake, agent: Start) -> None:
    with agent({"MINI_AGENT_JOURNAL_BYTES_MAX": "0"}) as running:
        assert running.send(make_payload())[0] == 200
        assert not os.path.exists(running.journal_path)
        running.terminate()
        assert running.wait() == 0
    assert len(intake.ids) == 1


def test_without_an_account_traces_stay_here_and_can_be_shown(
    intake: Intake, agent: Start, tmp_path: Path
) -> None:
    store = str(tmp_path / "store" / "traces.sqlite")
    with agent({"DD_API_KEY": "", "MINI_AGENT_STORE_PATH": store}) as running:
        running.wait_line(lambda line: "no DD_API_KEY" in line)
        assert running.send(make_payload(3, 4))[0] == 200
        running.terminate()
        assert running.wait() == 0
        assert "delivered=12 waiting=0" in running.final_report()
    assert intake.arrivals == []

    def traces(*words: str) -> str:
        command = [sys.executable, "-m", "mini_agent", "traces", "--store", store, *words]
        wide = {**os.environ, "COLUMNS": "200"}
        return subprocess.run(
            command, capture_output=True, text=True, check=True, timeout=WAIT_S_MAX, env=wide
        ).stdout

    listing = traces()
    assert listing.count("checkout-api") == 3
    first = next(line for line in listing.splitlines() if "checkout-api" in line).split()[0]
    tree = traces(first)
    assert tree.count("flask.request") == 4
    assert "ms" in tree
