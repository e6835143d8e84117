"""Runs the parts of the agent that work on their own, and looks after them.

A part is a coroutine that goes on until it is told to stop. One that ends by itself has died. A
part that can begin anew is restarted, each time a little later; one that dies again and again,
or cannot begin anew, ends the agent: it stops in order, delivers what it can, and exits with a
status that says so. A telemetry agent that is half alive loses data without anybody noticing.

Which part dies of what is a table in agent.py.
"""

from __future__ import annotations

import asyncio
import logging

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable
    from typing import Any

    from mini_agent.flow.clock import Clock

    Work = Callable[[], Coroutine[Any, Any, None]]

log = logging.getLogger(__name__)

# Deaths in a row after which a part is given up. With the waits below that takes some six
# seconds: long enough for what is transient on one host, short enough to be noticed.
RESTARTS_MAX = 5
RESTART_S_MIN = 0.2
RESTART_S_MAX = 5.0

# A part that worked so long has recovered; its next death is a first one again.
RECOVERED_S = 60.0


class Parts:
    """The running parts, by name.

    Attributes:
        dead: The first part that was given up, or None.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._ending: set[str] = set()
        self._death = asyncio.Event()
        self.dead: str | None = None

    def start(
        self, name: str, work: Work, *, restarts_max: int = RESTARTS_MAX, may_end: bool = False
    ) -> None:
        """Run a part.

        Args:
            work: Makes the coroutine; called again for each restart.
            restarts_max: Deaths in a row that are followed by a restart.
            may_end: It is done when its work is done; only an error is a death.
        """
        assert name not in self._tasks, name
        keeping = self._keep(name, work, restarts_max, may_end)
        self._tasks[name] = asyncio.get_running_loop().create_task(keeping, name=name)

    async def wait_death(self) -> None:
        """Wait until a part is given up."""
        await self._death.wait()

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

    def let_end(self, *names: str) -> None:
        """From now on it is no death when these parts end."""
        self._ending.update(names)

    async def cancel(self) -> None:
        """End every part now and wait until it has."""
        self._ending.update(self._tasks)
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)

    async def _keep(self, name: str, work: Work, restarts_max: int, may_end: bool) -> None:
        deaths = 0
        while True:
            began_s = self._clock.steady_s()
            error = await _outcome(work)
            if error is None and (may_end or name in self._ending):
                return
            if self._clock.steady_s() - began_s >= RECOVERED_S:
                deaths = 0
            deaths += 1
            if deaths > restarts_max or name in self._ending:
                log.error("%s died and is given up", name, exc_info=error)
                self._give_up(name)
                return
            pause_s = min(RESTART_S_MAX, RESTART_S_MIN * 2.0 ** (deaths - 1))
            log.error("%s died; starting it again in %.1f s", name, pause_s, exc_info=error)
            await asyncio.sleep(pause_s)

    def _give_up(self, name: str) -> None:
        if self.dead is None:
            self.dead = name
        self._death.set()


async def run_until(stop: asyncio.Event, works: Iterable[Coroutine[Any, Any, None]]) -> None:
    """Run works that never end by themselves until `stop` is set, then end them.

    An error of one ends the others and comes out.
    """
    tasks = [asyncio.ensure_future(work) for work in works]
    stopping = asyncio.ensure_future(stop.wait())
    try:
        await asyncio.wait([stopping, *tasks], return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in (stopping, *tasks):
            task.cancel()
        ends = await asyncio.gather(*tasks, return_exceptions=True)
    if not stop.is_set():
        raise next(end for end in ends if isinstance(end, Exception))


async def _outcome(work: Work) -> BaseException | None:
    """How a part ended; the supervisor's edge, where everything is caught and nothing hidden."""
    try:
        await work()
    except asyncio.CancelledError as error:
        # Of something that the part waited for, unless it was the part that was told to end.
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        return error
    except Exception as error:  # noqa: BLE001 - one of the four edges
        return error
    return None
