"""An application's process with its tracers and its compatibility layer, as .NET has them.

    function_app.py NAME --tracers=new,old --compat=1.5.0

Things happen in the order of the real process: the tracers choose their transport, then the layer
starts the agent and is told the name that a tracer made, if one did. Printed are what the agent
says, and `agent PID`. Taken is one word per line from standard input:

    send     each tracer sends a trace; prints its account, a JSON list
    leave    closes the agent's control pipe, and prints `status N` when it has ended

The rules, by version of the layer (0.0.0 is a development build, none is no layer at all):

    tracer, old   always TCP
    tracer, new   on Windows a pipe, if the layer is 0.0.0 or at least 1.5.0; otherwise TCP
    layer         from 1.5.0 on, and in 0.0.0, it gives the agent the name of a pipe on Windows:
                  the tracer's, or else one of its own; before that it gives none

Source: transport-contract 1.2, 1.3 and 3.1. The environment comes from whoever starts this.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import subprocess
import sys
import threading
import uuid
from typing import Any

from kit.contracts import PipeClient, SocketClient
from kit.http_client import read_answer, request
from kit.payloads import encode, make_traces

# What the tracer waits for a pipe. Source: its DD_TRACE_PIPE_TIMEOUT_MS.
PIPE_WAIT_S = 0.5

HEADERS = (
    "Accept-Encoding: identity",
    "Content-Type: application/msgpack",
    "Datadog-Meta-Lang: .NET",
    "Datadog-Client-Computed-Top-Level: 1",
)


def knows_pipes(compat: str) -> bool:
    """Whether a layer of this version names pipes."""
    if sys.platform != "win32" or compat == "none":
        return False
    major, minor, _ = map(int, compat.split("."))
    return compat == "0.0.0" or (major, minor) >= (1, 5)


class Tracer:
    """One tracer; what it chose at its start it keeps."""

    def __init__(self, kind: str, app: str, compat: str) -> None:
        self.service = f"{app}-{kind}"
        chooses_pipe = kind == "new" and knows_pipes(compat)
        self.pipe_name = f"dd_trace_{uuid.uuid4().hex}" if chooses_pipe else None

    def send(self) -> dict[str, Any]:
        """Ask what the agent can, ask whether it is there, and send one trace."""
        traces = encode(make_traces(1, 1, service=self.service))
        told = (*HEADERS, "X-Datadog-Trace-Count: 1")
        exchange = self._over_tcp if self.pipe_name is None else self._over_pipe
        requests = [
            request("GET", "/info"),
            request("POST", "/v0.4/traces", *HEADERS, body=encode([])),
            request("POST", "/v0.4/traces", *told, body=traces),
        ]
        ends: list[object]
        try:
            ends = [*exchange(requests)]
        except OSError as error:
            # An application does not notice.
            ends = [str(error)]
        transport = "TCP" if self.pipe_name is None else "pipe"
        return {"service": self.service, "transport": transport, "ends": ends}

    def _over_tcp(self, requests: list[bytes]) -> list[int]:
        """One connection for all."""
        port = int(os.environ["DD_TRACE_AGENT_PORT"])
        client = SocketClient(socket.AF_INET, ("127.0.0.1", port))
        statuses = [ask(client, each) for each in requests]
        client.close()
        return statuses

    def _over_pipe(self, requests: list[bytes]) -> list[int]:
        """A connection for each, which this side closes."""
        statuses = []
        for each in requests:
            client = PipeClient(f"\\\\.\\pipe\\{self.pipe_name}", PIPE_WAIT_S)
            statuses.append(ask(client, each))
            client.close()
        return statuses


def ask(client: Any, sent: bytes) -> int:
    client.send(sent)
    answer = read_answer(client.read)
    return 0 if answer is None else answer.status


def start_agent(compat: str, tracers: list[Tracer]) -> subprocess.Popen[bytes] | None:
    """What the layer does."""
    if compat == "none":
        return None
    told = {**os.environ, "DD_SERVERLESS_COMPAT_VERSION": compat}
    if knows_pipes(compat):
        own = f"dd_trace_{uuid.uuid4().hex}"
        told["DD_APM_WINDOWS_PIPE_NAME"] = next(
            (tracer.pipe_name for tracer in tracers if tracer.pipe_name), own
        )
    return subprocess.Popen(
        [sys.executable, "-m", "mini_agent", "run"],
        env=told,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


def pass_on(agent: subprocess.Popen[bytes]) -> None:
    assert agent.stdout is not None
    for line in agent.stdout:
        say(line.decode("utf-8", "replace").rstrip())


def say(line: str) -> None:
    sys.stdout.buffer.write(line.encode() + b"\n")
    sys.stdout.buffer.flush()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("name")
    parser.add_argument("--tracers", default="")
    parser.add_argument("--compat", default="none")
    options = parser.parse_args()

    kinds = options.tracers.split(",") if options.tracers else []
    tracers = [Tracer(kind, options.name, options.compat) for kind in kinds]
    agent = start_agent(options.compat, tracers)
    if agent is not None:
        say(f"agent {agent.pid}")
        listening = threading.Thread(target=pass_on, args=(agent,), daemon=True)
        listening.start()
    for line in sys.stdin:
        if line.strip() == "send":
            say(json.dumps([tracer.send() for tracer in tracers]))
        elif line.strip() == "leave":
            break
    if agent is not None:
        assert agent.stdin is not None
        agent.stdin.close()
        status = agent.wait()
        listening.join()
        say(f"status {status}")


main()
