"""Long requests in turns of the event loop: others are served in between.

A receiver writes its work as steps: an iterator that gives None where it may stop for a while,
and the answer at its end. What is done within one turn costs nothing more than that.
"""

from __future__ import annotations

from mini_agent.wire.http import Response, Unfinished

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Steps = Iterator[Response | None]

# How long one request may have the loop at a time. Longer turns make the others wait; with shorter
# ones the loop costs more than it gives. A quarter of the 20 ms that nothing on it may take, as a
# step is finished that has begun.
TURN_S = 0.005


def in_turns(steps: Steps, steady_s: Callable[[], float]) -> Response | Unfinished:
    """The answer when it is there within a turn, else what gives it later.

    Args:
        steady_s: The time, by a clock that never goes back.
    """
    answer = _take_turn(steps, steady_s)
    return Unfinished(lambda: _take_turn(steps, steady_s)) if answer is None else answer


def _take_turn(steps: Steps, steady_s: Callable[[], float]) -> Response | None:
    until_s = steady_s() + TURN_S
    for answer in steps:
        if answer is not None:
            return answer
        if steady_s() >= until_s:
            return None
    raise AssertionError("a request without an answer")
