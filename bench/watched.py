"""What `bench/turns.py` puts into an agent's process before the agent is loaded.

The loop's selector notes when it was left and when it was asked again; what lies between is a
turn of the loop. The notes go into a file that both processes have mapped, so that nobody has to
ask the loop for them. Imports nothing that the agent does not import by itself.

Writer and readers share a layout: a count of turns, then a ring of turns, each `began_s` and
`ended_s` by the clock that all processes of a machine share, and `cpu_s`, all of them doubles.
"""

from __future__ import annotations

import mmap
import os
import selectors
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any

# Several times what the longest request takes.
TURNS_MAX = 1 << 17
FIELDS = 3
FILE_BYTES = 8 * (1 + FIELDS * TURNS_MAX)

# How much faster the wall clock goes. Stats wait ten to twenty seconds of it until they leave;
# what is done then is the same.
HURRY = 5


def open_notes(path: str) -> memoryview[float]:
    """The file's doubles; both sides call this."""
    descriptor = os.open(path, os.O_RDWR)
    try:
        return memoryview(mmap.mmap(descriptor, FILE_BYTES)).cast("d")
    finally:
        os.close(descriptor)


def place(path: str) -> None:
    """Watch the loop that this process is going to run."""
    notes = open_notes(path)
    taken = selectors.DefaultSelector

    class Watched(taken):  # type: ignore[misc, valid-type]
        def select(self, timeout: float | None = None) -> Any:
            _ended(notes, began)
            events = super().select(timeout)
            began[:] = time.perf_counter(), time.thread_time()
            return events

    began = [time.perf_counter(), time.thread_time()]

    def choose() -> Any:
        # The first one is the loop's; a delivery has selectors too, in a thread of its own.
        selectors.DefaultSelector = taken  # type: ignore[misc]
        return Watched()

    selectors.DefaultSelector = choose  # type: ignore[assignment, misc]
    _hurry()


def _ended(notes: memoryview[float], began: list[float]) -> None:
    count = int(notes[0])
    at = 1 + FIELDS * (count % TURNS_MAX)
    notes[at] = began[0]
    notes[at + 1] = time.perf_counter()
    notes[at + 2] = time.thread_time() - began[1]
    # Last of all: what is counted is complete.
    notes[0] = count + 1


def _hurry() -> None:
    from mini_agent.flow.clock import Clock

    began_ns = time.time_ns()

    def hurried_ns(self: Clock) -> int:
        return began_ns + HURRY * (time.time_ns() - began_ns)

    Clock.wall_ns = hurried_ns  # type: ignore[method-assign]
