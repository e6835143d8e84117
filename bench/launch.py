"""`python bench/launch.py`: from `start()` to the first trace, beside the reference's launcher.

Each figure comes from a new Python process that starts one agent and sends it a trace. *Cold* has
loaded nothing before `start()`, *warm* the parts of the standard library that an application with
a tracer has loaded anyway. What starting a process costs is measured in the same process. The
first accepted connection is one of this program's, which tries all the time.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from kit.agent import make_environment
from kit.intake import Intake
from kit.payloads import make_payload
from kit.reference import find_binary
from programs import find_low_port

RUNS = 15
RUN_S_MAX = 60

# The two programs differ in these lines alone.
OURS = """
import mini_agent
start, finish = mini_agent.start, mini_agent.stop
"""
# It knows fewer hosts than its binary; Lambda is the one that needs nothing around it. The child
# is kept, to be ended: it would outlive us.
REFERENCE = """
from datadog_serverless_compat import main as launcher
launcher.get_environment = lambda: launcher.CloudEnvironment.AZURE_FUNCTION
children = []
spawn = launcher.Popen
launcher.Popen = lambda *words, **names: children.append(spawn(*words, **names))
start = launcher.start
def finish():
    for child in children:
        child.kill()
        child.wait()
"""
PROGRAM = """
import sys
if sys.argv[1] == "warm":
    import http.client, logging, shutil, socket, subprocess, tempfile, threading
from time import perf_counter as now
port = int(sys.argv[2])
before = now()
{launcher}
imported = now()
start()
returned = now()
import json, os, socket, subprocess
asking = now()
while True:
    try:
        client = socket.create_connection(("127.0.0.1", port))
        break
    except ConnectionRefusedError:
        pass
body = open(sys.argv[3], "rb").read()
head = "POST /v0.4/traces HTTP/1.1\\r\\nHost: x\\r\\nContent-Length: %d\\r\\n\\r\\n" % len(body)
client.sendall(head.encode() + body)
assert client.recv(12) == b"HTTP/1.1 200"
answered = now()
other = subprocess.Popen(["/bin/true"])
spawned = now()
other.wait()
client.close()
finish()
times = {{
    "started": imported,
    "import": imported - before,
    "return": returned - imported,
    # Loading modules in between is not the agent's doing.
    "answered": answered - asking + returned - imported,
    "spawn": spawned - answered,
}}
os.write(1, (json.dumps(times) + "\\n").encode())
"""
ROWS = {
    "import": "importing the package",
    "return": "start() to its return",
    "accepted": "start() to the first accepted connection",
    "answered": "start() to the first answered trace",
    "spawn": "(starting any process from here)",
}


def one_run(program: str, temperature: str, intake: Intake, folder: Path) -> dict[str, float]:
    port = find_low_port()
    body = folder / "body"
    body.write_bytes(make_payload())
    settings = {
        "DD_API_KEY": "key",
        "DD_APM_DD_URL": intake.url,
        "DD_APM_RECEIVER_PORT": str(port),
        "DD_LOG_LEVEL": "error",
        "DD_USE_DOGSTATSD": "false",
        "MINI_AGENT_JOURNAL_DIR": str(folder / "journal"),
        "AWS_LAMBDA_INITIALIZATION_TYPE": "on-demand",
        "AWS_LAMBDA_FUNCTION_NAME": "fn",
        "DD_SERVERLESS_COMPAT_PATH": str(find_binary()),
    }
    launcher = OURS if program == "ours" else REFERENCE
    words = [PROGRAM.format(launcher=launcher), temperature, str(port), str(body)]
    with subprocess.Popen(
        [sys.executable, "-c", *words],
        env=make_environment(settings, folder),
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
    ) as child:
        accepted_s = first_accepted(port)
        said = child.communicate(timeout=RUN_S_MAX)[0]
    times: dict[str, float] = json.loads(next(line for line in said.splitlines() if line[0] == "{"))
    times["accepted"] = accepted_s - times.pop("started")
    return {name: 1000 * taken_s for name, taken_s in times.items()}


def first_accepted(port: int) -> float:
    """When, on the clock that all processes share, a connection was accepted first."""
    deadline_s = time.perf_counter() + RUN_S_MAX
    while time.perf_counter() < deadline_s:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return time.perf_counter()
    raise AssertionError(f"port {port} never accepted")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=RUNS)
    runs = parser.parse_args().runs
    print(
        f"median of {runs} runs in turn, ms; Python {platform.python_version()}, "
        f"{platform.system()} {platform.machine()}, {os.cpu_count()} processors"
    )
    for temperature in ("cold", "warm"):
        times: dict[str, list[dict[str, float]]] = {"ours": [], "reference": []}
        with Intake(keep_payloads=False) as intake:
            for _ in range(runs):
                for program, its_times in times.items():
                    with tempfile.TemporaryDirectory(prefix="mini-agent-bench-") as folder:
                        its_times.append(one_run(program, temperature, intake, Path(folder)))
        print(f"{temperature:<44} {'ours':>10} {'reference':>10}")
        for key, name in ROWS.items():
            ours, theirs = (median(run[key] for run in times[each]) for each in times)
            least = min(run[key] for run in times["ours"])
            print(f"{name:<44} {ours:>10.2f} {theirs:>10.2f}   (ours at best {least:.2f})")
        more = median(run["accepted"] - run["spawn"] for run in times["ours"])
        print(f"{'ours: accepted, beyond starting a process':<44} {more:>10.2f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
