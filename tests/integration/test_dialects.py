"""Every dialect of the trace routes, over HTTP and from real tracers in their default settings."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from kit import spans, tracers
from kit.agent import AgentProcess
from kit.intake import Intake
from kit.payloads import encode, make_payload, make_traces, span_ids
from kit.tap import Tap

if TYPE_CHECKING:
    from pathlib import Path

StartAgent = Callable[..., AgentProcess]

RATES = b'{"rate_by_service":{"service:,env:":1}}'
MSGPACK = {"Content-Type": "application/msgpack"}

PROGRAMS = {
    "ddtrace": (tracers.run_flask_shop, {"DD_TRACE_API_VERSION": "v0.5"}),
    "dd-trace": (tracers.run_node_shop, {"DD_TRACE_AGENT_PROTOCOL_VERSION": "0.5"}),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", PROGRAMS)
def test_a_tracer_speaks_v05_and_every_span_arrives(
    name: str, agent: StartAgent, intake: Intake, tmp_path: Path
) -> None:
    run, environment = PROGRAMS[name]
    started = agent()
    with Tap(started.port) as tap:
        ran = run(tap.url, tmp_path / "program", environment)
        requests = tap.requests("/v0.5/traces")
        assert tap.requests("/v0.4/traces") == []
    sent = {
        span["span_id"]: span
        for request in requests
        for trace in unpack_v05(request.body)
        for span in trace
    }
    # dd-trace also traces what the program did not make itself.
    assert sent.keys() >= {int(made["span_id"]) for made in ran.made}, ran.output
    intake.wait_for_spans(len(sent))
    arrived = spans.by_id(intake.spans(), spans.from_proto)
    assert arrived.keys() == sent.keys()
    for span_id, span in sent.items():
        found = spans.differences(spans.from_wire(span), arrived[span_id])
        # Marked by us; everything else is as it was sent.
        assert found.keys() <= {"metrics._top_level"}


def unpack_v05(body: bytes) -> list[list[dict[str, Any]]]:
    """What a v0.5 body says, with the keys of v0.4; read by another decoder than ours."""
    texts, traces = msgspec.msgpack.decode(body)
    return [[read_slots(texts, span) for span in trace] for trace in traces]


def read_slots(texts: list[str], slots: list[Any]) -> dict[str, Any]:
    service, name, resource, *numbers, meta, metrics, type_ = slots
    keys = ("trace_id", "span_id", "parent_id", "start", "duration", "error")
    return {
        "service": texts[service],
        "name": texts[name],
        "resource": texts[resource],
        **dict(zip(keys, numbers, strict=True)),
        "meta": {texts[key]: texts[value] for key, value in meta.items()},
        "metrics": {texts[key]: value for key, value in metrics.items()},
        "type": texts[type_],
    }


@pytest.mark.parametrize("method", ["POST", "PUT"])
@pytest.mark.parametrize(
    ("path", "is_json", "answer"),
    [
        ("/v0.3/traces", False, b"OK\n"),
        ("/v0.3/traces", True, b"OK\n"),
        ("/v0.4/traces", False, RATES),
        ("/v0.4/traces", True, RATES),
    ],
)
def test_v03_and_v04_take_messagepack_and_json(
    agent: StartAgent, intake: Intake, method: str, path: str, is_json: bool, answer: bytes
) -> None:
    traces = make_traces(2, 3)
    body = json.dumps(traces).encode() if is_json else encode(traces)
    headers = {"Content-Type": "application/json"} if is_json else MSGPACK
    started = agent()
    assert started.exchange(method, path, body, headers)[::2] == (200, answer)
    intake.wait_for_spans(6)
    assert intake.ids == span_ids(traces)


def test_v07_says_what_holds_for_the_whole(agent: StartAgent, intake: Intake) -> None:
    traces = make_traces(2, 2)
    payload = {
        "env": "stage",
        "tags": {"a": "b"},
        "chunks": [
            {"priority": 2, "origin": "rum", "spans": traces[0], "dropped_trace": True},
            {"priority": -1, "spans": traces[1]},
        ],
    }
    assert agent().send(encode(payload), "/v0.7/traces") == (200, RATES)
    intake.wait_for_spans(4)
    [arrival] = [each for each in intake.arrivals if each.payload is not None]
    [read] = arrival.payload.tracerPayloads
    assert (read.env, dict(read.tags)) == ("stage", {"a": "b"})
    assert [(chunk.priority, chunk.origin, chunk.droppedTrace) for chunk in read.chunks] == [
        (2, "rum", True),
        (-1, "", False),
    ]


@pytest.mark.parametrize("path", ["/v0.3/traces", "/v0.4/traces", "/v0.5/traces", "/v0.7/traces"])
def test_a_body_of_another_dialect_is_refused_with_a_sentence(agent: StartAgent, path: str) -> None:
    status, answer = agent().send(encode("not a payload"), path)
    assert status == 400
    assert "expected" in json.loads(answer)["message"]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v0.4/traces", b"\x90"),
        ("/v0.4/traces", b"\x92\x90\x90"),
        ("/v0.5/traces", b"\x92\x90\x90"),
        ("/v0.7/traces", b"\x80"),
    ],
)
def test_probes_of_tracers_are_answered_with_the_rates(
    agent: StartAgent, path: str, body: bytes
) -> None:
    assert agent().send(body, path) == (200, RATES)


def test_a_tracer_that_knows_the_rates_gets_an_empty_answer(agent: StartAgent) -> None:
    started = agent()
    header = "datadog-rates-payload-version"
    status, headers, answer = started.exchange(
        "POST", "/v0.4/traces", make_payload(), {header: "0"}
    )
    assert (status, answer) == (200, RATES)
    known = {header: headers[header]}
    status, headers, answer = started.exchange("POST", "/v0.4/traces", make_payload(), known)
    assert (status, answer, headers[header]) == (200, b"{}", known[header])


def test_filters_are_settings_and_a_wrong_one_is_named(agent: StartAgent, intake: Intake) -> None:
    started = agent(
        {
            "DD_APM_IGNORE_RESOURCES": "(, GET /health",
            "DD_APM_FILTER_TAGS_REQUIRE": "env:prod",
            "DD_APM_FILTER_TAGS_REGEX_REJECT": '["debug:^(1|true)$"]',
        }
    )
    started.wait_line(lambda line: "'('" in line and "regular expression" in line)
    kept = make_traces(1, 1)
    debug = make_traces(1, 1)
    debug[0][0]["meta"]["debug"] = "true"
    for traces in (
        make_traces(1, 2, resource="GET /healthcheck"),
        make_traces(1, 1, meta={"env": "test"}),
        debug,
        kept,
    ):
        assert started.send(encode(traces))[0] == 200
    intake.wait_for_spans(1)
    assert intake.ids == span_ids(kept)
    spans_page = started.status()["ledger"]["spans"]
    assert spans_page["dropped"] == {"filtered_resource": 2, "filtered_tags": 2}
