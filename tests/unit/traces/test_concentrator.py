"""traces.concentrator: spans go where they ended, once, and never into more than there may be."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from kit.tallies import Tally, on_both

from mini_agent.traces import concentrator as limits
from mini_agent.traces.concentrator import BUCKET_NS, Bucket, Concentrator, cut_text
from mini_agent.traces.stats_key import HTTP_ENDPOINT, PEER, RESOURCE

if TYPE_CHECKING:
    from mini_agent.traces.stats_key import StatsKey

T = 179_000_000 * BUCKET_NS
ORIGIN = ("prod", "1", "python", "4", "", "")
KEY: StatsKey = (b"GET /", b"shop", b"web", b"web", *(b"",) * 4, 200, b"", False, 1, ())  # type: ignore[assignment]


def vary(field: int, value: object) -> StatsKey:
    return (*KEY[:field], value, *KEY[field + 1 :])  # type: ignore[return-value]


def ended_at(*ends_ns: int) -> list[tuple[int, int, bool, bool]]:
    return [(end_ns, 1000, False, True) for end_ns in ends_ns]


def starts(taken: dict[int, dict[tuple[str, ...], Bucket]]) -> dict[int, int]:
    """Hits by the start of the bucket, in tens of seconds from T."""
    return {
        (start_ns - T) // BUCKET_NS: sum(
            group.hits for bucket in origins.values() for group in bucket.groups.values()
        )
        for start_ns, origins in taken.items()
    }


@on_both
def test_a_span_is_counted_in_the_bucket_it_ended_in(twin: Tally) -> None:
    concentrator = Concentrator(T, twin.Group)
    concentrator.add(ORIGIN, {KEY: ended_at(T, T + BUCKET_NS - 1, T + BUCKET_NS)}, T)
    assert starts(concentrator.take(T, everything=True)) == {0: 2, 1: 1}


@on_both
def test_a_bucket_is_given_when_twenty_seconds_have_passed_since_it_began(twin: Tally) -> None:
    concentrator = Concentrator(T, twin.Group)
    concentrator.add(ORIGIN, {KEY: ended_at(T + 5, T + BUCKET_NS)}, T)
    assert starts(concentrator.take(T + 2 * BUCKET_NS - 1)) == {}
    assert starts(concentrator.take(T + 2 * BUCKET_NS)) == {0: 1}
    assert starts(concentrator.take(T + 3 * BUCKET_NS)) == {1: 1}
    assert concentrator.group_count == 0


@on_both
def test_what_ended_before_the_start_is_counted_at_the_start(twin: Tally) -> None:
    concentrator = Concentrator(T + 3, twin.Group)
    concentrator.add(ORIGIN, {KEY: ended_at(T - 1, T - 100 * BUCKET_NS, -5)}, T + 3)
    assert starts(concentrator.take(T, everything=True)) == {0: 3}


@on_both
def test_a_late_span_is_counted_in_the_oldest_bucket_that_was_not_given(twin: Tally) -> None:
    concentrator = Concentrator(T, twin.Group)
    now_ns = T + 3 * BUCKET_NS + 7
    concentrator.take(now_ns)
    concentrator.add(ORIGIN, {KEY: ended_at(T, T + 2 * BUCKET_NS, T + 3 * BUCKET_NS)}, now_ns)
    assert starts(concentrator.take(now_ns, everything=True)) == {2: 2, 3: 1}


@on_both
def test_after_everything_was_given_nothing_is_given_for_that_time_again(twin: Tally) -> None:
    concentrator = Concentrator(T, twin.Group)
    now_ns = T + 5 * BUCKET_NS
    concentrator.take(now_ns, everything=True)
    concentrator.add(ORIGIN, {KEY: ended_at(now_ns - 1)}, now_ns)
    assert starts(concentrator.take(now_ns, everything=True)) == {5: 1}


@on_both
def test_a_span_from_the_far_future_is_counted_now(twin: Tally) -> None:
    concentrator = Concentrator(T, twin.Group)
    ends = ended_at(T + BUCKET_NS, T + 2 * BUCKET_NS, 1 << 70)
    concentrator.add(ORIGIN, {KEY: ends}, T + 4)
    assert starts(concentrator.take(T, everything=True)) == {0: 2, 1: 1}


@on_both
def test_a_clock_that_was_set_back_strands_nothing(twin: Tally) -> None:
    concentrator = Concentrator(T, twin.Group)
    concentrator.add(ORIGIN, {KEY: ended_at(T)}, T)
    assert starts(concentrator.take(T - 3600 * 10**9)) == {0: 1}


@on_both
def test_origins_are_told_apart(twin: Tally) -> None:
    concentrator = Concentrator(T, twin.Group)
    other = (*ORIGIN[:-1], "container")
    concentrator.add(ORIGIN, {KEY: ended_at(T)}, T)
    concentrator.add(other, {KEY: ended_at(T, T)}, T)
    ((_, origins),) = concentrator.take(T, everything=True).items()
    assert {origin: bucket.groups[KEY].hits for origin, bucket in origins.items()} == {
        ORIGIN: 1,
        other: 2,
    }


@on_both
def test_a_group_counts_hits_errors_time_and_top_level(twin: Tally) -> None:
    group = twin.Group()
    group.add(10, failed=False, top_level=True)
    group.add(20, failed=True, top_level=False)
    group.add(0, failed=False, top_level=False)
    assert (group.hits, group.errors, group.duration, group.top_level_hits) == (3, 1, 30, 1)
    assert (group.ok.zeros, sum(group.ok.bins.values())) == (1, 1)
    assert sum(group.failed.bins.values()) == 1
    group.merge(group)
    assert (group.hits, group.errors, group.duration, group.top_level_hits) == (6, 2, 60, 2)


def only_bucket(concentrator: Concentrator) -> Bucket:
    ((_, origins),) = concentrator.take(T, everything=True).items()
    ((_, bucket),) = origins.items()
    return bucket


@on_both
@pytest.mark.parametrize(
    ("field", "values_max", "make"),
    [
        (RESOURCE, limits.RESOURCES_MAX, lambda number: b"r%d" % number),
        (HTTP_ENDPOINT, limits.ENDPOINTS_MAX, lambda number: b"/%d" % number),
        (PEER, limits.PEERS_MAX, lambda number: (b"peer.service:%d" % number,)),
    ],
)
def test_too_many_values_of_a_field_share_one(
    twin: Tally, field: int, values_max: int, make
) -> None:  # type: ignore[no-untyped-def]
    concentrator = Concentrator(T, twin.Group)
    counted = {vary(field, make(number)): ended_at(T) for number in range(values_max + 50)}
    assert concentrator.add(ORIGIN, counted, T) == 50
    # Those that were there first still have their own.
    assert concentrator.add(ORIGIN, {vary(field, make(0)): ended_at(T)}, T) == 0
    groups = only_bucket(concentrator).groups
    assert len(groups) == values_max + 1
    blocked = limits.BLOCKED.encode()
    shared = groups[vary(field, (blocked,) if field == PEER else blocked)]
    assert shared.hits == 50


@on_both
def test_too_many_groups_share_one_of_blocked_fields(twin: Tally) -> None:
    concentrator = Concentrator(T, twin.Group)
    counted = {vary(2, b"op%d" % number): ended_at(T) for number in range(limits.GROUPS_MAX + 9)}
    assert concentrator.add(ORIGIN, counted, T) == 9
    groups = only_bucket(concentrator).groups
    assert len(groups) == limits.GROUPS_MAX + 1
    assert [group.hits for key, group in groups.items() if key[1] != b"shop"] == [9]


@on_both
def test_too_many_origins_share_one(twin: Tally) -> None:
    concentrator = Concentrator(T, twin.Group)
    for number in range(limits.ORIGINS_MAX + 20):
        concentrator.add((*ORIGIN[:-1], str(number)), {KEY: ended_at(T)}, T)
    ((_, origins),) = concentrator.take(T, everything=True).items()
    assert len(origins) == limits.ORIGINS_MAX + 1
    assert origins[(limits.BLOCKED,) * 6].groups[KEY].hits == 20


@on_both
def test_open_groups_are_bounded_over_all_buckets(twin: Tally) -> None:
    concentrator = Concentrator(T, twin.Group)
    for number in range(6):
        counted = {vary(2, b"op%d" % each): ended_at(T) for each in range(limits.GROUPS_MAX)}
        concentrator.add((*ORIGIN[:-1], str(number)), counted, T)
    assert concentrator.group_count <= limits.OPEN_GROUPS_MAX + limits.ORIGINS_MAX
    taken = concentrator.take(T, everything=True)
    assert starts(taken) == {0: 6 * limits.GROUPS_MAX}
    assert concentrator.group_count == 0


@on_both
def test_long_texts_are_cut_between_characters(twin: Tally) -> None:
    concentrator = Concentrator(T, twin.Group)
    key = vary(HTTP_ENDPOINT, "é".encode() * 150 + b"x")
    concentrator.add(ORIGIN, {key: ended_at(T)}, T)
    concentrator.add(ORIGIN, {key: ended_at(T)}, T)
    ((cut, group),) = only_bucket(concentrator).groups.items()
    assert cut == vary(HTTP_ENDPOINT, "é".encode() * 100)
    assert group.hits == 2
    assert cut_text("aé".encode(), 2) == b"a"


@on_both
def test_restored_groups_are_added_to_what_is_there(twin: Tally) -> None:
    concentrator = Concentrator(T, twin.Group)
    concentrator.add(ORIGIN, {KEY: ended_at(T)}, T)
    group = twin.Group()
    group.add(5, failed=True, top_level=False)
    concentrator.restore(T, ORIGIN, KEY, group)
    concentrator.restore(T - 60 * BUCKET_NS, ORIGIN, KEY, group)
    assert starts(concentrator.take(T)) == {-60: 1}
    assert only_bucket(concentrator).groups[KEY].errors == 1
