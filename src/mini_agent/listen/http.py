"""HTTP/1.1 on a stream: one server for TCP, Unix sockets and named pipes.

What this is. `HttpServer` is what the connections of all stream listeners share: routes, limits,
the count of bytes in uploads, the heads and answers that were seen before. One client's
connection, the state machine, is `listen.connection`. Neither knows a transport, a peer address
or telemetry.

How it works. A route is called on the loop when its request is complete, and its answer is
written before the next request is looked at: pipelined answers are in order by construction. An
answer that takes long is finished in turns (`listen.turns`), and others are served in between.
When many are ready at once, some are answered in this turn and the others in the next ones.

A refusal is written at once. The rest of a refused body is read and thrown away, because clients
on pipes write everything before they read; then the connection goes on. Where the framing cannot
be trusted the answer says close, and bytes are thrown away until the peer has closed: closing a
TCP socket with unread bytes would destroy the answer on its way.

    what                                       limit               answer
    ----                                       -----               ------
    bytes of a head                            header_bytes_max    431, close
    bytes of a body, declared or chunked       body_bytes_max      413
    bytes of all bodies not answered yet       uploads_bytes_max   429, Retry-After
    chunk framing without body                 header_bytes_max    400, close
    bytes thrown away after a refusal          drain_bytes_max     (answered before) close
    connections                                connections_max     503, Retry-After, close
    first byte of a head to its end            header_s_max        408, close
    end of the head to the end of the body     upload_s_max        408, close
    no byte within an upload                   pause_s_max         408, close
    an answer that is not read                 pause_s_max         the connection is cut
    between requests                           idle_s_max          silent close

    what                                                           answer
    ----                                                           ------
    unknown path                                                   404, empty
    method the route does not take                                 405 with Allow
    no length where a body is due                                  411, close
    refused, and the client waits for 100 Continue                 the refusal, close
    expects something else                                         417
    transfer coding other than chunked                             501, close
    version other than 1.0 and 1.1                                 505, close
    not HTTP, two lengths, bare line feeds, bad chunks             400, close
    input that ends within a request                               400, close
    ProtocolError of a route                                       its status
    any other exception of a route                                 500

Every refusal is in the ledger under "requests" with its reason. A peer that leaves between
requests is normal and leaves no trace. Nothing here waits while it holds state: callbacks of the
loop run to their end, so no field needs a lock.
"""

from __future__ import annotations

import asyncio
import logging
import time

from mini_agent.errors import ProtocolError
from mini_agent.flow import memory
from mini_agent.flow.repeat import Repeated
from mini_agent.listen.connection import HttpConnection, json_message
from mini_agent.listen.heads import KnownHeads
from mini_agent.listen.turns import Turns, call_soon
from mini_agent.wire.http import REASONS, Response, Unfinished

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from mini_agent.flow.clock import Clock
    from mini_agent.ledger import Ledger
    from mini_agent.wire.http import Request, Route

KIB, MIB = 1024, 1024 * 1024

# What the full agent takes at most. Source: transport-contract 3.7.
BODY_BYTES_MAX = 25 * MIB
# Two of the largest bodies and many small ones; what is beyond waits at the client.
UPLOADS_BYTES_MAX = 64 * MIB
# The heads of tracers are near 1 KiB; proxies and long host names add to it.
HEADER_BYTES_MAX = 16 * KIB
# A client keeps one to a few. The limit on open files must leave room for it.
CONNECTIONS_MAX = 1024
# Local clients send a head in one piece.
HEADER_S_MAX = 10.0
# The most patient tracer gives up after 15 s. Source: transport-contract 3.
UPLOAD_S_MAX = 60.0
PAUSE_S_MAX = 10.0
# Longer than the 90 s of Go clients, so that it is the client that closes.
IDLE_S_MAX = 120.0
# A longer body waits while the answer to another is being finished: its work would come on top
# of that within one turn of the loop. 120 spans; without compiled modules, 2 ms.
AT_ONCE_BYTES_MAX = 64 * KIB
# Clients that write everything before they read are heard to the end up to here.
DRAIN_BYTES_MAX = 100 * MIB
# Resolution of the time limits.
SWEEP_S = 1.0
# A sweep this late means that the process stood still (a frozen function, a stopped machine).
# Clients could not be heard meanwhile, so that time is not held against them.
STALL_S = 2.0
# Encoded answers remembered for the rest of a second, and the longest worth it: what tracers get
# is below 400 bytes, and a server says few different things.
ANSWERS_MAX = 16
ANSWER_BYTES_MAX = 1024
# Header names remembered in lower case, and the longest worth it; tracers send about 40.
HEADER_NAMES_MAX = 256
HEADER_NAME_BYTES_MAX = 64

_STATUS_LINES = {
    status: f"HTTP/1.1 {status} {reason}\r\n".encode() for status, reason in REASONS.items()
}
_DAYS = (b"Mon", b"Tue", b"Wed", b"Thu", b"Fri", b"Sat", b"Sun")
_MONTHS = tuple(b"Jan Feb Mar Apr May Jun Jul Aug Sep Oct Nov Dec".split())

