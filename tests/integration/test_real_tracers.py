"""What real tracers send arrives at the intake, span for span and field for field.

Small programs run under ddtrace and dd-trace and talk to a running agent over TCP. Each says
what it traced; a tap between tracer and agent writes down what the tracer sent. Both are held
against what the intake decodes with the official protobuf runtime. The same programs also run
against the reference agent, so that it is known where the two differ.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from kit import spans, tracers
from kit.agent import AgentProcess
from kit.intake import Intake
from kit.reference import ReferenceProcess
from kit.tap import Tap

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from kit.tap import TappedRequest

pytestmark = pytest.mark.slow

TRACES = "/v0.4/traces"

# What the agent knows about its host, here a Lambda function, stands on every root span.
LAMBDA = {"AWS_LAMBDA_INITIALIZATION_TYPE": "on-demand", "AWS_LAMBDA_FUNCTION_NAME": "fn"}
ROOT_TAGS = {"_dd.origin": "lambda", "origin": "lambda", "functionname": "fn"}

# Span links travel with flags whose highest bit says that there are flags.
FLAGS_SET = 1 << 31


@dataclass(frozen=True)
class Scenario:
    """A program under a tracer, and how the tracer is told to send span events."""

    run: Callable[..., tracers.ProgramRun]
    native_events: bool

    @property
    def environment(self) -> dict[str, str]:
        return {"DD_TRACE_NATIVE_SPAN_EVENTS": "true" if self.native_events else "false"}


SCENARIOS = {
    "ddtrace": Scenario(tracers.run_flask_shop, native_events=True),
    "dd-trace": Scenario(tracers.run_node_shop, native_events=False),
    "dd-trace-events": Scenario(tracers.run_node_shop, native_events=True),
}


@dataclass(frozen=True)
class Traffic:
    """One program's run, seen from every side; spans by id, in the form of `kit.spans`."""

    made: list[dict[str, Any]]
    requests: list[TappedRequest]
    sent: dict[int, dict[str, Any]]
    payloads: list[Any]
    arrived: dict[int, dict[str, Any]]


@dataclass(frozen=True)
class AgentTraffic(Traffic):
    exit_status: int
    final_report: str


def watch(
    scenario: Scenario, port: int, intake: Intake, folder: Path, *, is_refused: bool = False
) -> Traffic:
    """Run the program against the agent at that port until its spans are at the intake."""
    with Tap(port) as tap:
        ran = scenario.run(tap.url, folder, scenario.environment)
    requests = tap.requests(TRACES)
    sent = spans.by_id(
        (span for request in requests for trace in decode(request) for span in trace),
        spans.from_wire,
    )
    assert sent, f"the program sent nothing; it said:\n{ran.output}"
    if not is_refused:
        intake.wait_for_spans(len(sent))
    return Traffic(
        made=ran.made,
        requests=requests,
        sent=sent,
        payloads=[
            payload
            for arrival in intake.arrivals
            if arrival.payload is not None
            for payload in arrival.payload.tracerPayloads
        ],
        arrived=spans.by_id(intake.spans(), spans.from_proto),
    )


def decode(request: TappedRequest) -> list[list[dict[str, Any]]]:
    decoded: list[list[dict[str, Any]]] = msgspec.msgpack.decode(request.body)
    return decoded


