"""The programs that are measured: where they come from, how they start, what the kernel says.

Ours is the tree this file stands in, started as `mini_agent.start()` starts it; the reference,
and what ours depends on, are installed from PyPI into environments of their own under build/bench,
once. All figures are the
kernel's, for the whole process with its threads and its children. Linux only.
"""

from __future__ import annotations

import compileall
import contextlib
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from kit.agent import make_environment

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

ROOT = Path(__file__).resolve().parents[1]
ENVIRONMENTS = ROOT / "build" / "bench"

# The version that everything else here is compared with, too; see pyproject.toml.
REFERENCE_PACKAGE = "datadog-serverless-compat==0.19.0"

COMPILED, PLAIN, REFERENCE = "compiled", "plain", "reference"
# Where what we depend on is installed.
OURS = "ours"

# The settings of every measurement, as the agent and the reference read them.
SETTINGS = {
    "DD_API_KEY": "a-key-for-measurements",
    "DD_AGENT_STATS_COMPUTATION_ENABLED": "true",
    "DD_APM_OBFUSCATION_HTTP_REMOVE_QUERY_STRING": "true",
    "DD_APM_OBFUSCATION_HTTP_REMOVE_PATHS_WITH_DIGITS": "true",
    "DD_APM_OBFUSCATION_REDIS_ENABLED": "true",
    "AWS_LAMBDA_INITIALIZATION_TYPE": "on-demand",
    "AWS_LAMBDA_FUNCTION_NAME": "fn",
}

STOP_S_MAX = 15.0
# Of what a program said, when something went wrong.
LINES_SHOWN = 15
ACCEPT_S_MAX = 20.0

_TICKS = os.sysconf("SC_CLK_TCK")


def install(name: str, *packages: str) -> Path:
    """An environment under build/bench with these packages in it; made once, reused after."""
    folder = ENVIRONMENTS / name
    done = folder / "installed"
    wanted = "\n".join(packages)
    if not done.exists() or done.read_text() != wanted:
        making = [sys.executable, "-m", "venv", "--clear", "--without-pip", str(folder)]
        subprocess.run(making, check=True)
        python = str(folder / "bin" / "python")
        pip = [sys.executable, "-m", "pip", "--python", python, "-q", "install"]
        subprocess.run([*pip, "--disable-pip-version-check", *packages], check=True)
        done.write_text(wanted)
    return folder


def find_reference() -> Path:
    """The reference's binary, which may be run."""
    folder = install(REFERENCE, REFERENCE_PACKAGE)
    binary = next(folder.rglob("linux-amd64/datadog-serverless-compat*"))
    # Installers may leave the mode out.
    binary.chmod(0o755)
    return binary


def find_command() -> list[str]:
    """Ours, as the launcher starts it where nothing else is installed than what we depend on.

    What we are developed with does not count: msgspec, for one, loads more where there is more.
    """
    dependencies = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    # As installing a package does; without it every start would compile what it loads.
    compileall.compile_dir(str(ROOT / "src"), quiet=1)
    python = str(install(OURS, *dependencies) / "bin" / "python")
    asking = "import json; from mini_agent import spawn; print(json.dumps(spawn.command()))"
    environment = {"PYTHONPATH": str(ROOT / "src")}
    said = subprocess.check_output([python, "-c", asking], cwd="/", env=environment, text=True)
    command: list[str] = json.loads(said)
    return command


def which_twins() -> list[str]:
    """The twins of ours there are to measure, compiled first."""
    asking = "from mini_agent import twins; print(twins.running())"
    environment = {name: text for name, text in os.environ.items() if name != "MINI_AGENT_PLAIN"}
    said = subprocess.check_output([sys.executable, "-c", asking], env=environment, text=True)
    return [COMPILED, PLAIN] if said.strip() == COMPILED else [PLAIN]


class Program:
    """One program that can be started again and again."""

    def __init__(self, name: str) -> None:
        self.name = name
        if name == REFERENCE:
            self._command = [str(find_reference())]
            # It says more than enough by itself.
            self._own = {"DD_LOG_LEVEL": "error", "DD_USE_DOGSTATSD": "false"}
        else:
            self._command = find_command()
            self._own = {"DD_LOG_LEVEL": "warn"}
        if name == PLAIN:
            self._own["MINI_AGENT_PLAIN"] = "1"

    @contextlib.contextmanager
    def running(
        self, folder: Path, intake_url: str, settings: Mapping[str, str] | None = None
    ) -> Iterator[Running]:
        """Start it and wait until its port accepts; it is told to stop when the block ends."""
        folder.mkdir(exist_ok=True)
        port = find_low_port()
        environment = make_environment(
            {
                **SETTINGS,
                **self._own,
                "DD_APM_DD_URL": intake_url,
                "DD_APM_RECEIVER_PORT": str(port),
                "MINI_AGENT_JOURNAL_DIR": str(folder / "journal"),
                **(settings or {}),
            },
            folder,
        )
        with (folder / "output").open("wb") as output:
            started_s = time.perf_counter()
            child = subprocess.Popen(
                self._command,
                env=environment,
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
            try:
                wait_accepts(port)
                yield Running(child.pid, port, folder, started_s, time.perf_counter())
            except BaseException:
                said = (folder / "output").read_text(errors="replace").splitlines()
                print(f"{self.name} said:", *said[-LINES_SHOWN:], sep="\n", file=sys.stderr)
                raise
            finally:
                _end(child)


class Running:
    """One run of a program.

    Attributes:
        started_s, accepted_s: Just before it was started, and when its port accepted.
    """

    def __init__(
        self, pid: int, port: int, folder: Path, started_s: float, accepted_s: float
    ) -> None:
        self.pid = pid
        self.port = port
        self.started_s = started_s
        self.accepted_s = accepted_s
        self._journal = folder / "journal"

    def cpu_s(self) -> float:
        """CPU time so far, of all its threads, and of children that live or have ended."""
        return _cpu_s(self.pid)

    def memory_mb(self, key: str) -> float:
        """A size of /proc/PID/status: VmRSS, or VmHWM for the most there was."""
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith(key + ":"):
                return int(line.split()[1]) * 1024 / 1e6
        raise AssertionError(f"process {self.pid} has no {key}")

    def journal_mb(self) -> float:
        """What its journal takes on disk now; 0 for a program without one."""
        size = 0
        for folder, _, files in os.walk(self._journal):
            for file in files:
                # Delivered while we look.
                with contextlib.suppress(FileNotFoundError):
                    size += os.stat(os.path.join(folder, file)).st_size
        return size / 1e6


def _cpu_s(pid: int) -> float:
    # The clock that the kernel keeps for every process; in nanoseconds, where /proc has ticks.
    # Its number is made as in CPUCLOCK_SCHED of linux/posix-timers.h.
    spent_s = time.clock_gettime((~pid << 3) | 2)
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    spent_s += (int(fields[13]) + int(fields[14])) / _TICKS
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        spent_s += sum(_cpu_s(int(child)) for child in children.read_text().split())
    return spent_s


def find_low_port() -> int:
    """A free port that the system gives to no client: of so many tries one would be ours."""
    while True:
        port = random.randrange(20_000, 30_000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def wait_accepts(port: int) -> None:
    """Return as soon as a connection is accepted."""
    deadline_s = time.perf_counter() + ACCEPT_S_MAX
    while time.perf_counter() < deadline_s:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
    raise AssertionError(f"port {port} never accepted")


def _end(child: subprocess.Popen[bytes]) -> None:
    child.send_signal(signal.SIGTERM)
    try:
        child.wait(STOP_S_MAX)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()
