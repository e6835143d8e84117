"""Records what real tracers send: `python tests/corpus/record.py`, from the top folder.

The programs are those of `tests/kit/programs`; the bodies are kept as they came. Run again
when a tracer is updated, and look at what changed.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from kit.agent import AgentProcess
from kit.intake import Intake
from kit.tap import Tap
from kit.tracers import run_flask_shop, run_node_shop

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]

RECORDINGS = {
    "v04-ddtrace": (run_flask_shop, "/v0.4/traces", {"DD_TRACE_API_VERSION": "v0.4"}),
    "v05-ddtrace": (run_flask_shop, "/v0.5/traces", {"DD_TRACE_API_VERSION": "v0.5"}),
    "v04-dd-trace": (run_node_shop, "/v0.4/traces", {}),
    "v05-dd-trace": (run_node_shop, "/v0.5/traces", {"DD_TRACE_AGENT_PROTOCOL_VERSION": "0.5"}),
}


def record(name: str, folder: Path) -> int:
    """Keep the largest body a program sent; returns its size."""
    run, path, environment = RECORDINGS[name]
    with Intake() as intake, AgentProcess({"DD_APM_DD_URL": intake.url}, folder / "agent") as agent:
        agent.wait_ready()
        with Tap(agent.port) as tap:
            run(tap.url, folder / "program", environment)
        bodies = [request.body for request in tap.requests(path)]
    body = hide_folder(max(bodies, key=len))
    (HERE / f"{name}.msgpack").write_bytes(body)
    return len(body)


def hide_folder(body: bytes) -> bytes:
    """The body without the name of the folder it was recorded in, byte for byte as long."""
    folder = str(ROOT).encode()
    return body.replace(folder, b"/srv".ljust(len(folder), b"-"))


def main() -> None:
    for name in RECORDINGS:
        with tempfile.TemporaryDirectory(prefix="mini-agent-record-") as folder:
            print(f"{name}: {record(name, Path(folder)):,} bytes")


if __name__ == "__main__":
    main()
