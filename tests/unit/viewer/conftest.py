from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from kit import protos
from kit.clock import HandClock

from mini_agent.viewer.store import TraceStore

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path
    from typing import Any

START_NS = 1_790_000_000_000_000_000
LOW_ID = 0xF234567890ABCDEF
HIGH_TAG = {"_dd.p.tid": "6741a3f500000000"}


def make_span(span_id: int, parent_id: int = 0, **fields: Any) -> Any:
    """A span of 1 ms of the service "web", unless told otherwise."""
    given = {
        "service": "web",
        "name": "web.request",
        "resource": "GET /",
        "traceID": LOW_ID,
        "start": START_NS,
        "duration": 1_000_000,
        **fields,
    }
    return protos.load().Span(spanID=span_id, parentID=parent_id, **given)


def make_body(*chunks: Sequence[Any], env: str = "", priority: int = 1, origin: str = "") -> bytes:
    """An AgentPayload with one tracer's chunks, each a list of spans."""
    messages = protos.load()
    payload = messages.AgentPayload(targetTPS=60.0, errorTPS=60.0)
    tracer = payload.tracerPayloads.add(env=env, languageName="python")
    for spans in chunks:
        tracer.chunks.add(priority=priority, origin=origin, spans=spans)
    body: bytes = payload.SerializeToString()
    return body


@pytest.fixture
def span() -> Callable[..., Any]:
    return make_span


@pytest.fixture
def body() -> Callable[..., bytes]:
    return make_body


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "kept" / "traces.db")


@pytest.fixture
def store(path: str, clock: HandClock) -> TraceStore:
    return TraceStore(path, traces_max=1000, clock=clock)
