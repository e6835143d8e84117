"""The agent with one part that dies when told to: fragile_agent.py PART [DEATHS].

PART is what the part's name begins with. It dies DEATHS times as soon as it has begun to work,
and once more for each "k" that comes by standard input. Everything else is the agent as it is.
"""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from collections.abc import Callable, Coroutine
from typing import Any

from mini_agent import cli, entrances
from mini_agent.flow import supervise
from mini_agent.flow.supervise import Parts

Work = Callable[[], Coroutine[Any, Any, None]]


class Fragile:
    """The work of one part.

    Args:
        deaths: How often it dies by itself.
    """

    def __init__(self, work: Work, deaths: int) -> None:
        self._work = work
        self._deaths = deaths
        self._working: asyncio.Future[None]
        self._loop = asyncio.get_running_loop()
        threading.Thread(target=self._listen, daemon=True).start()

    async def __call__(self) -> None:
        self._working = asyncio.ensure_future(self._work())
        try:
            # One turn, so that it dies at work and not before.
            await asyncio.sleep(0)
            self._break_off()
            await asyncio.wait([self._working])
        finally:
            self._working.cancel()
            await asyncio.gather(self._working, return_exceptions=True)
        if self._deaths:
            self._deaths -= 1
            raise RuntimeError("killed on purpose")
        await self._working

    def _break_off(self) -> None:
        if self._deaths:
            self._working.cancel()

    def _die(self) -> None:
        self._deaths += 1
        self._break_off()

    def _listen(self) -> None:
        # Not through sys.stdin: its lock would be held when the interpreter ends.
        while told := os.read(0, 1):
            if told == b"k":
                self._loop.call_soon_threadsafe(self._die)


def make_fragile(prefix: str, deaths: int) -> None:
    start = Parts.start

    def start_fragile(self: Parts, name: str, work: Work, **options: Any) -> None:
        start(self, name, Fragile(work, deaths) if name.startswith(prefix) else work, **options)

    Parts.start = start_fragile  # type: ignore[method-assign]


make_fragile(sys.argv[1], int((*sys.argv, "0")[2]))
# Seconds are for users, not for tests.
supervise.RESTART_S_MIN = 0.01
entrances.TCP_RETRY_S = 0.05
sys.exit(cli.main(["run"]))
