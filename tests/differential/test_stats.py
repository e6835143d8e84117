"""The same spans to the reference and to us: every count, every key and every sketch alike."""

from __future__ import annotations

import random
import time
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
from kit import payloads, stats
from kit.clock import HandClock
from kit.intake import STATS, Intake
from kit.reference import ReferenceProcess

from mini_agent.forward.payload import Kind
from mini_agent.ledger import Ledger
from mini_agent.traces import stats_payload
from mini_agent.traces.enrich import Enrichment
from mini_agent.traces.receiver import TraceReceiver
from mini_agent.traces.stats import Stats
from mini_agent.traces.stats_receiver import StatsReceiver
from mini_agent.wire.http import Request

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from mini_agent.forward.payload import Record

BUCKET_NS = 10_000_000_000
# The last bucket begins within 20 s, and is sent within 23 s of that; a busy machine is later.
SENT_S_MAX = 90
HEADERS = {
    "datadog-meta-lang": "python",
    "datadog-meta-tracer-version": "4.16.0",
    "datadog-container-id": "c" * 64,
}
KIND = Kind(
    "stats",
    "stats",
    stats_payload.PATH,
    stats_payload.CONTENT_TYPE,
    stats_payload.PREFIX,
    stats_payload.BODY_BYTES_MAX,
    suffix=stats_payload.suffix(client_computed=False),
    counted=True,
)

# Spread over everything a key is made of. Values that other rules would change stay out: those
# rules have tests of their own.
META: dict[str, list[str]] = {
    "span.kind": ["server", "client", "Producer", "CONSUMER", "internal", ""],
    "http.method": ["GET", "POST", ""],
    "http.endpoint": ["/a/{id}", "/b", ""],
    "http.route": ["/routed", "/c"],
    "http.status_code": ["200", "404", "500"],
    "_dd.svc_src": ["m", "opt.x"],
    "rpc.grpc.status_code": ["0", "13", "NOT_FOUND", "StatusCode.Unavailable", "what"],
    "grpc.code": ["7", "deadlineexceeded"],
    "_dd.base_service": ["base", ""],
    "peer.service": ["orders", "10.0.0.1", "10.0.0.1,10.0.0.2,db", ""],
    "db.name": ["shop", "audit"],
    "out.host": ["ip-10-1-2-3.internal", "fe80::1", "host-a"],
}
METRICS: dict[str, list[float]] = {
    "_dd.measured": [1, 0],
    "_dd.top_level": [1, 0],
    "_dd.partial_version": [-1.0, 0.0, 3.0],
    "http.status_code": [201.0, 502.0],
    "grpc.status.code": [4.0, 2.5, 16.0],
}


# Another tracer, for the spans that go beyond the limits.
OTHER_HEADERS = {**HEADERS, "datadog-container-id": "d" * 64}

# When ours takes it, in nanoseconds; its headers; its body.
Sent = tuple[int, dict[str, str], bytes]


def make_body(random_: random.Random, traces: int, bucket_ns: int) -> Sent:
    spans = [
        [make_span(random_, bucket_ns, parent, trace) for parent in (0, 1, 1, 2, 3)]
        for trace in range(1, traces + 1)
    ]
    return bucket_ns, HEADERS, payloads.encode(spans)


def make_many_groups(bucket_ns: int) -> Sent:
    """More values of each limited field than are taken, and more groups."""
    spans = [
        payloads.make_span(
            start=bucket_ns,
            duration=number,
            name=f"operation_{number // 2}",
            resource=f"resource {number}" if number < 2000 else "one for all",
            meta={
                "env": "prod",
                "span.kind": "client",
                "http.endpoint": f"/endpoint/{number % 1500}",
                "peer.service": f"service-{number % 900}",
            },
            metrics={"_dd.measured": 1},
        )
        for number in range(9000)
    ]
    return bucket_ns, OTHER_HEADERS, payloads.encode([[span] for span in spans])


