"""Senders that never pause, and the account of what they were told.

A span is *acknowledged* when its request was answered with 200; nothing else counts, not even a
request that was sent whole and whose answer was lost.
"""

from __future__ import annotations

import http.client
import os
import threading
from typing import TYPE_CHECKING

from kit import protos
from kit.loopback import WAIT_S_MAX
from kit.payloads import encode, make_traces, span_ids

from mini_agent.forward.batch import read_folder

if TYPE_CHECKING:
    from types import TracebackType

    from kit.agent import AgentProcess

SENDERS = 4
TRACES_EACH = 10
SPANS_EACH = 10


class Load:
    """Several senders on kept connections, until stopped or until the agent is gone.

    Args:
        noise_bytes: Of each span, as a tag of twice the size that compresses to no less.
    """

    def __init__(self, agent: AgentProcess, noise_bytes: int = 0) -> None:
        self._agent = agent
        self._noise_bytes = noise_bytes
        self._stop = threading.Event()
        self._grown = threading.Condition()
        self.acknowledged: set[int] = set()
        self.refused_requests = 0
        self._threads = [
            threading.Thread(target=self._send, name=f"sender-{n}") for n in range(SENDERS)
        ]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """Send nothing more; what was sent is answered first. May be repeated."""
        self._stop.set()
        for thread in self._threads:
            thread.join(WAIT_S_MAX)

    def wait_for_more(self, spans: int) -> None:
        """Wait until so many more spans are acknowledged."""
        with self._grown:
            target = len(self.acknowledged) + spans
            done = self._grown.wait_for(lambda: len(self.acknowledged) >= target, WAIT_S_MAX)
        assert done, f"only {len(self.acknowledged)} of {target}; {self._agent.tail()}"

    def wait_for_refusals(self, requests: int) -> None:
        """Wait until so many requests have been refused in all."""
        with self._grown:
            done = self._grown.wait_for(lambda: self.refused_requests >= requests, WAIT_S_MAX)
        assert done, f"only {self.refused_requests} of {requests} refusals"

    def _send(self) -> None:
        while not self._stop.is_set():
            traces = make_traces(TRACES_EACH, SPANS_EACH)
            if self._noise_bytes:
                for span in (span for trace in traces for span in trace):
                    span["meta"]["noise"] = os.urandom(self._noise_bytes).hex()
            try:
                status, _ = self._agent.send(encode(traces))
            except (OSError, http.client.HTTPException):
                return  # The agent is gone, or going.
            with self._grown:
                if status == 200:
                    self.acknowledged |= span_ids(traces)
                else:
                    assert status == 429, status
                    self.refused_requests += 1
                self._grown.notify_all()


def journal_ids(path: str) -> set[int]:
    """The ids of all spans that a journal folder holds."""
    agent_payload = protos.load().AgentPayload
    return {
        span.spanID
        for _, records in read_folder(path)
        for record in records
        for tracer_payload in agent_payload.FromString(record.body).tracerPayloads
        for chunk in tracer_payload.chunks
        for span in chunk.spans
    }
