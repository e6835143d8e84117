"""Work that is too long for one turn of the loop.

    a request that is not finished ──► queue ──► one step of the first, each turn ──► its answer

Between two steps the loop serves whoever else is ready: it asks the system for events before it
begins the next turn, and one step is all this does in a turn, however many wait.

Only the first in the queue is worked on. Taking turns among all of them would finish none sooner
than the last, and what each has made so far would be in memory at the same time.
"""

from __future__ import annotations

import asyncio
from collections import deque

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable


class Turns:
    """A queue of work; one owner, the event loop.

    Args:
        soon: Calls something in the next turn of the loop.
        idle: Called when nothing is left to do.
    """

    __slots__ = ("_idle", "_is_due", "_soon", "_steps")

    def __init__(
        self, soon: Callable[[Callable[[], None]], object], idle: Callable[[], None]
    ) -> None:
        self._soon = soon
        self._idle = idle
        # By the work it belongs to, in the order of coming.
        self._steps: deque[Callable[[], bool]] = deque()
        self._is_due = False

    @property
    def is_idle(self) -> bool:
        """Whether there is nothing to do."""
        return not self._steps

    def add(self, step: Callable[[], bool]) -> None:
        """Call this once a turn until it says True, after all that was added before."""
        self._steps.append(step)
        self._ask()

    def clear(self) -> None:
        """Give everything up."""
        self._steps.clear()

    def _ask(self) -> None:
        if not self._is_due:
            self._is_due = True
            self._soon(self._turn)

    def _turn(self) -> None:
        self._is_due = False
        if not self._steps:
            return  # Given up since it asked.
        is_done = True
        try:
            is_done = self._steps[0]()
        finally:
            if is_done:
                self._steps.popleft()
            if self._steps:
                self._ask()
            else:
                self._idle()


def call_soon(call: Callable[[], None]) -> None:
    """Call something in the next turn of the loop that runs now."""
    asyncio.get_running_loop().call_soon(call)