def make_span(random_: random.Random, bucket_ns: int, parent: int, trace: int) -> dict[str, Any]:
    duration = int(10 ** random_.uniform(-0.5, 10.0)) if random_.random() < 0.98 else 0
    end = bucket_ns + random_.choice((0, 1)) * BUCKET_NS + random_.randrange(BUCKET_NS)
    metrics = {
        key: random_.choice(values) for key, values in METRICS.items() if random_.random() < 0.05
    }
    meta = {key: random_.choice(values) for key, values in META.items() if random_.random() < 0.03}
    if parent and random_.random() < 0.1:
        # The reference overwrites this on roots, where ours keeps it: docs/differences.md.
        meta["_dd.origin"] = "synthetics-browser"
    return {
        "service": random_.choice(["checkout", "billing"]),
        "name": random_.choice(["web.request", "db.query"]),
        "resource": random_.choice(["GET /a", "näme"]),
        "type": random_.choice(["web", "custom", ""]),
        "trace_id": trace,
        "span_id": random_.randrange(1, 1 << 62),
        "parent_id": parent,
        "start": end - duration,
        "duration": duration,
        "error": random_.choice([0, 0, 0, 1]),
        "meta": {**meta, "env": random_.choice(["prod"]), "version": "1"},
        "metrics": metrics,
    }


def ask_reference(
    makers: list[Callable[[int], Sent]], folder: Path
) -> tuple[list[Sent], list[stats.Json]]:
    """What it was sent, and the groups it makes of that.

    The reference has a concentrator for each tracer. It begins with the tracer's first request,
    and what ended in an earlier bucket is moved to that of its beginning. Ours has one for all,
    and moves nothing here (docs/differences.md): if the time of a bucket were over before the
    second tracer is heard of, that tracer's groups would all differ, by their bucket alone. So
    each body is made when it is sent, of spans that end in the next bucket and the one after it.
    The machine has ten seconds or more for each, and takes a third of one when it is idle.

    Args:
        makers: Each makes a body, given the start of a bucket; the last one's spans end in that
            bucket and in the one after it.
    """
    settings = {"DD_AGENT_STATS_COMPUTATION_ENABLED": "true"}
    sent: list[Sent] = []
    with (
        Intake() as intake,
        ReferenceProcess({"DD_APM_DD_URL": intake.url, **settings}, folder) as reference,
    ):
        reference.wait_ready()
        for make in makers:
            now_ns = time.time_ns()
            bucket_ns = now_ns - now_ns % BUCKET_NS + BUCKET_NS
            sent.append(make(bucket_ns))
            _, headers, body = sent[-1]
            status, answer = reference.send(body, headers=headers)
            assert status == 200, answer
            assert time.time_ns() < bucket_ns + BUCKET_NS, "too late to be compared"
        # It sends a bucket some twenty seconds after its beginning, and none before an earlier one.
        last_ns = sent[-1][0] + BUCKET_NS
        intake.wait_for(
            lambda: any(entry["bucket.Start"] >= last_ns for entry in intake.stats_entries()),
            SENT_S_MAX,
        )
        assert intake.arrivals_at(STATS)[0].headers["content-encoding"] == "gzip"
        return sent, intake.stats_entries()


def ask_ours(sent: list[Sent]) -> list[stats.Json]:
    clock = HandClock(sent[0][0])
    ledger = Ledger()
    records: list[Record] = []
    counted = Stats("none", records.extend, ledger, clock)
    receiver = TraceReceiver(
        keep=lambda _: None,
        enrichment=Enrichment("lambda", {}, {}, {}, ""),
        ledger=ledger,
        body_bytes_max=3_200_000,
        clock=clock,
        stats=counted,
    )
    for at_ns, headers, body in sent:
        clock.move((at_ns - clock.wall_ns()) / 1e9)
        assert receiver.take_v04(Request("POST", "/v0.4/traces", "", headers, body)).status == 200
    for _ in counted.flush(everything=True):
        pass
    return stats.entries(KIND.join(records))


@pytest.mark.slow
def test_stats_of_many_spans_agree_with_the_reference(tmp_path: Path) -> None:
    make_next = partial(make_body, random.Random(16), 2200)
    sent, found = ask_reference([make_many_groups, *[make_next] * 10], tmp_path)
    theirs = stats.by_key(found)
    ours = stats.by_key(ask_ours(sent))
    assert sum(entry["Hits"] for entry in theirs.values()) >= 100_000
    blocked = [key for key in theirs if ("Service", "tracer_blocked_value") in key]
    assert len(blocked) == 1, "the limits are reached, and by the other tracer alone"
    assert ours.keys() == theirs.keys()
    assert {key: (ours[key], theirs[key]) for key in theirs if ours[key] != theirs[key]} == {}


