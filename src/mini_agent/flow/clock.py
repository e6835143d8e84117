"""Time behind a small face, so that tests can move it."""

from __future__ import annotations

import time


class Clock:
    """The machine's clocks."""

    def wall_ns(self) -> int:
        """Nanoseconds since 1970, for stamps; may jump."""
        return time.time_ns()

    def steady_s(self) -> float:
        """Seconds on a clock that never goes back, for waiting."""
        return time.monotonic()