_log = logging.getLogger(__name__)


class HttpLimits:
    """What one server takes; the table in the module's docstring says what happens beyond.

    Sizes in bytes, times in seconds of the steady clock.
    """

    __slots__ = (
        "body_bytes_max",
        "connections_max",
        "drain_bytes_max",
        "header_bytes_max",
        "header_s_max",
        "idle_s_max",
        "pause_s_max",
        "upload_s_max",
        "uploads_bytes_max",
    )

    def __init__(
        self,
        *,
        body_bytes_max: int = BODY_BYTES_MAX,
        uploads_bytes_max: int = UPLOADS_BYTES_MAX,
        header_bytes_max: int = HEADER_BYTES_MAX,
        connections_max: int = CONNECTIONS_MAX,
        header_s_max: float = HEADER_S_MAX,
        upload_s_max: float = UPLOAD_S_MAX,
        pause_s_max: float = PAUSE_S_MAX,
        idle_s_max: float = IDLE_S_MAX,
        drain_bytes_max: int = DRAIN_BYTES_MAX,
    ) -> None:
        # Otherwise the largest allowed body could never be received.
        assert body_bytes_max <= uploads_bytes_max
        self.body_bytes_max = body_bytes_max
        self.uploads_bytes_max = uploads_bytes_max
        self.header_bytes_max = header_bytes_max
        self.connections_max = connections_max
        self.header_s_max = header_s_max
        self.upload_s_max = upload_s_max
        self.pause_s_max = pause_s_max
        self.idle_s_max = idle_s_max
        self.drain_bytes_max = drain_bytes_max


