"""The reference and our agent side by side: the same bodies in, what comes out held together.

Each runs as a child process with an intake of its own. Every body is sent to both under a
tracer version of its own, which both pass on with the payload: so what arrives is known by the
body it came from, however either agent batches it.

What arrives is taken apart into facts: for each span its fields, its tags, and what its chunk
and its payload say. A difference is one fact that the two do not have in common.
"""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from kit import spans
from kit.agent import AgentProcess
from kit.intake import TRACES, Intake
from kit.payloads import make_payload
from kit.reference import ReferenceProcess

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from kit.agent import ChildProcess

# Twice the reference's flush interval, and time for two busy processors.
ARRIVAL_S_MAX = 30.0

# Spans that say they began before 2000 get the time they were received at, by each of its own.
_NOW_NS = 120 * 10**9

ABSENT = "absent"

V04 = "/v0.4/traces"

_SENTINEL = "sentinel"
_VERSION = "datadog-meta-tracer-version"

# What a request says of the agent itself.
_REQUEST = (*("hostName", "env", "agentVersion", "targetTPS", "errorTPS", "rareSamplerEnabled"),)

# Of a payload's fields, those that `kit.spans` knows nothing about.
_PAYLOAD = ("containerID", "languageName", "languageVersion", "runtimeID", "env", "hostname")


@dataclass(frozen=True)
class Case:
    """One request.

    Attributes:
        name: Unique, of characters that a header may have.
        headers: Besides the tracer's version, which is the name.
        path: Where ours gets it.
        as_v04: What the reference gets on v0.4 instead, which knows nothing else.
    """

    name: str
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)
    path: str = V04
    as_v04: bytes | None = None


@dataclass(frozen=True)
class Found:
    """One fact that differs.

    Attributes:
        span: Trace id and span id, or empty for a fact about the answer.
        fact: `arrived`, `status`, a field of the span, `meta.env`, `chunk.origin`, ...
        ours, reference: ABSENT where there is none.
    """

    case: str
    span: str
    fact: str
    ours: Any
    reference: Any


def compare(
    cases: Iterable[Case],
    environment: Mapping[str, str],
    folder: Path,
    within: Sequence[str] = (),
) -> dict[str, list[Found]]:
    """What differs, case by case; every case is there.

    Args:
        environment: The variables of the host, and settings for both.
        within: What the reference is run by; see ReferenceProcess.
    """
    cases = list(cases)
    assert len({case.name for case in cases}) == len(cases), "two cases with one name"
    with contextlib.ExitStack() as running:
        intakes = [running.enter_context(Intake()) for _ in range(2)]
        urls = [{"DD_APM_DD_URL": intake.url} for intake in intakes]
        ours = running.enter_context(AgentProcess({**urls[0], **environment}, folder / "ours"))
        reference = running.enter_context(
            ReferenceProcess(urls[1], folder / "reference", environment, within)
        )
        facts = [
            _facts(agent, intake, sent)
            for agent, intake, sent in (
                (ours, intakes[0], cases),
                (reference, intakes[1], [_for_reference(case) for case in cases]),
            )
        ]
        # Ours must send nothing that the official runtime cannot read.
        assert intakes[0].complaints == []
    return {case.name: list(_differences(case.name, *facts)) for case in cases}


def _for_reference(case: Case) -> Case:
    return case if case.as_v04 is None else replace(case, body=case.as_v04, path=V04)


Facts = dict[str, dict[str, dict[str, Any]]]


def _facts(agent: ChildProcess, intake: Intake, cases: list[Case]) -> Facts:
    """Case -> span, or empty for the answer -> fact -> value."""
    agent.wait_ready()
    facts: Facts = {}
    for case in cases:
        status, _ = agent.send(case.body, case.path, {**case.headers, _VERSION: case.name})
        facts[case.name] = {"": {"status": status}}
    agent.send(make_payload(), headers={_VERSION: _SENTINEL})
    # Both keep the order in which they were sent to.
    intake.wait_for(
        lambda: any(payload.tracerVersion == _SENTINEL for payload in _payloads(intake)),
        ARRIVAL_S_MAX,
    )
    for arrival in intake.arrivals_at(TRACES):
        request = arrival.payload
        for payload in () if request is None else request.tracerPayloads:
            if payload.tracerVersion != _SENTINEL:
                _add_payload(facts[payload.tracerVersion], payload, request)
    return facts


def _payloads(intake: Intake) -> Iterator[Any]:
    for arrival in intake.arrivals_at(TRACES):
        if arrival.payload is not None:
            yield from arrival.payload.tracerPayloads


def _add_payload(facts: dict[str, dict[str, Any]], payload: Any, request: Any) -> None:
    of_payload = {f"payload.{name}": getattr(payload, name) for name in _PAYLOAD}
    of_payload |= {f"request.{name}": getattr(request, name) for name in _REQUEST}
    of_payload |= {f"request.tags.{key}": value for key, value in request.tags.items()}
    of_payload["payload.version"] = payload.appVersion
    of_payload |= {f"payload.tags.{key}": value for key, value in payload.tags.items()}
    # Spans with the same ids are told apart by their order.
    seen: Counter[str] = Counter(span.rpartition("#")[0] for span in facts if span)
    for chunk in payload.chunks:
        of_chunk = {
            "chunk.priority": chunk.priority,
            "chunk.origin": chunk.origin,
            "chunk.is_dropped": chunk.droppedTrace,
            **{f"chunk.tags.{key}": value for key, value in chunk.tags.items()},
        }
        for span in chunk.spans:
            ids = f"{span.traceID:x}:{span.spanID:x}"
            seen[ids] += 1
            facts[f"{ids}#{seen[ids]}"] = {
                "arrived": True,
                **of_payload,
                **of_chunk,
                **_span_facts(span),
            }


def _span_facts(span: Any) -> dict[str, Any]:
    facts = spans.from_proto(span)
    for name in ("meta", "metrics", "meta_struct"):
        facts |= {f"{name}.{key}": value for key, value in facts.pop(name).items()}
    # NaN is not itself; its bits are.
    return {name: repr(value) if value != value else value for name, value in facts.items()}


def _differences(case: str, ours: Facts, reference: Facts) -> Iterator[Found]:
    for span in {**ours[case], **reference[case]}:
        pair = ours[case].get(span), reference[case].get(span)
        if None in pair:
            yield Found(case, span, "arrived", *(each is not None for each in pair))
            continue
        mine, its = pair
        assert mine is not None
        assert its is not None
        for fact in {**mine, **its}:
            values = mine.get(fact, ABSENT), its.get(fact, ABSENT)
            if values[0] != values[1] and not _are_now(*values):
                yield Found(case, span, fact, *values)


def _are_now(*values: Any) -> bool:
    now_ns = time.time_ns()
    return all(isinstance(each, int) and abs(now_ns - each) < _NOW_NS for each in values)
