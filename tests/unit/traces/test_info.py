from __future__ import annotations

import hashlib
import json

from mini_agent.traces import info


def describe(*endpoints: str, agent_stats: bool = False) -> info.Description:
    return info.describe(
        version="1.2.3",
        endpoints=endpoints,
        receiver_port=8126,
        statsd_port=8125,
        receiver_socket=r"\\.\pipe\traces",
        agent_stats=agent_stats,
    )


def test_a_tracer_learns_what_works_here() -> None:
    page = json.loads(describe("/v0.4/traces", "/info").body)
    assert page["version"] == "1.2.3"
    assert page["endpoints"] == ["/v0.4/traces", "/info"]
    assert page["span_events"] is True
    assert page["span_meta_structs"] is True
    assert page["span_kinds_stats_computed"] == ["server", "client", "producer", "consumer"]
    assert page["config"] == {
        "receiver_port": 8126,
        "statsd_port": 8125,
        "receiver_socket": r"\\.\pipe\traces",
    }


def test_the_peer_tags_are_43_in_byte_order() -> None:
    tags = json.loads(describe().body)["peer_tags"]
    assert len(set(tags)) == 43
    assert tags == sorted(tags)


def test_a_tracer_may_drop_spans_only_if_it_can_bring_their_stats() -> None:
    def may_drop(*endpoints: str, agent_stats: bool = False) -> bool:
        return json.loads(describe(*endpoints, agent_stats=agent_stats).body)["client_drop_p0s"]

    assert not may_drop("/v0.4/traces", "/info")
    assert may_drop("/v0.4/traces", "/v0.6/stats", "/info")
    assert not may_drop("/v0.4/traces", "/v0.6/stats", "/info", agent_stats=True)


def test_the_state_is_the_hash_of_the_page_and_stable() -> None:
    first, again, other = describe("/info"), describe("/info"), describe("/v0.4/traces")
    assert first.body == again.body
    assert first.state == again.state == hashlib.sha256(first.body).hexdigest()
    assert first.state != other.state
