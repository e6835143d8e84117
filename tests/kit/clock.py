"""Time that moves when it is told to."""

from __future__ import annotations


class HandClock:
    """A Clock whose hands the test moves."""

    def __init__(self, wall_ns: int = 1_790_000_000_000_000_000) -> None:
        self._wall_ns = wall_ns
        self._steady_s = 1000.0

    def wall_ns(self) -> int:
        return self._wall_ns

    def steady_s(self) -> float:
        return self._steady_s

    def move(self, seconds: float) -> None:
        self._wall_ns += int(seconds * 1e9)
        self._steady_s += seconds
