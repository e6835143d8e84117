"""The agent with one part that dies: fragile_agent.py PART DEATHS.

The part's work is replaced by one that raises so many times before it does what it should;
everything else is the agent as it is.
"""

from __future__ import annotations

import sys
from typing import Any

from mini_agent import cli
from mini_agent.flow import supervise
from mini_agent.forward.forwarder import Forwarder
from mini_agent.listen.http import HttpServer
from mini_agent.listen.stream import StreamListener

WORKS = {
    "forwarder": (Forwarder, "run"),
    "listener": (StreamListener, "run"),
    "connection watch": (HttpServer, "watch"),
}


def break_part(part: str, deaths: int) -> None:
    owner, name = WORKS[part]
    work = getattr(owner, name)
    died = 0

    async def fragile(self: Any) -> None:
        nonlocal died
        if died < deaths:
            died += 1
            raise RuntimeError("killed on purpose")
        await work(self)

    setattr(owner, name, fragile)


break_part(sys.argv[1], int(sys.argv[2]))
# Six seconds of restarts are for users, not for tests.
supervise.RESTART_S_MIN = 0.05
sys.exit(cli.main(["run"]))
