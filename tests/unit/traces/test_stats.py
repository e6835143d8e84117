"""traces.stats: what is kept is counted once, survives, and leaves on time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from kit import payloads, stats
from kit.clock import HandClock

from mini_agent.errors import JournalFull
from mini_agent.forward.payload import Kind, Record
from mini_agent.ledger import Ledger
from mini_agent.traces import stats_payload
from mini_agent.traces.concentrator import BUCKET_NS, RESOURCES_MAX
from mini_agent.traces.enrich import Enrichment
from mini_agent.traces.receiver import TraceReceiver
from mini_agent.traces.stats import Stats
from mini_agent.wire.http import Request

KIND = Kind("stats", "stats", "/p", "t", stats_payload.PREFIX, 1 << 24, suffix=b"", counted=True)
NOW_NS = 179_000_000 * BUCKET_NS


class Scene:
    """A receiver that counts, and what becomes of it."""

    def __init__(self, env: str = "none") -> None:
        self.clock = HandClock(NOW_NS)
        self.ledger = Ledger()
        self.is_full = False
        self.records: list[Record] = []
        self.stats = Stats(env, self.keep_stats, self.ledger, self.clock)
        self.receiver = TraceReceiver(
            keep=self.keep_spans,
            enrichment=Enrichment(None, {}, {}, {}, ""),
            ledger=self.ledger,
            body_bytes_max=3_200_000,
            clock=self.clock,
            stats=self.stats,
        )

    def keep_spans(self, records: list[Record]) -> None:
        self._refuse_if_full()

    def keep_stats(self, records: list[Record]) -> None:
        self._refuse_if_full()
        self.records += records
        for record in records:
            self.ledger.accepted("stats", record.count)

    def send(self, traces: list[list[dict[str, Any]]], **headers: str) -> int:
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        request = Request("POST", "/v0.4/traces", "", names, payloads.encode(traces))
        return self.receiver.take_v04(request).status

    def flushed(self, everything: bool = True) -> list[stats.Json]:
        run(self.stats.flush(everything))
        records, self.records = self.records, []
        body = KIND.join(records) + stats_payload.suffix(client_computed=False)
        return stats.entries(body)

    def snapshot(self) -> bytes | None:
        written: list[bytes] = []
        run(self.stats.snapshot(written.append))
        return written[0] if written else None

    def _refuse_if_full(self) -> None:
        if self.is_full:
            raise JournalFull("full", 1)


def run(steps: Iterator[None]) -> None:
    for _ in steps:
        pass


@pytest.fixture
def scene() -> Scene:
    return Scene()


def span(**overrides: Any) -> dict[str, Any]:
    return payloads.make_span(start=NOW_NS, duration=1000, **overrides)


def test_spans_of_one_group_are_counted_together(scene: Scene) -> None:
    traces = [[span(resource="r", error=number % 2)] for number in range(4)]
    assert scene.send(traces) == 200
    (entry,) = scene.flushed()
    assert {name: entry[name] for name in stats.COUNTS} == {
        "Hits": 4,
        "Errors": 2,
        "Duration": 4000,
        "TopLevelHits": 4,
    }
    assert entry["bucket.Start"] == NOW_NS
    assert entry["bucket.Duration"] == BUCKET_NS


def test_what_the_tracer_counts_is_not_counted_again(scene: Scene) -> None:
    assert scene.send([[span()]], datadog_client_computed_stats="yes") == 200
    assert scene.stats.group_count == 0
    assert scene.send([[span()]], datadog_client_computed_stats="false") == 200
    assert scene.stats.group_count == 1


def test_a_refused_request_is_not_counted(scene: Scene) -> None:
    scene.is_full = True
    assert scene.send([[span()]]) == 429
    scene.is_full = False
    assert scene.send([[span()]]) == 200
    assert [entry["Hits"] for entry in scene.flushed()] == [1]


def test_a_tracer_is_known_by_its_headers_and_its_tags(scene: Scene) -> None:
    meta = {"env": "prod", "version": "7", "_dd.base_service": "shop"}
    scene.send(
        [[span(meta=meta)]],
        datadog_meta_lang="python",
        datadog_meta_tracer_version="4.16",
        datadog_container_id="c1",
    )
    (entry,) = scene.flushed()
    said = ("Env", "Version", "Lang", "TracerVersion", "Service", "ContainerID")
    assert [entry[f"payload.{name}"] for name in said] == [
        *("prod", "7", "python", "4.16", "shop", "c1"),
    ]


def test_what_a_trace_does_not_say_the_request_said_first() -> None:
    scene = Scene(env="from-settings")
    scene.send([[span(meta={})], [span(meta={"env": "a"})], [span(meta={"env": "b"})]])
    assert [entry["payload.Env"] for entry in scene.flushed()] == ["a", "a", "b"]
    scene.send([[span(meta={})]])
    assert [entry["payload.Env"] for entry in scene.flushed()] == ["from-settings"]


def test_a_bucket_leaves_when_it_is_complete(scene: Scene) -> None:
    scene.send([[span()]])
    assert scene.flushed(everything=False) == []
    scene.clock.move(19.9)
    assert scene.flushed(everything=False) == []
    scene.clock.move(0.2)
    assert len(scene.flushed(everything=False)) == 1
    assert scene.ledger.total("stats", "accepted") == 1


def test_a_flush_that_was_given_up_is_finished_by_the_next(scene: Scene) -> None:
    scene.send([[span(resource=f"r{number}")] for number in range(700)])
    assert scene.snapshot()
    steps = scene.stats.flush(everything=True)
    while not scene.records:
        next(steps)
    assert len(scene.records) == 1
    assert scene.snapshot() is None, "the last snapshot still holds what leaves"
    assert len(scene.flushed()) == 700
    assert next(steps, "done") == "done"
    assert scene.snapshot() == b""


def test_a_full_journal_drops_stats_with_a_count(scene: Scene) -> None:
    scene.send([[span()]])
    scene.is_full = True
    scene.flushed()
    assert scene.ledger.total("stats", "dropped") == 1
    assert "stats" not in scene.ledger.imbalance({})


def test_spans_that_share_a_group_for_lack_of_room_are_counted(scene: Scene) -> None:
    scene.send([[span(resource=f"r{number}")] for number in range(RESOURCES_MAX + 3)])
    assert scene.ledger.total("spans", "repaired") == 3
    assert sum(entry["Hits"] for entry in scene.flushed()) == RESOURCES_MAX + 3


def test_a_snapshot_is_given_when_something_changed(scene: Scene) -> None:
    assert scene.snapshot() is None
    scene.send([[span()]])
    assert scene.snapshot()
    assert scene.snapshot() is None
    scene.flushed()
    assert scene.snapshot() == b""
    assert scene.snapshot() is None


def test_long_work_is_done_in_steps_between_which_spans_are_counted(scene: Scene) -> None:
    many = [[span(resource=f"r{number}")] for number in range(700)]
    scene.send(many)
    written: list[bytes] = []
    steps = scene.stats.snapshot(written.append)
    next(steps)
    scene.send([[span(resource="later")], *many])
    run(steps)
    (whole,) = written
    assert scene.snapshot() != whole, "what came in between is in the next one"
    successor = Scene()
    steps = successor.stats.restore(whole)
    next(steps)
    assert 0 < successor.stats.group_count < 700
    successor.send(many)
    run(steps)
    assert successor.stats.group_count == 700
    assert sum(entry["Hits"] for entry in successor.flushed()) > 1400


def test_a_snapshot_that_was_given_up_is_made_again(scene: Scene) -> None:
    scene.send([[span(resource=f"r{number}")] for number in range(700)])
    written: list[bytes] = []
    steps = scene.stats.snapshot(written.append)
    next(steps)
    steps.close()  # type: ignore[attr-defined]
    assert not written
    assert scene.snapshot()


def restored(scene: Scene, *snapshots: bytes | None) -> Scene:
    successor = Scene()
    successor.clock.move(0.5)
    for snapshot in snapshots:
        assert snapshot
        run(successor.stats.restore(snapshot))
    return successor


def test_a_successor_goes_on_counting(scene: Scene) -> None:
    traces = [[span(resource="r", parent_id=number % 2, error=1)] for number in range(4)]
    scene.send(traces, datadog_meta_lang="python")
    successor = restored(scene, scene.snapshot())
    successor.send(traces, datadog_meta_lang="python")
    scene.send(traces, datadog_meta_lang="python")
    assert stats.by_key(successor.flushed()) == stats.by_key(scene.flushed())


def test_what_was_restored_is_in_the_next_snapshot(scene: Scene) -> None:
    scene.send([[span()]])
    snapshot = scene.snapshot()
    assert restored(scene, snapshot).snapshot() == snapshot


def test_restored_buckets_that_are_complete_leave_at_once(scene: Scene) -> None:
    scene.send([[span()]])
    successor = restored(scene, scene.snapshot())
    successor.clock.move(600)
    (entry,) = successor.flushed(everything=False)
    assert entry["bucket.Start"] == NOW_NS


def test_a_snapshot_of_another_layout_is_left_alone(
    scene: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    run(scene.stats.restore(payloads.encode([99, []])))
    assert scene.stats.group_count == 0
    assert "another layout" in caplog.text


def test_even_the_largest_durations_are_kept(scene: Scene) -> None:
    long = (1 << 63) - 1
    scene.send([[payloads.make_span(start=NOW_NS, duration=long, resource="r")] for _ in range(3)])
    successor = restored(scene, scene.snapshot())
    (entry,) = successor.flushed()
    assert entry["Duration"] <= (1 << 64) - 1
    assert entry["Hits"] == 3
