"""Records what real tracers send: `python tests/corpus/record.py [NAME ...]`, from the top folder.

The programs are those of `tests/kit/programs`; the bodies are kept as they came. Run again
when a tracer is updated, and look at what changed.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from corpus.servers import run_servers
from kit.agent import AgentProcess
from kit.intake import Intake
from kit.tap import Tap
from kit.tracers import (
    INSTALL_S_MAX,
    ProgramRun,
    run_flask_shop,
    run_node_shop,
    run_node_store,
    run_python_store,
)

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
CLIENTS = HERE / "clients"

Settings = dict[str, str]
Run = Callable[[str, Path, Settings], ProgramRun]

V04_PYTHON = {"DD_TRACE_API_VERSION": "v0.4"}
V05_PYTHON = {"DD_TRACE_API_VERSION": "v0.5"}
V05_NODE = {"DD_TRACE_AGENT_PROTOCOL_VERSION": "0.5"}
# One request for everything the program does.
AT_ONCE = {"DD_TRACE_WRITER_INTERVAL_SECONDS": "60"}
# ddtrace leaves kombu alone unless it is told.
STORE = {"SHOP_VISIT": "store", "DD_TRACE_KOMBU_ENABLED": "true", **AT_ONCE}
JOBS = {"SHOP_VISIT": "jobs", **AT_ONCE}


def store_in_python(agent_url: str, folder: Path, settings: Settings) -> ProgramRun:
    """The store room under ddtrace, with its clients and servers."""
    packages = folder / "packages"
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--target", str(packages)]
    subprocess.run(
        [*command, "--requirement", str(CLIENTS / "requirements.txt")],
        check=True,
        timeout=INSTALL_S_MAX,
    )
    with run_servers(folder) as places:
        # Jobs are found by the name of the program's module.
        path = {"PYTHONPATH": f"{packages}:{ROOT / 'tests' / 'kit' / 'programs'}"}
        return run_python_store(agent_url, folder, {**path, **places, **settings})


def store_in_node(agent_url: str, folder: Path, settings: Settings) -> ProgramRun:
    """The store room under dd-trace, with its clients and servers."""
    with run_servers(folder) as places:
        return run_node_store(agent_url, folder, {**places, **settings}, CLIENTS)


RECORDINGS: dict[str, tuple[Run, str, Settings]] = {
    "v04-ddtrace": (run_flask_shop, "/v0.4/traces", V04_PYTHON),
    "v05-ddtrace": (run_flask_shop, "/v0.5/traces", V05_PYTHON),
    "v04-dd-trace": (run_node_shop, "/v0.4/traces", {}),
    "v05-dd-trace": (run_node_shop, "/v0.5/traces", V05_NODE),
    "v04-ddtrace-store": (store_in_python, "/v0.4/traces", {**V04_PYTHON, **STORE}),
    "v05-ddtrace-store": (store_in_python, "/v0.5/traces", {**V05_PYTHON, **STORE}),
    "v04-ddtrace-jobs": (store_in_python, "/v0.4/traces", {**V04_PYTHON, **JOBS}),
    "v05-ddtrace-jobs": (store_in_python, "/v0.5/traces", {**V05_PYTHON, **JOBS}),
    "v04-dd-trace-store": (store_in_node, "/v0.4/traces", {}),
    "v05-dd-trace-store": (store_in_node, "/v0.5/traces", V05_NODE),
}


def record(name: str, folder: Path) -> int:
    """Keep the largest body a program sent; returns its size."""
    run, path, settings = RECORDINGS[name]
    program = folder / "program"
    program.mkdir()
    with Intake() as intake, AgentProcess({"DD_APM_DD_URL": intake.url}, folder / "agent") as agent:
        agent.wait_ready()
        with Tap(agent.port) as tap:
            run(tap.url, program, settings)
        bodies = [request.body for request in tap.requests(path)]
    body = hide_folders(max(bodies, key=len), folder, ROOT)
    (HERE / f"{name}.msgpack").write_bytes(body)
    return len(body)


def hide_folders(body: bytes, *folders: Path) -> bytes:
    """The body without the names of the folders it was recorded in, byte for byte as long."""
    for folder in folders:
        name = str(folder).encode()
        body = body.replace(name, b"/srv".ljust(len(name), b"-"))
    return body


def main() -> None:
    for name in sys.argv[1:] or RECORDINGS:
        with tempfile.TemporaryDirectory(prefix="mini-agent-record-") as folder:
            print(f"{name}: {record(name, Path(folder)):,} bytes")


if __name__ == "__main__":
    main()
