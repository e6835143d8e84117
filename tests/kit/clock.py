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


class BusyClock(HandClock):
    """A Clock on which each look takes a while, as if much had been done since the last."""

    def __init__(self, look_s: float, wall_ns: int = 1_790_000_000_000_000_000) -> None:
        super().__init__(wall_ns)
        self._look_s = look_s

    def steady_s(self) -> float:
        self.move(self._look_s)
        return super().steady_s()
