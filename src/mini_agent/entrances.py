"""Every way in at once: which addresses are open, and which one is tried again.

A tracer picks a transport when it starts and never changes it, so every configured one is
served, and one that cannot be had is no reason to close the others. A TCP port that another
program holds is asked for again, quietly, until its owner goes.

Who calls what: cli.py opens what can be opened before anything heavy is loaded; agent.py gives
that to Entrances, which listens and closes.
"""

from __future__ import annotations

import asyncio
import logging

from mini_agent.errors import StartError
from mini_agent.listen import bind
from mini_agent.listen.stream import StreamListener

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Protocol

    from mini_agent.flow.supervise import Parts
    from mini_agent.listen.bind import BoundSocket
    from mini_agent.listen.http import HttpServer

    class Listener(Protocol):
        """One way in, whatever it is made of."""

        @property
        def url(self) -> str:
            """The address, as tracers take it."""

        async def run(self) -> None:
            """Accept until `stop`."""

        def stop(self) -> None:
            """Accept nothing more."""

        def close(self) -> None:
            """Release the address."""


log = logging.getLogger(__name__)

# How often a TCP port that was taken is asked for again.
TCP_RETRY_S = 5.0


class Entrances:
    """The listeners of one HTTP server.

    Args:
        sockets: Open already.
        others: Further listeners, such as a named pipe.
        missing_tcp: Host and port of a TCP address that could not be had, or None.
        changed: Called when the open addresses are others than before.
    """

    def __init__(
        self,
        server: HttpServer,
        sockets: Sequence[BoundSocket],
        others: Sequence[Listener] = (),
        missing_tcp: tuple[str, int] | None = None,
        changed: Callable[[], None] = lambda: None,
    ) -> None:
        self._server = server
        self._missing_tcp = missing_tcp
        self._changed = changed
        self._stopping = False
        self._listeners: list[Listener] = [
            *(StreamListener(bound, server) for bound in sockets),
            *others,
        ]
        self.port = next((bound.port for bound in sockets if bound.port), 0)

    @property
    def urls(self) -> list[str]:
        """The open addresses, TCP first."""
        return [listener.url for listener in self._listeners]

    @property
    def local_path(self) -> str:
        """The socket file or the pipe, or empty."""
        local = [url for url in self.urls if not url.startswith("http://")]
        return local[0].removeprefix("unix://") if local else ""

    def start(self, parts: Parts) -> None:
        """Listen on every address."""
        for listener in self._listeners:
            parts.start(_part_name(listener), listener.run)
        if self._missing_tcp is not None:
            parts.start("TCP port retry", lambda: self._retry_tcp(parts), may_end=True)

    def stop(self, parts: Parts) -> None:
        """Accept nothing more, on no address, and ask for none."""
        self._stopping = True
        parts.let_end(*map(_part_name, self._listeners))
        for listener in self._listeners:
            listener.stop()

    def close(self) -> None:
        """Release every address; may be repeated."""
        for listener in self._listeners:
            listener.close()

    async def _retry_tcp(self, parts: Parts) -> None:
        assert self._missing_tcp is not None
        while True:
            await asyncio.sleep(TCP_RETRY_S)
            if self._stopping:
                return
            try:
                bound = bind.bind_tcp(*self._missing_tcp)
            except StartError as error:
                log.debug("%s", error)
                continue
            listener = StreamListener(bound, self._server)
            self._listeners.insert(0, listener)
            self.port = bound.port
            parts.start(_part_name(listener), listener.run)
            log.warning("%s is free now: tracers that use TCP are served from here on", bound.url)
            self._changed()
            return


def say_missing_tcp(port: int, error: StartError, others: str) -> str:
    """What the operator should know when TCP cannot be had and something else serves."""
    from mini_agent.listen.holder import holder_of

    owner = holder_of(port)
    return (
        f"{error}{f' ({owner})' if owner else ''}; serving {others} alone: tracers "
        f"that know only TCP reach whoever holds port {port}, not this agent. Trying again."
    )


def _part_name(listener: Listener) -> str:
    return f"listener {listener.url}"