@pytest.fixture(scope="module", params=SCENARIOS)
def traffic(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> AgentTraffic:
    """A scenario's run against our agent, which has been stopped since."""
    folder = tmp_path_factory.mktemp("traffic")
    with Intake() as intake:
        settings = {"DD_APM_DD_URL": intake.url, **LAMBDA}
        with AgentProcess(settings, folder / "agent") as agent:
            agent.wait_ready()
            seen = watch(SCENARIOS[request.param], agent.port, intake, folder / "program")
            agent.terminate()
            exit_status = agent.wait()
            return AgentTraffic(
                **vars(seen), exit_status=exit_status, final_report=agent.final_report()
            )


def test_every_span_the_program_made_arrives_with_every_field(traffic):
    for made in traffic.made:
        arrived = traffic.arrived[int(made["span_id"])]
        assert arrived["trace_id"] == int(made["trace_id"])
        assert arrived["parent_id"] == int(made["parent_id"])
        for key in {
            "name",
            "service",
            "resource",
            "type",
            "error",
            "start",
            "duration",
        } & made.keys():
            assert arrived[key] == made[key], key
        assert arrived["meta"].items() >= made["meta"].items()
        assert arrived["metrics"].items() >= made["metrics"].items()
        structs = {
            key: msgspec.msgpack.decode(value) for key, value in arrived["meta_struct"].items()
        }
        assert structs == made["meta_struct"]
        assert links_of(arrived) == [link_made(link) for link in made["span_links"]]
        assert events_of(arrived) == [event_made(event) for event in made["span_events"]]


def test_the_programs_reach_every_kind_of_field(traffic):
    made = traffic.made
    assert any(span["error"] and span["meta"].get("error.stack") for span in made)
    for key in ("meta_struct", "span_links", "span_events", "metrics"):
        assert any(span[key] for span in made), key
    ids = {int(span[key]) for span in made for key in ("trace_id", "span_id", "parent_id")}
    assert any(number >= 1 << 63 for number in ids)


def test_nothing_that_was_sent_changes_but_by_rule(traffic):
    assert traffic.arrived.keys() == traffic.sent.keys()
    found = {
        span_id: spans.differences(sent, traffic.arrived[span_id])
        for span_id, sent in traffic.sent.items()
    }
    assert found == changes_by_rule(traffic)


def test_traces_stay_together_with_their_priority(traffic):
    sent = [
        ([span["span_id"] for span in trace], root_of(trace)["metrics"]["_sampling_priority_v1"])
        for request in traffic.requests
        for trace in decode(request)
    ]
    arrived = [
        ([span.spanID for span in chunk.spans], chunk.priority)
        for payload in traffic.payloads
        for chunk in payload.chunks
    ]
    assert arrived == sent


def test_payloads_say_which_tracer_and_service_they_come_from(traffic):
    for payload, request in zip(traffic.payloads, traffic.requests, strict=True):
        assert payload.languageName == request.headers["datadog-meta-lang"]
        assert payload.languageVersion == request.headers["datadog-meta-lang-version"]
        assert payload.tracerVersion == request.headers["datadog-meta-tracer-version"]
        assert (payload.env, payload.appVersion) == ("kit", "1.2.3")
        assert payload.runtimeID == root_of(decode(request)[0])["meta"]["runtime-id"]


def test_the_books_balance_after_the_run(traffic):
    count = len(traffic.sent)
    assert traffic.exit_status == 0
    assert f"accepted={count} delivered={count} waiting=0" in traffic.final_report
    assert traffic.final_report.endswith("balanced")


@pytest.mark.parametrize("name", ["ddtrace", "dd-trace"])
def test_the_reference_forwards_the_same(name, intake, tmp_path):
    with ReferenceProcess({"DD_APM_DD_URL": intake.url}, tmp_path / "reference") as reference:
        reference.wait_ready()
        seen = watch(SCENARIOS[name], reference.port, intake, tmp_path / "program")
    found = {
        span_id: spans.differences(sent, seen.arrived[span_id])
        for span_id, sent in seen.sent.items()
    }
    assert found == changes_by_rule(seen)


def test_the_reference_refuses_a_request_for_the_time_of_an_event(intake, tmp_path):
    # dd-trace sends times of events as doubles. One of them costs the reference the request.
    with ReferenceProcess({"DD_APM_DD_URL": intake.url}, tmp_path / "reference") as reference:
        reference.wait_ready()
        seen = watch(
            SCENARIOS["dd-trace-events"],
            reference.port,
            intake,
            tmp_path / "program",
            is_refused=True,
        )
        reference.wait_line(lambda line: "invalid type: floating point" in line)
    assert seen.sent
    assert not seen.arrived


def changes_by_rule(seen: Traffic) -> dict[int, dict[str, tuple[Any, Any]]]:
    """What an agent in a Lambda function does to spans: root tags and top-level marks."""
    changes: dict[int, dict[str, tuple[Any, Any]]] = {}
    for request in seen.requests:
        # ddtrace marks top-level spans itself and says so; dd-trace leaves it to the agent.
        marked = "datadog-client-computed-top-level" in request.headers
        for trace in decode(request):
            root = root_of(trace)
            services = {span["span_id"]: span["service"] for span in trace}
            for span in trace:
                change: dict[str, tuple[Any, Any]] = {}
                if span is root:
                    change |= {f"meta.{key}": (None, value) for key, value in ROOT_TAGS.items()}
                if (
                    "_dd.top_level" in span.get("metrics", {})
                    if marked
                    else services.get(span.get("parent_id", 0)) != span["service"]
                ):
                    change["metrics._top_level"] = (None, 1.0)
                changes[span["span_id"]] = change
    return changes


def root_of(trace: list[dict[str, Any]]) -> dict[str, Any]:
    """The last span without a parent, else the last whose parent is elsewhere."""
    ids = {span["span_id"] for span in trace}
    without = [span for span in trace if not span.get("parent_id")]
    elsewhere = [span for span in trace if span.get("parent_id") not in ids]
    return (without or elsewhere)[-1]


def links_of(arrived: dict[str, Any]) -> list[dict[str, Any]]:
    """Links as (trace id of 128 bits, span id, attributes, ...), wherever the tracer put them."""
    if "_dd.span_links" in arrived["meta"]:
        return [link_made(link) for link in json.loads(arrived["meta"]["_dd.span_links"])]
    return [
        {
            "trace_id": (link["trace_id_high"] << 64) + link["trace_id"],
            "span_id": link["span_id"],
            "attributes": link["attributes"],
            "tracestate": link["tracestate"],
            "flags": link["flags"] & ~FLAGS_SET,
        }
        for link in arrived["span_links"]
    ]


def link_made(link: dict[str, Any]) -> dict[str, Any]:
    return {
        "trace_id": int(link["trace_id"], 16),
        "span_id": int(link["span_id"], 16),
        "attributes": link["attributes"],
        "tracestate": link.get("tracestate", ""),
        "flags": link.get("flags", 0),
    }


def events_of(arrived: dict[str, Any]) -> list[dict[str, Any]]:
    """Events with plain attributes, wherever the tracer put them."""
    if "events" in arrived["meta"]:
        return [event_made(event) for event in json.loads(arrived["meta"]["events"])]
    return [
        {
            "name": event["name"],
            "time_unix_nano": event["time_unix_nano"],
            "attributes": {key: plain_value(value) for key, value in event["attributes"].items()},
        }
        for event in arrived["span_events"]
    ]


def event_made(event: dict[str, Any]) -> dict[str, Any]:
    return {
        "name": event["name"],
        "time_unix_nano": int(event["time_unix_nano"]),
        "attributes": event.get("attributes", {}),
    }


def plain_value(attribute: dict[str, Any]) -> Any:
    if "array_value" in attribute:
        return [plain_value(item) for item in attribute["array_value"]["values"]]
    (value,) = (value for key, value in attribute.items() if key != "type")
    return value
