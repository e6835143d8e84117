"""A quantile summary whose error is a fixed fraction of the value: DDSketch.

What this is
    Counts in bins whose borders grow by a constant factor, GAMMA. Bin i holds the values from
    GAMMA^(i - OFFSET) up to the next border, so whichever value of a bin is given for one in it
    is wrong by less than GAMMA - 1, and the middle by less than 0.78 %.

What it is not
    For negative values: durations have none.

How it works
    Bins are kept sparse, as most groups have a handful. When there are more than BINS_MAX, or
    their range is wider than that at encoding, the lowest are added up in the lowest that is
    kept: what is asked of durations are the high quantiles.

Limits
    BINS_MAX bins, which cover a factor of 10^13 between the fastest and the slowest.

Source: reference-agent 6.6; mapping, bins and bytes are those of the reference.
"""

from __future__ import annotations

import math
import sys
from array import array

from mini_agent.wire.protobuf import (
    bytes_field,
    double_field,
    integer_field,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

BINS_MAX = 2048
GAMMA = 1.015625
OFFSET = 1338.5

MULTIPLIER = 1.0 / math.log(GAMMA)
# Smaller values count as zero.
VALUE_MIN = sys.float_info.min * GAMMA

# Field numbers of DDSketch, its IndexMapping and its Store.
_MAPPING, _POSITIVE, _NEGATIVE, _ZERO_COUNT = 1, 2, 3, 4
_GAMMA, _INDEX_OFFSET = 1, 2
_COUNTS, _FIRST_INDEX = 2, 3

_HEAD = bytes_field(_MAPPING, double_field(_GAMMA, GAMMA) + double_field(_INDEX_OFFSET, OFFSET))
_NO_NEGATIVE = bytes_field(_NEGATIVE, b"")


def index_of(value: float) -> int:
    """The bin of a value above zero."""
    return math.floor(math.log(value) * MULTIPLIER + OFFSET)


class Sketch:
    """Counts of values by bin.

    Attributes:
        zeros: Values too small for a bin.
        bins: Count by index; may be read, and is changed by the methods alone.
    """

    __slots__ = ("bins", "zeros")

    def __init__(self, zeros: int = 0, bins: Mapping[int, int] | None = None) -> None:
        self.zeros = zeros
        self.bins: dict[int, int] = dict(bins or {})
        self._collapse()

    def add(self, value: float) -> None:
        """Count a value that is finite and not negative."""
        if value < VALUE_MIN:
            self.zeros += 1
            return
        index = math.floor(math.log(value) * MULTIPLIER + OFFSET)
        bins = self.bins
        if index in bins:
            bins[index] += 1
        else:
            bins[index] = 1
            if len(bins) > BINS_MAX:
                self._collapse()

    def merge(self, other: Sketch) -> None:
        """Count everything that another sketch counts."""
        self.zeros += other.zeros
        bins = self.bins
        for index, count in other.bins.items():
            bins[index] = bins.get(index, 0) + count
        self._collapse()

    def encode(self) -> bytes:
        """The message as the intake takes it."""
        self._collapse()
        return encode_bins(self.zeros, self.bins)

    def _collapse(self) -> None:
        """Add the bins below the range that is kept to the lowest in it."""
        bins = self.bins
        if not bins:
            return
        lowest = max(bins) - BINS_MAX + 1
        below = [index for index in bins if index < lowest]
        if below:
            bins[lowest] = bins.get(lowest, 0) + sum(bins.pop(index) for index in below)


def encode_bins(zero_count: int, bins: Mapping[int, int]) -> bytes:
    """The message of counts whose range is not wider than what is kept."""
    zeros = double_field(_ZERO_COUNT, float(zero_count))
    if not bins:
        return b"".join((_HEAD, bytes_field(_POSITIVE, b""), _NO_NEGATIVE, zeros))
    first = min(bins)
    counts = array("d", bytes(8 * (max(bins) - first + 1)))
    for index, count in bins.items():
        counts[index - first] = count
    if sys.byteorder == "big":
        counts.byteswap()
    # A sint32: the sign stands in the lowest bit.
    offset = integer_field(_FIRST_INDEX, 2 * first if first >= 0 else -2 * first - 1)
    store = bytes_field(_COUNTS, counts.tobytes()) + offset
    return b"".join((_HEAD, bytes_field(_POSITIVE, store), _NO_NEGATIVE, zeros))
