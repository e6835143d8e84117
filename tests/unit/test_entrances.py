"""entrances: what is open, and what is asked for again."""

from __future__ import annotations

import asyncio
import socket

import pytest
from kit.clock import HandClock
from kit.contracts import make_server
from kit.loopback import WAIT_S_MAX

from mini_agent import entrances
from mini_agent.entrances import Entrances
from mini_agent.flow.supervise import Parts


@pytest.mark.parametrize("stopped", [False, True])
def test_a_port_that_becomes_free_is_taken_unless_the_agent_stops(
    monkeypatch: pytest.MonkeyPatch, stopped: bool
) -> None:
    monkeypatch.setattr(entrances, "TCP_RETRY_S", 0.0)

    async def scene() -> list[str]:
        parts = Parts(HandClock())
        with socket.create_server(("127.0.0.1", 0)) as holder:
            address = holder.getsockname()
            opened = Entrances(make_server(), [], missing_tcp=address)
            opened.start(parts)
            if stopped:
                opened.stop(parts)
        assert await parts.wait_end("TCP port retry", WAIT_S_MAX, asyncio.Event())
        urls = opened.urls
        opened.stop(parts)
        await parts.cancel()
        opened.close()
        return urls

    assert len(asyncio.run(scene())) == (not stopped)
