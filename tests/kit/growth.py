"""Whether a function takes time in proportion to its text, on a machine that is never quiet."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

SHORT_LENGTH, LONG_LENGTH = 10_000, 1_000_000
# The same amount of text at once and in a hundred pieces takes about the same time, some times as
# long where memory or a neighbour is in the way; a scan that looks twice takes a hundred times.
GROWTH_MAX = 20
# A neighbour that is in the way now is not in the way every time; a scan that looks twice is.
TRIES = 5


def growing(
    change: Callable[[str], object], shapes: Callable[[int], dict[str, str]]
) -> dict[str, float]:
    """Of texts by name, made by `shapes` for a length: those on which time grows faster than it.

    Returns:
        How many times as long as for short texts of the same length in all, by name.
    """
    short, long = shapes(SHORT_LENGTH), shapes(LONG_LENGTH)
    growth = {name: _growth(change, short[name], long[name]) for name in long}
    return {name: times for name, times in growth.items() if times > GROWTH_MAX}


def _growth(change: Callable[[str], object], short: str, long: str) -> float:
    """The least of some tries, or the first that is in order."""
    least = float("inf")
    for _ in range(TRIES):
        pieces_s = _seconds_of(change, short, LONG_LENGTH // SHORT_LENGTH)
        least = min(least, _seconds_of(change, long, 1) / pieces_s)
        if least <= GROWTH_MAX:
            break
    return least


def _seconds_of(change: Callable[[str], object], text: str, count: int) -> float:
    began = time.process_time()
    for _ in range(count):
        change(text)
    return time.process_time() - began
