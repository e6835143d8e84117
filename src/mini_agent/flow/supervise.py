"""Runs the parts of the agent that work on their own, and notices when one dies.

A part is a coroutine that goes on until it is told to stop. One that ends by itself is a fault
of ours: the agent then stops in order, delivering what it can, and exits with a status that says
so, because a telemetry agent that is half alive loses data without anybody noticing.
"""

from __future__ import annotations

import asyncio
import logging

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Coroutine
    from typing import Any

log = logging.getLogger(__name__)


class Parts:
    """The running parts, by name."""

    def __init__(self) -> None:
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._ending: set[str] = set()
        self._death = asyncio.Event()
        self.dead: str | None = None

    def start(self, name: str, work: Coroutine[Any, Any, None], may_end: bool = False) -> None:
        """Run a part.

        Args:
            may_end: It is done when its work is done; only an error is a death.
        """
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._tasks[name] = task
        if may_end:
            self._ending.add(name)
        task.add_done_callback(lambda done: self._ended(name, done))

    async def wait_death(self) -> str:
        """Wait until a part dies; its name."""
        await self._death.wait()
        assert self.dead is not None
        return self.dead

    async def wait_end(self, name: str, seconds_max: float, hurry: asyncio.Event) -> bool:
        """Wait until a part that was told to stop has ended.

        Returns:
            False when the time was up or `hurry` was set first.
        """
        self._ending.add(name)
        task = self._tasks[name]
        hurried = asyncio.ensure_future(hurry.wait())
        await asyncio.wait(
            {task, hurried}, timeout=seconds_max, return_when=asyncio.FIRST_COMPLETED
        )
        hurried.cancel()
        return task.done()

    async def cancel(self) -> None:
        """End every part now and wait until it has."""
        self._ending.update(self._tasks)
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)

    def _ended(self, name: str, task: asyncio.Task[None]) -> None:
        error = None if task.cancelled() else task.exception()
        if error is None and name in self._ending:
            return
        log.error("the part %s died; stopping", name, exc_info=error)
        if self.dead is None:
            self.dead = name
        self._death.set()