class HttpServer:
    """What all connections of the agent's HTTP listeners share.

    Args:
        routes: By exact path.
        agent_state: Value of the `Datadog-Agent-State` header of every answer.
        soon: Calls something in the next turn of the loop.

    Attributes:
        heads: What need not be read again.
        upload_bytes: Body bytes received in requests that are not answered yet.
    """

    def __init__(
        self,
        routes: Mapping[str, Route],
        limits: HttpLimits,
        ledger: Ledger,
        clock: Clock,
        agent_state: str,
        soon: Callable[[Callable[[], None]], object] = call_soon,
    ) -> None:
        self.routes = routes
        self.limits = limits
        self.ledger = ledger
        self.clock = clock
        self.upload_bytes = 0
        # Of those, in requests that are complete.
        self._unfinished_bytes = 0
        self.stopping = False
        self._connections: set[HttpConnection] = set()
        self._empty = asyncio.Event()
        self._empty.set()
        self._turns = Turns(soon, self._note_empty, clock.steady_s)
        self.heads = KnownHeads()
        self._header_names: dict[bytes, str] = {}
        self._agent_state = agent_state.encode("latin-1")
        self._stamp = b""
        self._stamp_until_s = float("-inf")
        # Answers that were encoded with this stamp, by all that is in them.
        self._answers: dict[tuple[object, ...], bytes] = {}
        self._repeated = Repeated(clock)
        # Bodies come and go by the hundred kilobytes.
        memory.keep_at_hand()

    def set_agent_state(self, agent_state: str) -> None:
        """From now on answer with this state."""
        self._agent_state = agent_state.encode("latin-1")
        self._stamp_until_s = float("-inf")

    @property
    def connection_count(self) -> int:
        """Connections open now, those being turned away included."""
        return len(self._connections)

    def protocol(self) -> HttpConnection:
        """Make the protocol of a new connection."""
        return HttpConnection(self)

    async def watch(self, every_s: float = SWEEP_S) -> None:
        """Close what is overdue, until cancelled."""
        while True:
            before_s = self.clock.steady_s()
            await asyncio.sleep(every_s)
            late_s = self.clock.steady_s() - before_s - every_s
            if late_s > STALL_S:
                for connection in self._connections:
                    connection.forgive(late_s)
            else:
                self.sweep()
            if self._turns.is_idle:
                memory.look_at_the_rest()

    def sweep(self) -> None:
        """Hold every connection against the time limits once."""
        now_s = self.clock.steady_s()
        for connection in list(self._connections):
            connection.check_time(now_s)

    def stop(self) -> None:
        """Close idle connections; requests under way are finished and answered with close.

        Stop the listeners first, and give the loop a turn: what has reached this machine by
        then is read before and counts as under way.
        """
        self.stopping = True
        for connection in list(self._connections):
            connection.stop()

    async def wait_idle(self, timeout_s: float) -> bool:
        """Wait until no connection is left, and no request whose client has gone.

        Returns:
            False when the time is over first.
        """
        try:
            await asyncio.wait_for(self._empty.wait(), timeout_s)
        except TimeoutError:
            return False
        return True

    def abort(self) -> None:
        """Cut every connection now, and give up what is not answered."""
        self._turns.clear()
        self.upload_bytes -= self._unfinished_bytes
        self._unfinished_bytes = 0
        self._note_empty()
        for connection in list(self._connections):
            connection.abort()

    def add(self, connection: HttpConnection) -> None:
        """Take a connection that has just been made into the count."""
        self._connections.add(connection)
        self._empty.clear()

    def remove(self, connection: HttpConnection) -> None:
        """Forget a connection that is lost."""
        self._connections.discard(connection)
        self._note_empty()

    def _note_empty(self) -> None:
        if not self._connections and self._turns.is_idle:
            self._empty.set()

    def read_headers(self, fields: dict[bytes, bytes]) -> dict[str, str]:
        """Headers as text, names in lower case; the first of a repeated name counts."""
        names = self._header_names
        try:
            return {
                names[name]: value.decode("latin-1") for name, value in reversed(fields.items())
            }
        except KeyError:
            pass
        headers = {}
        for name, value in reversed(fields.items()):
            text = name.decode("latin-1").lower()
            headers[text] = value.decode("latin-1")
            if len(names) < HEADER_NAMES_MAX and len(name) <= HEADER_NAME_BYTES_MAX:
                names[name] = text
        return headers

    def answer(self, route: Route, request: Request) -> Response | Unfinished:
        """Call a route, now or later. The request's edge: what it raises ends this request only."""
        turns = self._turns
        is_short = len(request.body) <= AT_ONCE_BYTES_MAX
        if turns.is_spent or not (is_short or turns.is_idle):
            later = _Short if is_short else Unfinished
            return later(_call_later(route, request).__next__)
        began_s = self.clock.steady_s()
        try:
            return route.handler(request)
        except Exception as error:  # noqa: BLE001 - one of the four edges
            return self._refuse(request, error)
        finally:
            turns.count(began_s)

    def finish(
        self, unfinished: Unfinished, request: Request, done: Callable[[Response], None]
    ) -> None:
        """Finish an answer in later turns of the loop, then call `done` with it.

        Its body counts in `upload_bytes` until then. The same edge as `answer`.
        """
        body_bytes = len(request.body)
        self.upload_bytes += body_bytes
        self._unfinished_bytes += body_bytes

        def step() -> bool:
            try:
                answer = unfinished.go_on()
            except Exception as error:  # noqa: BLE001 - the same edge
                answer = self._refuse(request, error)
            if answer is None:
                return False
            self.upload_bytes -= body_bytes
            self._unfinished_bytes -= body_bytes
            done(answer)
            return True

        if isinstance(unfinished, _Short):
            self._turns.add_short(step)
        else:
            self._turns.add(step)

    def _refuse(self, request: Request, error: Exception) -> Response:
        """The answer to a request whose route has raised; called while that is handled."""
        if isinstance(error, ProtocolError):
            self.ledger.refused("requests", error.reason)
            return Response(error.status, json_message(str(error)))
        self.ledger.refused("requests", "internal_error")
        suppressed = self._repeated.may(request.path)
        if suppressed is not None:
            again = f" ({suppressed} more since the last time)" if suppressed else ""
            _log.exception("a request to %s failed%s", request.path, again)
        return Response(500, json_message("internal error"))

    def encode(self, response: Response, connection_line: bytes, now_s: float) -> bytes:
        """A whole answer."""
        if now_s >= self._stamp_until_s:
            self._renew_stamp(now_s)
        # Most answers are the same few.
        key = (
            response.status,
            response.body,
            response.content_type,
            response.headers,
            connection_line,
        )
        answer = self._answers.get(key)
        if answer is None:
            answer = self._encode_head(response, connection_line) + response.body
            if len(answer) <= ANSWER_BYTES_MAX and len(self._answers) < ANSWERS_MAX:
                self._answers[key] = answer
        return answer

    def _encode_head(self, response: Response, connection_line: bytes) -> bytes:
        further = b""
        for name, value in response.headers:
            assert value.isprintable(), f"header {name} holds a line break"
            further += f"{name}: {value}\r\n".encode("latin-1")
        if response.content_type is not None:
            further += f"Content-Type: {response.content_type}\r\n".encode("latin-1")
        return b"%bContent-Length: %d\r\n%b%b%b\r\n" % (
            _STATUS_LINES[response.status],
            len(response.body),
            self._stamp,
            further,
            connection_line,
        )

    def _renew_stamp(self, now_s: float) -> None:
        self._answers.clear()
        wall_ns = self.clock.wall_ns()
        self._stamp_until_s = now_s + 1.0 - wall_ns % 1_000_000_000 / 1e9
        year, month, day, hour, minute, second, weekday, _, _ = time.gmtime(wall_ns // 10**9)
        # By hand: strftime follows the locale, email.utils costs milliseconds to import.
        self._stamp = (
            b"Date: %b, %02d %b %04d %02d:%02d:%02d GMT\r\nDatadog-Agent-State: %b\r\n"
        ) % (
            _DAYS[weekday],
            day,
            _MONTHS[month - 1],
            year,
            hour,
            minute,
            second,
            self._agent_state,
        )


class _Short(Unfinished):
    """A request that is not begun, and would have been answered at once in another turn."""

    __slots__ = ()


def _call_later(route: Route, request: Request) -> Iterator[Response | None]:
    """Begin to answer when it is asked for the first time."""
    answer = route.handler(request)
    if isinstance(answer, Response):
        yield answer
        return
    yield None
    while True:
        yield answer.go_on()
