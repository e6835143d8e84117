"""traces.stats_receiver: what a tracer counted is passed on, mended where it must be."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from kit import payloads, stats
from kit.clock import BusyClock, HandClock

from mini_agent.errors import JournalFull, ProtocolError
from mini_agent.forward.payload import Kind, Record
from mini_agent.ledger import Ledger
from mini_agent.traces import stats_payload, stats_receiver
from mini_agent.traces.concentrator import BUCKET_NS
from mini_agent.traces.obfuscate.replace import read_rules
from mini_agent.traces.stats_payload import RECORD_GROUPS_MAX, new_group, new_payload
from mini_agent.traces.stats_receiver import (
    GROUPS_A_STEP,
    OCTETS_A_STEP,
    SKETCH_BYTES_MAX,
    StatsReceiver,
)
from mini_agent.traces.turns import TURN_S
from mini_agent.wire.http import Request, Response, Unfinished

KIND = Kind("stats", "stats", "/p", "t", stats_payload.PREFIX, 1 << 24, counted=True)
# Three seconds into a bucket.
BUCKET = 179_000_000 * BUCKET_NS
NOW_NS = BUCKET + 3_000_000_000

GROUP = {
    "Service": "shop",
    "Name": "web.request",
    "Resource": "GET /",
    "HTTPStatusCode": 200,
    "Type": "web",
    "DBType": "",
    "Hits": 5,
    "Errors": 1,
    "Duration": 1 << 63,
    "OkSummary": b"\x0a\xff",
    "ErrorSummary": b"",
    "Synthetics": True,
    "TopLevelHits": 4,
    "SpanKind": "server",
    "PeerTags": ["a:b"],
    "IsTraceRoot": 1,
    "GRPCStatusCode": "0",
    "HTTPMethod": "GET",
    "HTTPEndpoint": "/",
    "srv_src": "m",
    "SpanDerivedPrimaryTags": ["x"],
    "AdditionalMetricTags": ["y:z"],
}


class Scene:
    """One receiver, and all that can be seen of it.

    Attributes:
        room: Records that may still be kept.
        turns: How many the last request took.
    """

    def __init__(self, clock: HandClock | None = None) -> None:
        self.ledger = Ledger()
        self.records: list[Record] = []
        self.room = 1 << 30
        self.turns = 0
        clock = clock or HandClock(NOW_NS)
        rules, _ = read_rules(
            '[{"name": "resource.name", "pattern": "hush", "repl": "?"},'
            ' {"name": "resource.name", "pattern": "half", "repl": "\\ud800"}]'
        )
        self.receiver = StatsReceiver(
            "from-settings", self.keep, self.ledger, clock, replace_rules=rules
        )

    def keep(self, records: list[Record]) -> None:
        for record in records:
            if not self.room:
                raise JournalFull("full", 3)
            self.room -= 1
            self.records.append(record)
            self.ledger.accepted("stats", record.count)

    def send(self, payload: Any, **headers: str) -> Response:
        body = payload if isinstance(payload, bytes) else payloads.encode(payload)
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        answer: Response | Unfinished | None = self.receiver.take_v06(
            Request("PUT", "/v0.6/stats", "", names, body)
        )
        self.turns = 1
        if isinstance(answer, Unfinished):
            go_on = answer.go_on
            answer = None
            while answer is None:
                answer = go_on()
                self.turns += 1
        assert answer is not None
        return answer

    def entries(self) -> list[stats.Json]:
        return stats.entries(KIND.join(self.records) + stats_payload.suffix(client_computed=True))


@pytest.fixture
def scene() -> Scene:
    return Scene()


def make(*groups: Any, start: int = BUCKET, **payload: Any) -> dict[str, Any]:
    bucket = {"Start": start, "Duration": BUCKET_NS, "Stats": list(groups)}
    return {"Env": "prod", "Version": "1", "Stats": [bucket], **payload}


def test_a_group_is_passed_on_as_it_is(scene: Scene) -> None:
    answer = scene.send(make(GROUP, Hostname="laptop", Sequence=7, Tags=["t:1"], Unknown={}))
    assert answer.status == 202
    assert answer.body == b'{"message":"Successfully buffered stats to be flushed."}'
    (entry,) = scene.entries()
    assert {key: entry[key] for key in GROUP} == GROUP
    assert {key: value for key, value in entry.items() if "." in key and value} == {
        "payload.Env": "prod",
        "payload.Version": "1",
        "payload.Sequence": 7,
        "payload.Tags": ["t:1"],
        "bucket.Start": BUCKET,
        "bucket.Duration": BUCKET_NS,
    }
    assert scene.ledger.total("stats", "accepted") == 1


def test_what_the_payload_does_not_say_the_headers_and_settings_do(scene: Scene) -> None:
    said = {"datadog_meta_lang": "go", "datadog_meta_tracer_version": "2"}
    scene.send(make(GROUP, Env=""), **said, datadog_container_id="c1")
    scene.send(make(GROUP, Lang="js", TracerVersion="5", ContainerID="c2"), **said)
    keys = ("Env", "Lang", "TracerVersion", "ContainerID")
    assert [[entry[f"payload.{key}"] for key in keys] for entry in scene.entries()] == [
        ["from-settings", "go", "2", "c1"],
        ["prod", "js", "5", "c2"],
    ]


def test_every_bucket_gets_a_start_the_intake_knows(scene: Scene) -> None:
    sent = {
        BUCKET: (BUCKET, 0),
        BUCKET - BUCKET_NS: (BUCKET - BUCKET_NS, 0),
        BUCKET + 1: (BUCKET, 0),
        0: (BUCKET - 2 * BUCKET_NS, BUCKET - 2 * BUCKET_NS),
        BUCKET + 5 * BUCKET_NS: (BUCKET, -5 * BUCKET_NS),
        (1 << 64) - 1: (BUCKET, -(1 << 63)),
    }
    buckets = [{"Start": start, "Duration": 1, "Stats": [GROUP]} for start in sent]
    assert scene.send({"Stats": buckets}).status == 202
    assert [
        (entry["bucket.Start"], entry["bucket.AgentTimeShift"]) for entry in scene.entries()
    ] == list(sent.values())


def test_missing_and_nil_are_the_default(scene: Scene) -> None:
    scene.send(make({}, dict.fromkeys(GROUP), Lang=None, Tags=None))
    for entry in scene.entries():
        assert {key: entry[key] for key in GROUP} == new_group()
    assert scene.ledger.total("stats", "dropped") == 0


def test_structs_may_be_arrays(scene: Scene) -> None:
    payload = ["laptop", "prod", "1", [[BUCKET, BUCKET_NS, [list(GROUP.values())], 0]], "go"]
    assert scene.send(payload).status == 202
    (entry,) = scene.entries()
    assert {key: entry[key] for key in GROUP} == GROUP
    assert (entry["payload.Env"], entry["payload.Lang"]) == ("prod", "go")


@pytest.mark.parametrize("summary", [b"\x0a\xff", [10, 255], payloads.raw(b"\xa2\x0a\xff")])
def test_a_sketch_may_be_binary_text_or_an_array(scene: Scene, summary: object) -> None:
    scene.send(make({**GROUP, "OkSummary": summary}))
    assert scene.entries()[0]["OkSummary"] == b"\x0a\xff"


@pytest.mark.parametrize(
    "fault",
    [
        {"Hits": -1},
        {"Hits": "many"},
        {"Duration": 1.5},
        {"Duration": float("nan")},
        {"Duration": float("inf")},
        {"HTTPStatusCode": 1 << 32},
        {"Service": 3},
        {"Synthetics": 1},
        {"OkSummary": [256]},
        {"OkSummary": 1},
        {"PeerTags": "a:b"},
        {"PeerTags": ["t"] * 101},
        {"IsTraceRoot": -1},
    ],
)
def test_a_group_that_cannot_be_read_is_dropped_alone(scene: Scene, fault: dict[str, Any]) -> None:
    assert scene.send(make(GROUP, {**GROUP, **fault}, GROUP)).status == 202
    assert len(scene.entries()) == 2
    assert scene.ledger.total("stats", "accepted") == 3
    assert scene.ledger.total("stats", "dropped") == 1


def test_whole_floats_are_numbers(scene: Scene) -> None:
    scene.send(make({**GROUP, "Duration": 1e9, "Hits": 2.0}))
    assert [(entry["Duration"], entry["Hits"]) for entry in scene.entries()] == [(10**9, 2)]


def test_an_odd_value_of_the_payload_is_left_out(scene: Scene) -> None:
    assert scene.send(make(GROUP, Version=3, Sequence="x", Tags={"a": 1})).status == 202
    (entry,) = scene.entries()
    said = [entry[f"payload.{key}"] for key in ("Version", "Sequence", "Tags")]
    assert said == ["", 0, []]
    assert scene.ledger.total("stats", "repaired") > 0


def test_text_that_is_not_utf8_is_mended_and_long_text_is_cut(scene: Scene) -> None:
    scene.send(make({**GROUP, "Service": payloads.BROKEN_TEXT, "Resource": "é" * 9000}))
    (entry,) = scene.entries()
    assert entry["Service"] == payloads.MENDED_TEXT
    assert entry["Resource"] == "é" * 2500


@pytest.mark.parametrize(
    ("type_", "dbms", "resource", "hidden"),
    [
        ("sql", "", "SELECT a FROM b WHERE c = 'hush'", "SELECT a FROM b WHERE c = ?"),
        ("cassandra", "", "SELECT 1", "SELECT ?"),
        ("sql", "Postgresql", "SELECT a @> 1", "SELECT a @> ?"),
        ("sql", "", "", ""),
        ("redis", "", "SET key hush\nGET key", "SET GET"),
        ("valkey", "", "SET key hush", "SET"),
        ("web", "", "GET /hush/1", "GET /?/1"),
        ("web", "", "GET /half/1", "GET /?/1"),
    ],
)  # fmt: skip
def test_a_resource_is_hidden_as_its_spans_are(
    scene: Scene, type_: str, dbms: str, resource: str, hidden: str
) -> None:
    scene.send(make({**GROUP, "Type": type_, "DBType": dbms, "Resource": resource}))
    assert scene.entries()[0]["Resource"] == hidden


def test_a_long_query_is_cut_when_nothing_is_left_to_hide(scene: Scene) -> None:
    query = "SELECT '" + "x" * 6000 + "' FROM a WHERE b = 'hush'"
    scene.send(make({**GROUP, "Type": "sql", "Resource": query}))
    assert scene.entries()[0]["Resource"] == "SELECT ? FROM a WHERE b = ?"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xc1",
        b"\xc0",
        b"\x91",
        payloads.encode("text"),
        payloads.encode({"Stats": 3}),
        payloads.encode({"Stats": [3]}),
        payloads.encode({"Stats": [{"Start": "soon"}]}),
        payloads.encode(make({"Hits": "x"}, {"Hits": "y"})),
        payloads.encode(make(GROUP))[:-3],
    ],
)
def test_a_body_that_says_nothing_is_refused(scene: Scene, body: bytes) -> None:
    with pytest.raises(ProtocolError) as refused:
        scene.send(body)
    assert refused.value.status == 400
    assert scene.records == []


def test_too_many_groups_or_buckets_are_refused(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stats_receiver, "GROUPS_MAX", 3)
    monkeypatch.setattr(stats_receiver, "BUCKETS_MAX", 2)
    assert scene.send(make(GROUP, GROUP, GROUP)).status == 202
    for payload in (make(*[GROUP] * 4), {"Stats": [{}, {}, {}]}):
        with pytest.raises(ProtocolError) as refused:
            scene.send(payload)
        assert refused.value.status == 413


def test_a_large_payload_is_divided(scene: Scene) -> None:
    scene.send(make(*[GROUP] * (RECORD_GROUPS_MAX + 1)))
    assert [record.count for record in scene.records] == [RECORD_GROUPS_MAX, 1]
    assert len(scene.entries()) == RECORD_GROUPS_MAX + 1


def test_nothing_counted_is_taken_and_not_passed_on(scene: Scene) -> None:
    assert scene.send({**new_payload(), "Stats": [{"Start": 0, "Stats": []}]}).status == 202
    assert scene.records == []


def test_without_room_the_tracer_is_told_to_come_again(scene: Scene) -> None:
    scene.room = 0
    answer = scene.send(make(GROUP, GROUP))
    assert answer.status == 429
    assert ("Retry-After", "3") in answer.headers
    assert scene.ledger.total("stats", "refused") == 2
    assert scene.ledger.total("stats", "accepted") == 0


# Bodies that take longer than a turn of the loop.


def make_busy() -> Scene:
    """Every look at the clock says that the turn is over."""
    return Scene(BusyClock(TURN_S, NOW_NS))


def make_mixed(count: int) -> list[dict[str, Any]]:
    kinds = [
        GROUP,
        {**GROUP, "Type": "sql", "Resource": "SELECT a FROM b WHERE c = 'hush'"},
        {**GROUP, "Hits": "many"},
        {**GROUP, "Service": payloads.BROKEN_TEXT},
        {**GROUP, "OkSummary": [10, 255] * OCTETS_A_STEP},
    ]
    return [kinds[number % len(kinds)] for number in range(count)]


def test_turns_change_nothing_but_the_time(scene: Scene) -> None:
    payload = make(*make_mixed(600), Lang="go", Odd=[1] * 10_000, start=BUCKET + 1)
    payload["Stats"] *= 2
    busy = make_busy()
    expected, answer = scene.send(payload), busy.send(payload)
    assert scene.turns == 1
    assert busy.turns > 2 * 600 // GROUPS_A_STEP
    assert (answer.status, answer.body) == (expected.status, expected.body)
    assert busy.entries() == scene.entries()
    assert len(busy.entries()) == 2 * 480
    assert [record.body for record in busy.records] == [record.body for record in scene.records]
    assert busy.ledger.snapshot({}) == scene.ledger.snapshot({})


@pytest.mark.parametrize(
    "payload",
    [
        make(*[GROUP] * 1000),
        {"Stats": [{"Start": BUCKET, "Stats": [GROUP]}] * 200},
        {"Stats": [{"Start": BUCKET, "Odd": [1] * 500_000}]},
        {"Odd": [1] * 500_000},
        {"Env": [1] * 500_000},
        {"Tags": ["a"] * 500_000},
        make(GROUP, {**GROUP, "Odd": [1] * 500_000}),
        make(GROUP, {**GROUP, "Service": [1] * 500_000}),
        make(GROUP, {**GROUP, "OkSummary": [1] * 500_000}),
        make(GROUP, [*GROUP.values(), *[0] * 500_000]),
    ],
)
def test_whatever_is_long_takes_many_turns(payload: Any) -> None:
    busy = make_busy()
    assert busy.send(payload).status == 202
    assert busy.turns > 100


@pytest.mark.parametrize("cut", [1, 5000])
def test_a_body_that_breaks_off_in_a_later_turn_keeps_and_counts_nothing(cut: int) -> None:
    busy = make_busy()
    body = payloads.encode(make(*[GROUP] * 2000))
    with pytest.raises(ProtocolError):
        busy.send(body[:-cut])
    assert busy.turns > 100
    assert busy.records == []
    assert busy.ledger.snapshot({}) == {}


def test_nothing_is_kept_before_the_whole_body_was_read() -> None:
    busy = make_busy()
    payload = make(*[GROUP] * 2000, *[{"Hits": "x"}] * 2000)
    begun = busy.receiver.take_v06(Request("PUT", "/", "", {}, payloads.encode(payload)))
    assert isinstance(begun, Unfinished)
    kept = []
    while begun.go_on() is None:
        kept.append(len(busy.records))
    assert kept.index(1) > 4000 // GROUPS_A_STEP
    # One at a time.
    assert sorted(set(kept)) == [0, 1, 2, 3, 4]


def test_what_was_kept_before_there_was_no_room_is_delivered() -> None:
    busy = make_busy()
    busy.room = 1
    answer = busy.send(make(*[GROUP] * (2 * RECORD_GROUPS_MAX)))
    assert answer.status == 429
    assert ("Retry-After", "3") in answer.headers
    assert len(busy.records) == 1
    assert busy.ledger.total("stats", "accepted") == RECORD_GROUPS_MAX
    assert busy.ledger.total("stats", "refused") == 2 * RECORD_GROUPS_MAX


def test_a_payload_of_any_size_becomes_records_of_a_size(scene: Scene) -> None:
    group = {**GROUP, "OkSummary": b"x" * 5000}
    scene.send(make(*[group] * 1000))
    assert len(scene.records) == 6
    assert all(len(record.body) <= stats_payload.RECORD_BYTES_MAX for record in scene.records)


@pytest.mark.parametrize("size", [SKETCH_BYTES_MAX, SKETCH_BYTES_MAX + 1])
@pytest.mark.parametrize("make_sketch", [lambda size: b"x" * size, lambda size: [7] * size])
def test_a_sketch_has_a_largest_size(scene: Scene, make_sketch: Any, size: int) -> None:
    scene.send(make(GROUP, {**GROUP, "OkSummary": make_sketch(size)}))
    assert len(scene.entries()) == (2 if size == SKETCH_BYTES_MAX else 1)


def test_every_format_of_a_number_may_be_in_a_sketch(scene: Scene) -> None:
    numbers = payloads.raw(b"\x95\x01\xd0\x02\xc0\xcc\xff\xd3" + bytes(7) + b"\x03")
    scene.send(make({**GROUP, "OkSummary": numbers}))
    assert scene.entries()[0]["OkSummary"] == b"\x01\x02\x00\xff\x03"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(1 << 63), (1 << 64) - 1) | st.floats() | st.text(),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["Stats", "Start", "Env", "PeerTags", *GROUP]), inner, max_size=5
        )
    ),
)


@given(JSON | st.builds(lambda groups: make(*groups), st.lists(JSON, max_size=4)))
def test_whatever_comes_is_taken_or_refused(payload: Any) -> None:
    scene = Scene()
    try:
        answer = scene.send(msgspec.msgpack.encode(payload))
    except ProtocolError:
        assert scene.records == []
    else:
        assert answer.status == 202
        count = len(scene.entries())
        assert count == sum(record.count for record in scene.records)
        assert scene.ledger.imbalance({"stats": count}) == {}
