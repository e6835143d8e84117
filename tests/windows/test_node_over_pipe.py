"""A real tracer whose transport is a named pipe: dd-trace, in Node for Windows."""

from __future__ import annotations

import socket
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from kit.intake import Intake
from kit.tracers import install_windows_node, run_node_shop
from kit.wine import KeptAgent

pytestmark = pytest.mark.slow

# What the pipe's path begins with, and what dd-trace wants in its place.
PIPE_PREFIX = "\\\\.\\pipe\\"
URL_PREFIX = "unix://./pipe/"


@pytest.fixture(scope="session")
def windows_node(windows_python: str) -> list[str]:
    """The command of a Node for Windows; empty for the usual one, where this is Windows."""
    if sys.platform == "win32":
        return []
    runner = Path(__file__).parent / "programs" / "wine-node"
    settings = Path(windows_python).parents[1] / "env.sh"
    return ["bash", str(runner), str(settings), str(install_windows_node())]


def test_every_span_of_a_real_tracer_comes_by_the_pipe(
    intake: Intake, agent: Callable[..., KeptAgent], windows_node: list[str], tmp_path: Path
) -> None:
    # With the port in other hands there is no way but the pipe.
    with socket.create_server(("127.0.0.1", 0)) as holder:
        running = agent(DD_APM_RECEIVER_PORT=str(holder.getsockname()[1]))
        running.wait_line(lambda line: " ready: " in line)
        url = URL_PREFIX + running.pipe.removeprefix(PIPE_PREFIX)
        made = run_node_shop(url, tmp_path / "shop", node=windows_node).made
        running.tell("ctrl-break")
        assert running.wait_status() == 0
    wanted = {int(span["span_id"]) for span in made}
    assert len(wanted) == len(made) > 0
    assert wanted <= intake.ids
    assert set(intake.id_counts.values()) == {1}
    assert "balanced" in running.tail()
