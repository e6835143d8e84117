r"""Accepting clients on a named pipe. Windows only; elsewhere this module is not imported.

    instance:  made ──► waits ──► a client opens it ──► served ──► closed when the client leaves
                          ▲                │
                          └── the next one is made here, before the client is served

Why several instances wait. A client's open succeeds only while an instance without a client
exists; .NET tracers open the pipe anew for each request, and a burst of them finds one waiting
instance taken. So `bound.instances` works each keep one waiting. An instance that waits is never
given up for another reason than `stop`: a client may have opened it a moment ago, and would be cut
off. (The reference does that whenever one of its connections ends; see docs/differences.md.)

Why not asyncio's own pipe server: it lets one instance wait, serves messages instead of bytes,
lets remote clients in, takes no security descriptor, and ends for good at the first error that it
does not know. What is used of asyncio instead is private: `IocpProactor.accept_pipe` and
`_make_duplex_pipe_transport` of the loop, which are what that server itself stands on. They are
the same from 3.11 to 3.14, and tests/unit/listen/test_pipe.py looks at their signatures.

At most `clients_max` clients are served at a time. A client beyond them waits in its instance for
its turn, and when all of those are taken it is told "busy" and waits, as all clients of pipes can.
There is always an instance, so the pipe never seems to be gone.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sys

from mini_agent.flow.repeat import Repeated
from mini_agent.flow.supervise import run_until

# On other systems this module cannot be imported; for their type checker it ends here.
assert sys.platform == "win32"

import _winapi  # noqa: E402
from asyncio.windows_utils import PipeHandle  # noqa: E402

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from mini_agent.listen.bind_pipe import BoundPipe
    from mini_agent.listen.http import HttpServer

# With those that wait below the 128 pipes that an Azure sandbox allows an application, its own and
# those for metrics included. Source: transport-contract 5.6.
CLIENTS_MAX = 64

# How long to wait after an error that is not the client's.
RETRY_S = 1.0

_log = logging.getLogger(__name__)


class PipeListener:
    """Gives every client of one pipe to the HTTP server.

    Args:
        bound: Taken over; released when `run` ends after `stop`.
        server: Makes the protocol of each client.
        clients_max: Most clients served at a time.
    """

    def __init__(
        self, bound: BoundPipe, server: HttpServer, clients_max: int = CLIENTS_MAX
    ) -> None:
        self._bound = bound
        self._server = server
        self._clients_max = clients_max
        self._waiting: set[_Instance] = set()
        self._clients: set[_Instance] = set()
        self._freed = asyncio.Event()
        self._stopping = asyncio.Event()
        self._repeated = Repeated(server.clock)

    @property
    def url(self) -> str:
        """The path of the pipe."""
        return self._bound.url

    async def run(self) -> None:
        """Accept until `stop`; clients that came before are served first.

        An error that is none of the clients' comes out; the instances go on waiting then, so
        that nobody is cut off and the next call finds them.
        """
        self._waiting.update(_Instance(handle, self._left) for handle in self._bound.take())
        spare = list(self._waiting)
        places = [spare.pop() if spare else None for _ in range(self._bound.instances)]
        await run_until(self._stopping, map(self._accept, places))
        self.close()

    def stop(self) -> None:
        """Accept nothing more; the waiting instances are closed one turn of the loop later."""
        self._stopping.set()

    def close(self) -> None:
        """Release the waiting instances; may be repeated. Clients belong to the server."""
        for instance in list(self._waiting):
            instance.close()
        self._bound.close()

    async def _accept(self, instance: _Instance | None) -> None:
        """Keep one instance waiting, and give each client to the server."""
        while True:
            if instance is None:
                instance = await self._make_patiently()
            came = await self._wait_client(instance)
            self._waiting.discard(instance)
            following = self._make()
            if came:
                await self._serve_in_turn(instance)
            else:
                instance.close()
            instance = following

    async def _wait_client(self, instance: _Instance) -> bool:
        """Wait until a client has opened the instance; False when it has left already."""
        proactor = asyncio.get_running_loop()._proactor  # type: ignore[attr-defined]
        try:
            await proactor.accept_pipe(instance)
        except BrokenPipeError:
            return False
        except OSError as error:
            self._complain(error)
            await asyncio.sleep(RETRY_S)
            return False
        return True

    async def _serve_in_turn(self, instance: _Instance) -> None:
        try:
            while len(self._clients) >= self._clients_max:
                self._freed.clear()
                await self._freed.wait()
        except asyncio.CancelledError:
            instance.close()
            raise
        self._clients.add(instance)
        self._serve(instance)

    def _serve(self, instance: _Instance) -> None:
        try:
            protocol = self._server.protocol()
        except BaseException:
            instance.close()
            raise
        # The loop keeps the transport, and the transport the instance and the protocol.
        asyncio.get_running_loop()._make_duplex_pipe_transport(  # type: ignore[attr-defined]
            instance, protocol
        )

    async def _make_patiently(self) -> _Instance:
        while True:
            self._freed.clear()
            if (made := self._make()) is not None:
                return made
            # A client that leaves gives back what Windows may be short of.
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._freed.wait(), RETRY_S)

    def _make(self) -> _Instance | None:
        """Make an instance, or None where Windows refuses."""
        try:
            made = _Instance(self._bound.make(), self._left)
        except OSError as error:
            self._complain(error)
            return None
        self._waiting.add(made)
        return made

    def _left(self, instance: _Instance) -> None:
        self._waiting.discard(instance)
        self._clients.discard(instance)
        self._freed.set()

    def _complain(self, error: OSError) -> None:
        reason = error.strerror or str(error)
        if self._repeated.may(reason) is not None:
            _log.warning("cannot accept clients on %s now, trying again: %s", self.url, reason)


class _Instance(PipeHandle):
    """One place for one client; says when it is closed.

    The transport closes it, and tells nobody else.
    """

    def __init__(self, handle: int, closed: Callable[[_Instance], None]) -> None:
        super().__init__(handle)
        self._closed = closed

    def close(self, *, CloseHandle: Callable[[int], object] = _winapi.CloseHandle) -> None:
        """Close the handle; may be repeated."""
        super().close(CloseHandle=CloseHandle)
        self._closed(self)
