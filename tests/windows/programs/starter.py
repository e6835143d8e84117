"""An application that starts the agent and uses it at once: `starter.py`, on Windows.

Prints what became of a request made right after start(), of one by the pipe, and of the end.
"""

from __future__ import annotations

import os
import socket
from typing import Any

from kit.contracts import PipeClient, SocketClient
from kit.http_client import read_answer, request
from kit.payloads import encode, make_traces
from kit.waiting import until

import mini_agent


def ask(client: Any) -> int:
    client.send(request("POST", "/v0.4/traces", body=encode(make_traces(1, 2))))
    answer = read_answer(client.read)
    client.close()
    return 0 if answer is None else answer.status


mini_agent.start()
status = mini_agent.status()
print("by port", ask(SocketClient(socket.AF_INET, ("127.0.0.1", status.port))))
mini_agent.start()
assert mini_agent.status().pid == status.pid
# As a tracer that is made later in this process finds it.
pipe = f"\\\\.\\pipe\\{os.environ['DD_TRACE_PIPE_NAME']}"
until(lambda: os.path.exists(pipe))
print("by pipe", ask(PipeClient(pipe)))
print("stopped", mini_agent.stop(30))
