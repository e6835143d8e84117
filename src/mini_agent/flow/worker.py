"""A thread that does one thing at a time for the event loop.

For work that blocks and releases the interpreter's lock (sockets, TLS, compression, SQLite). The
thread is a daemon: a call that hangs for ever cannot keep the program from ending.
"""

from __future__ import annotations

import asyncio
import queue
import threading

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, TypeVar

    T = TypeVar("T")


class Worker:
    """Runs calls one after the other in a thread of its own.

    Args:
        name: The thread's name.
    """

    def __init__(self, name: str) -> None:
        self._calls: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def call(self, function: Callable[..., T], *arguments: Any) -> asyncio.Future[T]:
        """Run a function in the thread; await the result.

        Cancelling: the function runs on; its result is thrown away.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()

        def settle(result: T | None, error: BaseException | None) -> None:
            if future.cancelled():
                return
            if error is not None:
                future.set_exception(error)
            else:
                future.set_result(result)  # type: ignore[arg-type]

        def call() -> None:
            result, error = None, None
            try:
                result = function(*arguments)
            except BaseException as raised:  # noqa: BLE001 - handed to whoever awaits
                error = raised
            # The loop is closed when the program no longer waits for the result.
            if not loop.is_closed():
                loop.call_soon_threadsafe(settle, result, error)

        self._calls.put(call)
        return future

    def close(self) -> None:
        """End the thread after the calls under way; does not wait for it."""
        self._calls.put(None)

    def _run(self) -> None:
        while (call := self._calls.get()) is not None:
            call()
