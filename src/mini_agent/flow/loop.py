"""asyncio as the agent has it: loaded without TLS, and with a loop that serves some at a time.

Imported before anything else that imports asyncio.

To asyncio TLS is optional: it asks for `ssl` and does without where there is none. No event loop
of ours speaks TLS, and `ssl` brings OpenSSL, a tenth of a start. So asyncio finds none; delivery
does, later and in its own thread. A module that is None in `sys.modules` cannot be imported.

Source: Python's reference, "The module cache"; asyncio in 3.11 to 3.14.

asyncio calls everyone who is ready within one turn, and only to read what a thousand clients have
sent takes it 100 ms. Linux says who is ready in turn, so to ask it for some of them is enough:
those it has named stand behind the others the next time. Elsewhere the loop is asyncio's own.
"""

from __future__ import annotations

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable
    from typing import Any

# Connections and the like that are served within a turn of the loop. To read a request of 64 KiB
# and to write its answer takes 0.1 ms, which makes 7 of the 20 ms that nothing on the loop may
# take; and to ask the system once more costs each of so many nothing that could be measured.
EVENTS_MAX = 64


def _load() -> None:
    # Whoever has loaded one of them into this process may use it.
    if "asyncio" in sys.modules or "ssl" in sys.modules:
        return
    sys.modules["ssl"] = None  # type: ignore[assignment]
    try:
        import asyncio  # noqa: F401
    finally:
        del sys.modules["ssl"]


class _Some:
    """A `select.epoll`, as a selector uses it, that asks for EVENTS_MAX at most."""

    __slots__ = ("_poll", "close", "fileno", "modify", "register", "unregister")

    def __init__(self, asking: Any) -> None:
        self._poll: Callable[[float, int], list[tuple[int, int]]] = asking.poll
        self.register, self.unregister = asking.register, asking.unregister
        self.modify, self.close, self.fileno = asking.modify, asking.close, asking.fileno

    def poll(self, timeout_s: float, events_max: int) -> list[tuple[int, int]]:
        """Wait for some."""
        return self._poll(timeout_s, min(events_max, EVENTS_MAX))


def make_loop() -> asyncio.AbstractEventLoop:
    """A loop that serves EVENTS_MAX at a time, where the system can say who is next."""
    import asyncio
    import selectors

    if not hasattr(selectors, "EpollSelector"):
        return asyncio.new_event_loop()
    selector: Any = selectors.DefaultSelector()
    # There is no public place to say it; this one is the same in Python 3.11 to 3.14.
    selector._selector = _Some(selector._selector)
    return asyncio.SelectorEventLoop(selector)


_load()
