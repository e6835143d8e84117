"""traces.sketch: every quantile within the bound, and bytes the official runtime reads."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kit import protos
from kit.stats import bins_of, read_sketch
from kit.tallies import Tally, on_both

from mini_agent.traces.sketch import BINS_MAX, GAMMA, OFFSET, index_of

# Half a bin, and what a float loses.
ACCURACY = (GAMMA - 1) / (GAMMA + 1) + 1e-9

DURATIONS = st.lists(st.integers(0, 10**12), min_size=1, max_size=300)


def make(twin: Tally, values: list[int]) -> Any:
    sketch = twin.Sketch()
    for value in values:
        sketch.add(value)
    return sketch


def quantile(summary: bytes, fraction: float) -> float:
    """As whoever reads the sketch sees it: the middle of the bin with that rank."""
    rank = fraction * (sum(bins_of(summary).values()) - 1)
    seen = 0.0
    for index, count in sorted(bins_of(summary).items()):
        seen += count
        if seen > rank:
            lower = GAMMA ** (index - OFFSET)
            return 0.0 if index < 0 else lower * 2 * GAMMA / (1 + GAMMA)
    raise AssertionError("no value of that rank")


@pytest.mark.parametrize(
    ("value", "index"), [(1, 1338), (10, 1487), (100, 1635), (10**9, 2675), (2**63, 4155)]
)
@on_both
def test_bins_are_those_of_the_reference(twin: Tally, value: int, index: int) -> None:
    assert index_of(value) == index
    assert make(twin, [value]).bins == {index: 1}


@on_both
@given(DURATIONS, st.sampled_from([0.0, 0.5, 0.75, 0.9, 0.99, 1.0]))
def test_a_quantile_is_within_the_accuracy(twin: Tally, values: list[int], fraction: float) -> None:
    exact = sorted(values)[math.floor(fraction * (len(values) - 1))]
    assert quantile(make(twin, values).encode(), fraction) == pytest.approx(exact, rel=ACCURACY)


@on_both
@given(DURATIONS, DURATIONS)
def test_two_merged_are_one_of_both(twin: Tally, left: list[int], right: list[int]) -> None:
    merged = make(twin, left)
    merged.merge(make(twin, right))
    assert merged.encode() == make(twin, left + right).encode()


@on_both
def test_the_message_has_the_mapping_and_an_empty_negative_store(twin: Tally) -> None:
    sketch = read_sketch(make(twin, [0, 1, 1, 10]).encode())
    assert (sketch.mapping.gamma, sketch.mapping.indexOffset) == (1.015625, 1338.5)
    assert sketch.zeroCount == 1
    assert sketch.HasField("negativeValues")
    assert sketch.positiveValues.contiguousBinIndexOffset == 1338
    assert len(sketch.positiveValues.contiguousBinCounts) == 1487 - 1338 + 1
    assert not sketch.positiveValues.binCounts


@on_both
def test_an_empty_sketch_is_that_of_the_reference(twin: Tally) -> None:
    assert twin.Sketch().encode() == bytes.fromhex(
        "0a12090000000000 40f03f11 0000000000 ea9440 1200 1a00"
    )


@on_both
def test_the_encoding_is_canonical(twin: Tally) -> None:
    encoded = make(twin, [0, 3, 10**6, 10**6]).encode()
    message = protos.load_sketch().DDSketch.FromString(encoded)
    assert message.SerializeToString() == encoded


@on_both
def test_more_bins_than_there_may_be_add_up_the_lowest(twin: Tally) -> None:
    values = [1, 1, 2, 2**63]
    bins = bins_of(make(twin, values).encode())
    top = index_of(2**63)
    assert bins == {top: 1.0, top - BINS_MAX + 1: 3.0}


@on_both
def test_a_sketch_stays_within_its_bins_whatever_comes(twin: Tally) -> None:
    sketch = twin.Sketch()
    for exponent in range(-300, 300):
        for step in range(20):
            sketch.add(10.0**exponent * (1 + step / 3))
    assert len(sketch.bins) <= BINS_MAX
    assert sum(sketch.bins.values()) == 600 * 20


@on_both
def test_what_is_too_small_for_a_bin_counts_as_zero(twin: Tally) -> None:
    sketch = make(twin, [0])
    sketch.add(1e-310)
    assert (sketch.zeros, sketch.bins) == (2, {})
    assert bins_of(sketch.encode()) == {-1: 2.0}


@on_both
def test_a_sketch_made_from_counts_goes_on(twin: Tally) -> None:
    before = make(twin, [5, 50, 0])
    after = twin.Sketch(before.zeros, before.bins)
    after.add(500)
    assert after.encode() == make(twin, [5, 50, 0, 500]).encode()
    assert len(before.bins) == 2