# What a tracer counted: the resource it sent, and what is left of it here; the reference hides
# nothing of it.
COUNTED = [
    ("web", "GET /a/1", "GET /a/1"),
    ("sql", "SELECT a FROM b WHERE c = 'secret'", "SELECT a FROM b WHERE c = ?"),
    ("cassandra", "SELECT a FROM b WHERE c = 5", "SELECT a FROM b WHERE c = ?"),
    ("redis", "SET key secret\nGET key", "SET GET"),
    ("valkey", "SET key secret", "SET"),
    ("custom", "SELECT 'as it is'", "SELECT 'as it is'"),
]


# While it counts itself, the reference drops what tracers counted, and says 202.
PASSED_ON = {"DD_AGENT_STATS_COMPUTATION_ENABLED": "false"}


@pytest.mark.slow
def test_stats_of_tracers_are_passed_on_and_their_resources_hidden(tmp_path: Path) -> None:
    groups = [
        {
            **stats_payload.new_group(),
            "Service": "checkout",
            "Name": "operation",
            "Resource": resource,
            "Type": type_,
            "HTTPStatusCode": 200,
            "Hits": 5,
            "Errors": 1,
            "Duration": 1 << 40,
            "OkSummary": b"\x0a\xff",
            "TopLevelHits": 4,
            "SpanKind": "server",
            "PeerTags": ["a:b"],
            "IsTraceRoot": 1,
        }
        for type_, resource, _ in COUNTED
    ]
    now_ns = time.time_ns()
    bucket = {**stats_payload.new_bucket(), "Start": now_ns - now_ns % BUCKET_NS, "Stats": groups}
    said = {"Env": "prod", "Version": "1", "Lang": "go", "TracerVersion": "2", "ContainerID": "c"}
    body = payloads.encode({**stats_payload.new_payload(), **said, "Stats": [bucket]})
    with (
        Intake() as intake,
        ReferenceProcess({"DD_APM_DD_URL": intake.url, **PASSED_ON}, tmp_path) as reference,
    ):
        reference.wait_ready()
        status, answer = reference.send(body, "/v0.6/stats")
        assert status == 202, answer
        intake.wait_for(intake.stats_entries)
        theirs = intake.stats_entries()
    records: list[Record] = []
    receiver = StatsReceiver("none", records.extend, Ledger(), HandClock(now_ns))
    assert receiver.take_v06(Request("POST", "/v0.6/stats", "", {}, body)).status == 202
    ours = stats.entries(KIND.join(records))
    assert [entry["Resource"] for entry in theirs] == [sent for _, sent, _ in COUNTED]
    assert [entry["Resource"] for entry in ours] == [hidden for _, _, hidden in COUNTED]
    # The reference says that the bucket begins now.
    others = [
        [{k: v for k, v in entry.items() if k not in ("Resource", "bucket.Start")} for entry in of]
        for of in (theirs, ours)
    ]
    assert others[0] == others[1]


@pytest.mark.slow
def test_what_a_tracer_counted_is_not_counted_again(tmp_path: Path) -> None:
    # The reference counts it all the same, and drops what the tracer says it counted.
    now_ns = time.time_ns()
    said = {"true": "counted", "false": "not_counted"}
    sent = [
        (
            now_ns,
            {**HEADERS, "datadog-client-computed-stats": word},
            payloads.encode([[payloads.make_span(name=name, start=now_ns, duration=1000)]]),
        )
        for word, name in said.items()
    ]
    of_tracer = {**stats_payload.new_bucket(), "Stats": [stats_payload.new_group()]}
    body = payloads.encode({**stats_payload.new_payload(), "Stats": [of_tracer]})
    with (
        Intake() as intake,
        ReferenceProcess({"DD_APM_DD_URL": intake.url}, tmp_path) as reference,
    ):
        reference.wait_ready()
        status, answer = reference.send(body, "/v0.6/stats")
        assert (status, b"Dropping trace stats" in answer) == (202, True)
        for _, headers, traces in sent:
            assert reference.send(traces, headers=headers)[0] == 200
        intake.wait_for(intake.stats_entries, 60)
        theirs = {entry["Name"] for entry in intake.stats_entries()}
    assert theirs == {"counted", "not_counted"}
    assert {entry["Name"] for entry in ask_ours(sent)} == {"not_counted"}
