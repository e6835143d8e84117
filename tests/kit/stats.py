"""Bodies of the stats intake as plain values: one flat dict per group.

An entry has the keys of the group and, beside them, those of its bucket and of its client
payload, so that two bodies can be compared however their groups are divided.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from kit import protos

if TYPE_CHECKING:
    from collections.abc import Iterable

Json = dict[str, Any]

# What is added up; anything else of an entry is what it is counted under.
COUNTS = ("Hits", "Errors", "Duration", "TopLevelHits")
SUMMARIES = ("OkSummary", "ErrorSummary")


def decode(body: bytes) -> Json:
    """A body as it stands."""
    payload: Json = msgspec.msgpack.decode(body)
    assert isinstance(payload["Stats"], list)
    return payload


def entries(body: bytes) -> list[Json]:
    """Every group of a body; a key of a bucket is `bucket.X`, one of a payload `payload.X`."""
    return [
        {
            **{f"payload.{key}": client[key] for key in client if key != "Stats"},
            **{f"bucket.{key}": bucket[key] for key in bucket if key != "Stats"},
            **group,
        }
        for client in decode(body)["Stats"]
        for bucket in client["Stats"]
        for group in bucket["Stats"]
    ]


def by_key(found: Iterable[Json]) -> dict[tuple[Any, ...], Json]:
    """Entries by everything they are counted under, of which there must be no two alike."""
    keyed: dict[tuple[Any, ...], Json] = {}
    for entry in found:
        key = tuple(
            (name, tuple(value) if isinstance(value, list) else value)
            for name, value in sorted(entry.items())
            if name not in (*COUNTS, *SUMMARIES)
        )
        assert key not in keyed, f"twice: {key}"
        keyed[key] = {name: entry[name] for name in (*COUNTS, *SUMMARIES)}
    return keyed


def read_sketch(summary: bytes) -> Any:
    """A sketch under the official protobuf runtime."""
    return protos.load_sketch().DDSketch.FromString(summary)


def bins_of(summary: bytes) -> dict[int, float]:
    """The bins of a sketch that are not empty; what counts as zero stands at -1."""
    sketch = read_sketch(summary)
    store = sketch.positiveValues
    bins = {
        store.contiguousBinIndexOffset + index: count
        for index, count in enumerate(store.contiguousBinCounts)
        if count
    }
    return {**bins, **({-1: sketch.zeroCount} if sketch.zeroCount else {})}
