"""What one turn of the loop works on, and what later ones do.

    a request that is not finished ──► long queue ──► one step of the first, each turn
                                          ▲
                                          │ takes long itself
    one too many for this turn ─────► short queue ──► as many as a turn has time for

Between two steps the loop serves whoever else is ready: it asks the system for events before it
begins the next turn, and one step of the long queue is all this does in a turn, however many
wait. Only the first in it is worked on. Taking turns among all of them would finish none sooner
than the last, and what each has made so far would be in memory at the same time.

The loop itself would answer everyone who is ready within one turn: five hundred clients that send
a small request each at the same time would stop it for as long as all of them take. So the time
of a turn is counted, and whoever is ready when it is spent goes to the short queue. Those do not
wait for the long one, and no client who comes later is answered before them.

Counting is free of charge where there is little to count: the loop does not say when a turn of it
begins, and to be called then means a turn more. So only the work itself is added up, until it
comes to NOTICED_S. That may have taken many turns. From then on we are called when the next
begins, and until then all counts that takes time, the reading of requests too.
"""

from __future__ import annotations

import asyncio
from collections import deque

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

# How long requests may be answered within one turn; the last may then take a turn of a receiver
# (5 ms), and so may a step of the long queue. With them it stays below the 20 ms that nothing on
# the loop may take. The price of a turn is a hundredth of this.
AT_ONCE_S_MAX = 0.004
# Work below this is not worth to be called for: a small request takes a tenth of it or less.
NOTICED_S = 0.001


class Turns:
    """Two queues of work; one owner, the event loop.

    Args:
        soon: Calls something in the next turn of the loop.
        idle: Called when nothing is left to do.
        steady_s: The time, by a clock that never goes back.

    Attributes:
        is_spent: This turn has no time left; nothing more is to be done at once.
    """

    __slots__ = (
        "_idle",
        "_is_due",
        "_long",
        "_short",
        "_soon",
        "_steady_s",
        "_until_s",
        "_used_s",
        "is_spent",
    )

    def __init__(
        self,
        soon: Callable[[Callable[[], None]], object],
        idle: Callable[[], None],
        steady_s: Callable[[], float],
    ) -> None:
        self._soon = soon
        self._idle = idle
        self._steady_s = steady_s
        # In the order of coming.
        self._long: deque[Callable[[], bool]] = deque()
        self._short: deque[Callable[[], bool]] = deque()
        self._is_due = False
        self.is_spent = False
        # What was done at once, until that is noticed; then when the turn is spent.
        self._used_s = 0.0
        self._until_s: float | None = None

    @property
    def is_idle(self) -> bool:
        """Whether there is nothing to do."""
        return not self._long and not self._short

    def add(self, step: Callable[[], bool]) -> None:
        """Call this once a turn until it says True, after all that was added before."""
        self._long.append(step)
        self._ask()

    def add_short(self, step: Callable[[], bool]) -> None:
        """Call this when a turn has time for it; if it says False, as if it were added then."""
        self._short.append(step)
        self._ask()

    def clear(self) -> None:
        """Give everything up."""
        self._long.clear()
        self._short.clear()

    def count(self, since_s: float) -> None:
        """Count what was done at once since then."""
        now_s = self._steady_s()
        if self._until_s is None:
            self._used_s += now_s - since_s
            if self._used_s < NOTICED_S:
                return
            self._until_s = now_s + AT_ONCE_S_MAX - self._used_s
            self._ask()
        if now_s >= self._until_s:
            self.is_spent = True

    def _ask(self) -> None:
        if not self._is_due:
            self._is_due = True
            self._soon(self._turn)

    def _turn(self) -> None:
        self._is_due = self.is_spent = False
        self._used_s, self._until_s = 0.0, None
        if self.is_idle:
            return  # Called to count anew, or what was to do has been given up.
        try:
            if self._long:
                self._take_long()
            if self._short:
                self._take_short()
        finally:
            if self.is_idle:
                self._idle()
            if self._until_s is not None or not self.is_idle:
                self._ask()

    def _take_long(self) -> None:
        is_done = True
        try:
            is_done = self._long[0]()
        finally:
            if is_done:
                self._long.popleft()

    def _take_short(self) -> None:
        began_s = self._steady_s()
        self._until_s = began_s + AT_ONCE_S_MAX
        while self._short and not self.is_spent:
            step = self._short.popleft()
            if not step():
                self._long.append(step)
            self.count(began_s)


def call_soon(call: Callable[[], None]) -> None:
    """Call something in the next turn of the loop that runs now."""
    asyncio.get_running_loop().call_soon(call)
