"""Windows pipes, in numbers and in a table; under Wine, or on Windows.

    python tests/windows/run.py busy
    python tests/windows/run.py scenarios

`scenarios` prints which tracers reach the agent by what; see test_scenarios.py.

`busy` counts what clients of a pipe live through, beside the reference's pipe in the same run.
Each line: an agent, how its clients connected, and what became of their requests. `open: 231` is
a client told that the pipe is busy; `read: 109` and `write: 232` are clients cut off. Only what
was answered counts in a rate. Rates say little under Wine, whose server is one thread for all, the
clients' calls included; losses do.
"""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
import sys
import tempfile
import uuid
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE.parents[1] / "src")]

from kit.agent import ChildProcess  # noqa: E402
from kit.intake import Intake  # noqa: E402
from kit.ports import find_tcp_port  # noqa: E402
from kit.wine import KeptAgent, find_windows_python, run_windows, wine_services  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Iterator

CASES = [
    ("16 clients x 20, a connection each, no patience", ["--clients=16", "--requests=20"]),
    ("1 client x 100, a connection each, no patience", ["--requests=100"]),
    ("16 clients x 20, patient for 0.5 s", ["--clients=16", "--requests=20", "--patience=0.5"]),
    ("8 clients x 50, connections kept", ["--mode=kept", "--clients=8", "--requests=50"]),
    ("16 clients x 50 that come and go", ["--mode=touch", "--clients=16", "--requests=50"]),
    ("1 client x 20 afterwards", ["--requests=20"]),
]


@contextlib.contextmanager
def ours(python: str, intake: Intake, folder: Path) -> Iterator[str]:
    """Our agent; gives the path of its pipe."""
    settings = {
        "DD_API_KEY": "a-key-for-tests",
        "DD_APM_DD_URL": intake.url,
        "DD_APM_RECEIVER_PORT": "0",
        "DD_APM_WINDOWS_PIPE_NAME": f"mini_agent_{uuid.uuid4().hex}",
        "MINI_AGENT_JOURNAL_DIR": str(folder / "journal"),
    }
    with KeptAgent([python, str(HERE / "programs" / "keeper.py")], settings, folder) as agent:
        agent.wait_ready()
        yield agent.pipe
        agent.tell("ctrl-break")
        agent.wait_status()
        print(f"  at its end: {agent.lines[-2].strip()}")


@contextlib.contextmanager
def reference(python: str, intake: Intake, folder: Path) -> Iterator[str]:
    """The reference; gives the path of its pipe."""
    [binary] = [
        str(file.locate())
        for file in metadata.files("datadog-serverless-compat") or []
        if file.match("windows-amd64/*.exe")
    ]
    command = [binary]
    if sys.platform != "win32":
        settings = Path(python).parents[1] / "env.sh"
        command = ["bash", "-c", f'. "{settings}"; exec /usr/lib/wine/wine64 "$0"', binary]
    name = f"reference_{uuid.uuid4().hex}"
    environment = {
        "AWS_LAMBDA_INITIALIZATION_TYPE": "on-demand",
        "AWS_LAMBDA_FUNCTION_NAME": "fn",
        "DD_API_KEY": "a-key-for-tests",
        "DD_APM_DD_URL": intake.url,
        "DD_APM_RECEIVER_PORT": str(find_tcp_port()),
        "DD_APM_WINDOWS_PIPE_NAME": name,
        "DD_USE_DOGSTATSD": "false",
        "DD_LOG_LEVEL": "debug",
    }
    ready = re.compile(r"Mini Agent.*listening on.*pipe", re.IGNORECASE)
    with ChildProcess(command, environment, folder, ready) as agent:
        agent.wait_ready()
        yield f"\\\\.\\pipe\\{name}"


def busy() -> None:
    """All cases for both agents."""
    python = find_windows_python()
    with wine_services(python), Intake(keep_payloads=False) as intake:
        for name, start in (("ours", ours), ("reference", reference)):
            with tempfile.TemporaryDirectory() as folder:
                print(name, flush=True)
                with start(python, intake, Path(folder)) as pipe:
                    for title, words in CASES:
                        print(f"  {title:50}", measure(python, pipe, words), flush=True)


def measure(python: str, pipe: str, words: list[str]) -> str:
    """One case in one line."""
    command = [python, str(HERE / "programs" / "senders.py"), pipe, *words]
    try:
        account = json.loads(run_windows(command, timeout_s=30))
    except (AssertionError, subprocess.TimeoutExpired) as problem:
        return f"the clients gave up: {type(problem).__name__}"
    ends = ", ".join(f"{end}: {count}" for end, count in sorted(account["ends"].items()))
    return (
        f"{ends}; {account['busy_retries']} busy retries; {account['served_per_s']} served/s, "
        f"p50 {account['p50_ms']} ms, p99 {account['p99_ms']} ms"
    )


def scenarios() -> int:
    """The scenario table; the exit status of its test."""
    import pytest

    return pytest.main([str(HERE / "test_scenarios.py")])


if __name__ == "__main__":
    if sys.argv[1:] == ["busy"]:
        busy()
    elif sys.argv[1:] == ["scenarios"]:
        sys.exit(scenarios())
    else:
        sys.exit(__doc__)
