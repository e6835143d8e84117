"""Accepting connections on one listening stream socket: TCP or Unix.

Why not asyncio's own server: when descriptors run out its accept loop reports once per place in
the backlog and again every second (selector loops), or closes the listening socket for good
(proactor loop). Ours waits a second, says so once a minute, and goes on.
"""

from __future__ import annotations

import asyncio
import logging
import socket

from mini_agent.flow.repeat import Repeated
from mini_agent.flow.supervise import run_until

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mini_agent.listen.bind import BoundSocket
    from mini_agent.listen.http import HttpServer

# Long enough for descriptors to be given back, short enough for a client to wait it out.
# Source: asyncio waits the same (ACCEPT_RETRY_DELAY).
ACCEPT_RETRY_S = 1.0

_log = logging.getLogger(__name__)


class StreamListener:
    """Gives every connection on one bound address to the HTTP server.

    Args:
        bound: Taken over; released when `run` ends after `stop`.
        server: Makes the protocol of each connection.
    """

    def __init__(self, bound: BoundSocket, server: HttpServer) -> None:
        self._bound = bound
        self._server = server
        self._sockets: list[socket.socket] = []
        self._stopping = asyncio.Event()
        self._repeated = Repeated(server.clock)

    @property
    def url(self) -> str:
        """The address, as tracers take it."""
        return self._bound.url

    async def run(self) -> None:
        """Accept until `stop`; connections that waited in the backlog come first.

        An error that is none of the clients' comes out; the sockets stay open then, so that the
        next call goes on with them.
        """
        for descriptor in self._bound.take():
            listening = socket.socket(fileno=descriptor)
            listening.setblocking(False)
            self._sockets.append(listening)
        await run_until(self._stopping, map(self._accept, self._sockets))
        self.close()

    def stop(self) -> None:
        """Accept nothing more; the sockets are closed one turn of the loop later."""
        self._stopping.set()

    def close(self) -> None:
        """Release the sockets, accepting or not; may be repeated."""
        for listening in self._sockets:
            listening.close()
        self._sockets.clear()
        self._bound.close()

    async def _accept(self, listening: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                connection = await _next_connection(loop, listening)
            except ConnectionError:
                continue  # The client left while it waited in the backlog.
            except OSError as error:
                if self._repeated.may("accept") is not None:
                    _log.warning(
                        "cannot accept connections on %s now, trying again: %s",
                        self.url,
                        error.strerror,
                    )
                await asyncio.sleep(ACCEPT_RETRY_S)
                continue
            try:
                await loop.connect_accepted_socket(self._server.protocol, connection)
            except OSError:
                connection.close()  # Reset before it was ours; there is nobody to tell.


async def _next_connection(
    loop: asyncio.AbstractEventLoop, listening: socket.socket
) -> socket.socket:
    """The next connection; one that has been taken is never lost to a cancellation.

    `loop.sock_accept` of selector loops does lose it, when it is cancelled in the turn in which a
    client came: the client would wait for an answer until the garbage collector comes by.
    """
    while True:
        try:
            connection, _ = listening.accept()
        except (BlockingIOError, InterruptedError):
            readable = loop.create_future()
        else:
            connection.setblocking(False)
            return connection
        try:
            loop.add_reader(listening, _settle, readable)
        except NotImplementedError:
            # The proactor loop's closes what it took when it is cancelled.
            return (await loop.sock_accept(listening))[0]
        try:
            await readable
        finally:
            loop.remove_reader(listening)


def _settle(readable: asyncio.Future[None]) -> None:
    if not readable.done():
        readable.set_result(None)
