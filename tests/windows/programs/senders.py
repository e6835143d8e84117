"""Sends trace payloads to an agent and says how each went: `senders.py ADDRESS ...`, on Windows.

ADDRESS is the path of a pipe or a TCP port on 127.0.0.1. Prints one JSON object: what happened
how often, the ids of the spans that were acknowledged, and times. Patience with a busy pipe is
given in seconds; with 0, finding it busy is what happened.

    fresh    a connection for each request, every answer read as strictly as .NET does
    kept     one connection for each client
    touch    open and close at once
"""

from __future__ import annotations

import _winapi
import argparse
import collections
import contextlib
import json
import socket
import sys
import threading
import time
from typing import Any

from kit.contracts import PIPE_BUSY, PipeClient, SocketClient
from kit.http_client import read_answer, request
from kit.payloads import encode, make_traces, span_ids

PATH = "/v0.4/traces"


class Sender:
    """One client of several that begin together."""

    def __init__(self, options: argparse.Namespace, gate: threading.Barrier) -> None:
        self.ends: collections.Counter[str] = collections.Counter()
        self.ids: set[int] = set()
        self.times_s: list[float] = []
        self.retries = 0
        self._options = options
        self._gate = gate
        self._client: Any = None
        self._stage = ""
        # Made before the gate, so that it is the agent that is measured.
        made = (make_traces(1, 1, service=options.service) for _ in range(options.requests))
        self._made = list(made)

    def run(self) -> None:
        self._gate.wait()
        for made in self._made:
            began_s = time.perf_counter()
            try:
                end = self._exchange(encode(made))
            except OSError as error:
                end = f"{self._stage}: {getattr(error, 'winerror', None) or error}"
                self._leave()
            if end == "200":
                self.ids |= span_ids([*made])
            self.ends[end] += 1
            self.times_s.append(time.perf_counter() - began_s)
        self._leave()

    def _exchange(self, body: bytes) -> str:
        self._stage = "open"
        if self._client is None:
            self._client = self._connect()
        if self._options.mode == "touch":
            self._leave()
            return "touched"
        self._stage = "write"
        self._client.send(request("POST", PATH, "X-Datadog-Trace-Count: 1", body=body))
        self._stage = "read"
        answer = read_answer(self._client.read)
        if answer is None:
            self._leave()
            return "read: closed without an answer"
        if self._options.mode == "fresh":
            self._leave()
        return str(answer.status)

    def _connect(self) -> Any:
        address = self._options.address
        if address.isdigit():
            return SocketClient(socket.AF_INET, ("127.0.0.1", int(address)))
        until_s = time.monotonic() + self._options.patience
        while True:
            try:
                return PipeClient(address, wait_s=0)
            except OSError as error:
                if getattr(error, "winerror", 0) != PIPE_BUSY or time.monotonic() >= until_s:
                    raise
            self.retries += 1
            # No longer there, or still busy: the next try will tell.
            with contextlib.suppress(OSError):
                _winapi.WaitNamedPipe(address, 100)

    def _leave(self) -> None:
        if self._client is not None:
            self._client.close()
            self._client = None


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("address")
    parser.add_argument("--mode", choices=["fresh", "kept", "touch"], default="fresh")
    parser.add_argument("--clients", type=int, default=1)
    parser.add_argument("--requests", type=int, default=1)
    parser.add_argument("--service", default="shop")
    parser.add_argument("--patience", type=float, default=0.0)
    options = parser.parse_args()

    gate = threading.Barrier(options.clients + 1)
    senders = [Sender(options, gate) for _ in range(options.clients)]
    threads = [threading.Thread(target=sender.run) for sender in senders]
    for thread in threads:
        thread.start()
    gate.wait()
    began_s = time.perf_counter()
    for thread in threads:
        thread.join()
    took_s = time.perf_counter() - began_s
    times_s = sorted(each for sender in senders for each in sender.times_s)
    ends = sum((sender.ends for sender in senders), collections.Counter())
    json.dump(
        {
            "ends": ends,
            "ids": sorted(each for sender in senders for each in sender.ids),
            "busy_retries": sum(sender.retries for sender in senders),
            "served_per_s": round(ends["200"] / took_s),
            "p50_ms": round(times_s[len(times_s) // 2] * 1e3, 2),
            "p99_ms": round(times_s[int(len(times_s) * 0.99)] * 1e3, 2),
        },
        sys.stdout,
    )


main()
