"""Accepting connections on listening stream sockets.

Why not asyncio's own server: when descriptors run out its accept loop reports once per place in
the backlog and again every second (selector loops), or closes the listening socket for good
(proactor loop). Ours waits a second, says so once a minute, and goes on.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from functools import partial

from mini_agent.flow.repeat import Repeated

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from mini_agent.listen.bind import BoundTcp
    from mini_agent.listen.http import HttpServer

# Long enough for descriptors to be given back, short enough for a client to wait it out.
# Source: asyncio waits the same (ACCEPT_RETRY_DELAY).
ACCEPT_RETRY_S = 1.0

_log = logging.getLogger(__name__)


class StreamListener:
    """The way in over TCP: gives every connection on the bound sockets to one HTTP server.

    Args:
        bound: Taken over by `start`, released by `stop`.
        server: Makes the protocol of each connection.
    """

    def __init__(self, bound: Sequence[BoundTcp], server: HttpServer) -> None:
        self._bound = list(bound)
        self._server = server
        self._accepting: set[asyncio.Task[None]] = set()
        self._repeated = Repeated(server.clock)

    async def start(self) -> None:
        """Begin to accept; connections that waited in the backlog come first."""
        for bound in self._bound:
            for descriptor in bound.take():
                listening = socket.socket(fileno=descriptor)
                listening.setblocking(False)
                accepting = asyncio.create_task(self._accept(listening))
                self._accepting.add(accepting)
                # A callback and not a finally: it also runs for a task that never began.
                accepting.add_done_callback(partial(_close_after, listening))

    def stop(self) -> None:
        """Accept nothing more; the sockets are closed one turn of the loop later."""
        for accepting in self._accepting:
            accepting.cancel()
        self._accepting.clear()
        for bound in self._bound:
            bound.close()

    async def _accept(self, listening: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                connection, _ = await loop.sock_accept(listening)
            except ConnectionError:
                continue  # The client left while it waited in the backlog.
            except OSError as error:
                self._complain(error)
                await asyncio.sleep(ACCEPT_RETRY_S)
                continue
            try:
                await loop.connect_accepted_socket(self._server.protocol, connection)
            except OSError:
                connection.close()  # Reset before it was ours; there is nobody to tell.

    def _complain(self, error: OSError) -> None:
        reason = error.strerror or str(error)
        suppressed = self._repeated.may(reason)
        if suppressed is not None:
            again = f" ({suppressed} times since the last word)" if suppressed else ""
            _log.warning("cannot accept connections, trying again: %s%s", reason, again)


def _close_after(listening: socket.socket, _ended: asyncio.Task[None]) -> None:
    listening.close()
