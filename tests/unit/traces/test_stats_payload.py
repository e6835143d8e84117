"""traces.stats_payload: bodies as the intake takes them, in records of a size."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from kit import stats

from mini_agent.forward.payload import Kind
from mini_agent.traces import stats_payload
from mini_agent.traces.concentrator import Group
from mini_agent.traces.stats_payload import (
    RECORD_BYTES_MAX,
    RECORD_GROUPS_MAX,
    group_of,
    new_bucket,
    new_group,
    new_payload,
    payload_of,
    records_of,
)

if TYPE_CHECKING:
    from mini_agent.forward.payload import Record
    from mini_agent.traces.stats_key import StatsKey


def kind(client_computed: bool = False) -> Kind:
    return Kind(
        name="stats",
        signal="stats",
        path=stats_payload.PATH,
        content_type=stats_payload.CONTENT_TYPE,
        prefix=stats_payload.PREFIX,
        body_bytes_max=stats_payload.BODY_BYTES_MAX,
        suffix=stats_payload.suffix(client_computed),
        counted=True,
    )


def make_records(counts: list[int], resource: str = "r") -> list[Record]:
    """One payload with a bucket of so many groups each."""
    buckets = [
        (
            {**new_bucket(), "Start": start},
            [{**new_group(), "Resource": f"{resource}{number}"} for number in range(count)],
        )
        for start, count in enumerate(counts)
    ]
    steps = records_of({**new_payload(), "Env": "prod"}, buckets)
    return [record for record in steps if record is not None]


@pytest.mark.parametrize("client_computed", [False, True])
def test_a_body_is_what_the_intake_takes(client_computed: bool) -> None:
    records = [*make_records([2, 1]), *make_records([1])]
    body = kind(client_computed).join(records)
    payload: dict[str, Any] = msgspec.msgpack.decode(body)
    clients = payload.pop("Stats")
    assert payload == {
        "AgentHostname": "",
        "AgentEnv": "",
        "AgentVersion": "",
        "ClientComputed": client_computed,
        "SplitPayload": False,
    }
    assert [len(client["Stats"]) for client in clients] == [2, 1]
    assert list(clients[0]) == list(new_payload())
    assert list(clients[0]["Stats"][0]) == list(new_bucket())
    assert list(clients[0]["Stats"][0]["Stats"][0]) == list(new_group())
    assert len(body) == kind().frame_bytes + sum(len(record.body) for record in records)


def test_every_group_is_in_one_record_and_none_is_too_long() -> None:
    counts = [RECORD_GROUPS_MAX - 1, 2, 3 * RECORD_GROUPS_MAX, 0]
    records = make_records(counts)
    assert sum(record.count for record in records) == sum(counts)
    assert all(0 < record.count <= RECORD_GROUPS_MAX for record in records)
    found = stats.entries(kind().join(records))
    assert [(entry["bucket.Start"], entry["Resource"]) for entry in found] == [
        (start, f"r{number}") for start, count in enumerate(counts) for number in range(count)
    ]
    assert {entry["payload.Env"] for entry in found} == {"prod"}


def test_a_record_has_a_size_unless_one_group_is_larger() -> None:
    records = make_records([5], resource="x" * 400_000)
    assert [record.count for record in records] == [2, 2, 1]
    assert all(len(record.body) <= RECORD_BYTES_MAX for record in records)
    assert [record.count for record in make_records([2], "x" * RECORD_BYTES_MAX)] == [1, 1]


def test_nothing_is_no_record() -> None:
    assert make_records([]) == []
    assert make_records([0, 0]) == []


def test_an_origin_becomes_the_payload_it_came_in() -> None:
    payload = payload_of(("prod", "1.2", "python", "4.16", "shop", "c0ffee"))
    filled = {key: value for key, value in payload.items() if value}
    assert filled == {
        "Env": "prod",
        "Version": "1.2",
        "Lang": "python",
        "TracerVersion": "4.16",
        "Service": "shop",
        "ContainerID": "c0ffee",
    }


def test_a_group_says_everything_its_key_says() -> None:
    group = Group()
    group.add(1000, failed=True, top_level=True)
    group.duration = 1 << 70
    texts = (b"GET", b"shop", "näme".encode(), b"web", b"client", b"PUT", b"/e", b"m")
    key: StatsKey = (*texts, 404, b"5", True, 2, (b"peer.service:db", b"x"))  # type: ignore[assignment]
    message = group_of(key, group)
    assert list(message) == list(new_group())
    assert stats.bins_of(message.pop("OkSummary")) == {}
    assert sum(stats.bins_of(message.pop("ErrorSummary")).values()) == 1
    assert message == {
        "Service": "shop",
        "Name": "näme",
        "Resource": "GET",
        "HTTPStatusCode": 404,
        "Type": "web",
        "DBType": "",
        "Hits": 1,
        "Errors": 1,
        "Duration": (1 << 64) - 1,
        "Synthetics": True,
        "TopLevelHits": 1,
        "SpanKind": "client",
        "PeerTags": ["peer.service:db", "x"],
        "IsTraceRoot": 2,
        "GRPCStatusCode": "5",
        "HTTPMethod": "PUT",
        "HTTPEndpoint": "/e",
        "srv_src": "m",
        "SpanDerivedPrimaryTags": [],
        "AdditionalMetricTags": [],
    }
