"""One HTTP/1.1 client: the state machine under `listen.http`, which holds the design.

                first byte        blank line, a body follows      last byte: answer
    ► IDLE ──────────────────► HEAD ─────────────────────► BODY or CHUNKED ────┐
       ▲                        │ blank line, no body: answer                  │
       ├────────────────────────┴──────────────── kept alive ──────────────────┤
       └─── answer ── WORKING ◄─────── the route needs further turns ──────────┘
      any ─ framing is lost, or the body may never come ─► LINGER ─ peer closed, time ─► CLOSED
      any ─ the answer said close ─────────────────────────────────────────────────────► CLOSED

httptools (llhttp) reads the syntax. It does not say how far it has read, and it keeps an
unfinished header to itself, so it is given bytes in cuts that end where a head or a chunked
message can end: at a blank line. One cut completes at most one message; every byte is counted
where it belongs; and between two cuts we may stop, when the client does not read.

Two ways lead around it. A body with a length is kept as it comes, without a copy by the parser,
which is replaced afterwards: a new one costs a third of a microsecond. And a complete request
whose head is known (`listen.heads`) goes straight to its route.

A connection that is WORKING waits for the answer to a complete request. No time limit runs. What
comes meanwhile is held, one read of it, so that answers stay in order; when the client leaves, the
request is finished all the same: it was complete.

The parser's callbacks only note what it found. All decisions are taken after `feed_data` has
returned, because an exception inside a callback would reach us as a syntax error.
"""

from __future__ import annotations

import asyncio
import logging

from httptools import HttpParserError, HttpParserUpgrade, HttpRequestParser

from mini_agent.listen.heads import KnownHead
from mini_agent.listen.judge import judge, split_target
from mini_agent.listen.upload import Upload
from mini_agent.wire.http import Request, Response, Unfinished

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from mini_agent.listen.http import HttpServer
    from mini_agent.wire.http import Route

# How long a refused peer may take to read its answer and close. nginx waits 5 s between bytes.
LINGER_S_MAX = 2.0
# Connections above connections_max that are told 503 at one time; those beyond are cut.
TURNED_AWAY_MAX = 64
# One read. asyncio's 256 KiB are above what malloc keeps at hand (128 KiB): every read then maps
# and unmaps memory. Measured on Linux: 87 µs of CPU instead of 113 for a request of 568 bytes.
READ_BYTES_MAX = 64 * 1024
# One read of a body that is known to be longer: memory for it is needed anyway, and each read
# costs a turn of the loop. It bounds what such a turn works on.
BODY_READ_BYTES_MAX = 1024 * 1024

IDLE, HEAD, BODY, CHUNKED, WORKING, LINGER, CLOSED = range(7)

_BLANK_LINE = b"\r\n\r\n"
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
_CLOSE, _KEEP_ALIVE = b"Connection: close\r\n", b"Connection: keep-alive\r\n"
_RETRY_AFTER = (("Retry-After", "1"),)
_JSON_ESCAPES = {code: f"\\u{code:04x}" for code in range(32)} | {34: '\\"', 92: "\\\\"}

_log = logging.getLogger(__name__)


def json_message(message: str) -> bytes:
    """The body of a refusal: a JSON object with one field, `message`."""
    return b'{"message":"%b"}' % message.translate(_JSON_ESCAPES).encode("utf-8", "replace")


class HttpConnection(asyncio.Protocol):
    """One client, from connection to close.

    Methods named `on_…` belong to the parser; `stop`, `abort`, `check_time` and `forgive` to the
    server; the rest of the public ones to the transport. All run on the loop and never wait.
    """

    __slots__ = (
        "_body_left",
        "_closing",
        "_drained_bytes",
        "_eof",
        "_fields",
        "_framing_bytes",
        "_head_complete",
        "_headers",
        "_held",
        "_keep_alive",
        "_learns",
        "_length",
        "_message_complete",
        "_method",
        "_more",
        "_old_client",
        "_parser",
        "_path",
        "_paused_s",
        "_query",
        "_refused",
        "_request_parser",
        "_resizable",
        "_route",
        "_seam",
        "_server",
        "_since_s",
        "_state",
        "_touched_s",
        "_transport",
        "_unsent_bytes",
        "_upload",
        "_url",
        "_writable",
        "on_header",
    )

    def __init__(self, server: HttpServer) -> None:
        self._server = server
        self._transport: asyncio.Transport
        self._state = IDLE
        # When the state began, and when the last byte came, in seconds of the steady clock.
        self._since_s = self._touched_s = server.clock.steady_s()
        # The headers of a head under way. The parser's callback is the dictionary's own method:
        # it is called a dozen times a request, and the first of a repeated header counts.
        self._fields: dict[bytes, bytes] = {}
        self.on_header = self._fields.setdefault
        # The parser that gets the next cut. Another one than _request_parser only while the
        # body of an upgrade request is read. None once the connection is lost.
        self._parser: HttpRequestParser | None = HttpRequestParser(self)
        self._request_parser = self._parser
        # Bytes follow the current cut in what was received.
        self._more = False
        # The transport lets us say how much it reads at once.
        self._resizable = False

        # Empty between two bodies.
        self._upload = Upload(server)

        # Sending: whether the transport takes more; since when not; how much it held then.
        self._writable = True
        self._paused_s = 0.0
        self._unsent_bytes = 0
        # Received and not looked at yet, because the client does not read its answers, or waits
        # for one.
        self._held = b""
        self._eof = False

        self._begin_message()
        self._state = IDLE

    def _begin_message(self) -> None:
        self._state = HEAD
        self._since_s = self._touched_s
        # Up to three bytes before the next cut, in which a blank line may have begun.
        self._seam = b""
        self._url = b""
        self._fields.clear()
        # Known once the head is complete.
        self._headers: Mapping[str, str] = {}
        self._method = self._path = self._query = ""
        self._route: Route | None = None
        self._head_complete = self._message_complete = False
        # The head may be remembered: it asks for nothing but an answer.
        self._learns = False
        self._keep_alive = False
        # Spoke HTTP/1.0, where a kept connection must be confirmed.
        self._old_client = False
        # In HEAD the bytes of the head so far; in CHUNKED those since the last bytes of body.
        self._framing_bytes = 0
        # What Content-Length says; of that, what has not come.
        self._length: int | None = None
        self._body_left = 0
        # Answered with a refusal already; what is left of the message is thrown away.
        self._refused = False
        # That answer said close.
        self._closing = False
        self._drained_bytes = 0

    # The parser's callbacks: they take notes.

    def on_url(self, url: bytes) -> None:
        """Note the next piece of the request's target."""
        self._url += url

    def on_headers_complete(self) -> None:
        """Note the end of the head."""
        self._head_complete = True
        self._keep_alive = self._request_parser.should_keep_alive()

    def on_body(self, piece: bytes | memoryview) -> None:
        """Keep a piece of the body, unless the request has been refused."""
        self._framing_bytes = 0
        if not self._refused:
            self._upload.add(piece)

    def on_message_complete(self) -> None:
        """Note the end of the message."""
        self._message_complete = True

    # The transport's calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin to listen to the client, or turn it away."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        # Only asyncio's selector transports have it; the others read 64 KiB anyway.
        self._resizable = hasattr(transport, "max_size")
        self._read_at_most(READ_BYTES_MAX)
        server = self._server
        server.add(self)
        if server.stopping:
            self._close()
            return
        limit = server.limits.connections_max
        if server.connection_count > limit + TURNED_AWAY_MAX:
            server.ledger.refused("requests", "connections")
            self.abort()
        elif server.connection_count > limit:
            self._refuse_and_linger(
                503, "connections", f"at most {limit} connections at once", _RETRY_AFTER
            )

    def _read_at_most(self, read_bytes_max: int) -> None:
        if self._resizable:
            self._transport.max_size = read_bytes_max  # type: ignore[attr-defined]

    def connection_lost(self, exc: Exception | None) -> None:
        """Let go of everything."""
        if exc is not None or HEAD <= self._state <= WORKING:
            _log.debug("connection lost in state %d: %r", self._state, exc)
        self._state = CLOSED
        self._upload.forget()
        self._held = b""
        # Parser, connection and transport hold each other, and a transport of a proactor loop
        # holds a buffer of 64 KiB; they need not wait for the garbage collector.
        self._parser = None
        del self._request_parser
        del self._transport
        self._server.remove(self)

    def data_received(self, data: bytes) -> None:
        """Take what has arrived."""
        if type(data) is not bytes:
            data = bytes(data)  # A proactor loop reads into a bytearray.
        self._touched_s = self._server.clock.steady_s()
        if self._held:
            self._held += data  # A proactor transport had this read under way when paused.
        else:
            self._take(data)

    def eof_received(self) -> bool:
        """Answer what is complete, then close; True keeps the transport open until then."""
        if self._held or self._state == WORKING:
            self._eof = True
            return True
        self._end_input()
        return False

    def pause_writing(self) -> None:
        """Read nothing more from a client that does not read its answers."""
        self._writable = False
        self._paused_s = self._server.clock.steady_s()
        self._unsent_bytes = self._transport.get_write_buffer_size()
        self._transport.pause_reading()

    def resume_writing(self) -> None:
        """Go on where the client stopped reading."""
        self._writable = True
        self._touched_s = self._server.clock.steady_s()
        # The client could not be heard meanwhile; its time limits stood still.
        self._since_s += self._touched_s - self._paused_s
        self._take_held()

    def _take_held(self) -> None:
        """Go on with what was held, then with what comes."""
        held, self._held = self._held, b""
        if held:
            self._take(held)
        if self._held or self._state == WORKING:
            return
        if self._eof:
            self._end_input()
        elif self._writable and not self._transport.is_closing():
            self._transport.resume_reading()

    # The server's calls.

    def stop(self) -> None:
        """Close if no request is under way; otherwise after it."""
        if self._state in (IDLE, LINGER) and not self._held:
            self._close()

    def abort(self) -> None:
        """Cut the connection now."""
        self._state = CLOSED
        self._transport.abort()

    def forgive(self, late_s: float) -> None:
        """Leave a time in which this process stood still out of account."""
        self._since_s += late_s
        self._touched_s += late_s
        self._paused_s += late_s

    def check_time(self, now_s: float) -> None:
        """End what has taken longer than its limit."""
        limits = self._server.limits
        state, age_s = self._state, now_s - self._since_s
        if state == CLOSED or not self._writable:
            self._check_reading(now_s)
        elif state == WORKING:
            pass  # It waits for us.
        elif state == IDLE:
            if age_s > limits.idle_s_max:
                self._close()
        elif state == LINGER:
            if age_s > LINGER_S_MAX:
                self._close()
        elif state == HEAD:
            if age_s > limits.header_s_max:
                self._touched_s = now_s
                message = f"the head took more than {limits.header_s_max:g} s"
                self._refuse_and_linger(408, "slow_head", message)
        elif age_s > limits.upload_s_max:
            self._touched_s = now_s
            message = f"the body took more than {limits.upload_s_max:g} s"
            self._refuse_and_linger(408, "slow_body", message)
        elif now_s - self._touched_s > limits.pause_s_max:
            self._touched_s = now_s
            message = f"no byte of the body came for {limits.pause_s_max:g} s"
            self._refuse_and_linger(408, "slow_body", message)

    def _check_reading(self, now_s: float) -> None:
        """Cut a client that leaves its answers unread."""
        unsent_bytes = self._transport.get_write_buffer_size()
        if unsent_bytes < self._unsent_bytes:
            self._since_s += now_s - self._paused_s
            self._paused_s = now_s
        elif now_s - self._paused_s > self._server.limits.pause_s_max:
            self.abort()
        self._unsent_bytes = unsent_bytes

    # Receiving: from bytes to cuts, from cuts to messages.

    def _take(self, data: bytes) -> None:
        """Go through what has arrived, cut by cut."""
        at, end = 0, len(data)
        begun_at = -1
        while at < end:
            if self._state >= WORKING:
                self._hold_or_drain(data, at)
                return
            if not self._writable:
                self._held = data[at:]
                return
            if self._state == BODY:
                at = self._take_body(data, at, end)
                continue
            if self._state == IDLE:
                if data[at] in b"\r\n":
                    at += 1  # Some clients end a body with a line break that belongs to nothing.
                    continue
                if known_end := self._take_known(data, at, end):
                    at = known_end
                    continue
                self._begin_message()
                begun_at = at
            cut = self._find_cut(data, at, end)
            if self._state == HEAD:
                limit = self._server.limits.header_bytes_max
                cut = min(cut, at + limit - self._framing_bytes)
                if cut == at:
                    message = f"the head is longer than {limit} bytes"
                    self._refuse_and_linger(431, "large_head", message)
                    continue
            self._count(cut - at)
            self._more = cut < end
            self._feed(data if cut - at == end else memoryview(data)[at:cut])
            if self._learns:
                self._learns = False
                if begun_at >= 0:
                    self._learn_head(data[begun_at:cut])
            at = cut
        if self._state == IDLE and self._server.stopping:
            self._close()

    def _hold_or_drain(self, data: bytes, at: int) -> None:
        if self._state == WORKING:
            self._held = data[at:]
            self._transport.pause_reading()
        else:
            self._count_drained(len(data) - at)

    def _take_known(self, data: bytes, at: int, end: int) -> int:
        """Answer the request at `at` if it is complete and its head is known.

        Returns:
            Where the request ends, or 0 to have it read in the ordinary way.
        """
        server = self._server
        found = server.heads.find(data, at)
        if found is None:
            return 0
        head, body_at, length = found
        limits = server.limits
        body_end = body_at + length
        if (
            body_end > end
            or body_at - at > limits.header_bytes_max
            or length > limits.body_bytes_max
            or length + server.upload_bytes > limits.uploads_bytes_max
        ):
            return 0
        self._method = head.method
        self._more = body_end < end
        self._old_client = False
        request = Request(head.method, head.path, head.query, head.headers, data[body_at:body_end])
        answer = server.answer(head.route, request)
        if isinstance(answer, Unfinished):
            self._wait_for(answer, request, closing=False)
        else:
            self._send(answer, closing=False)
            self._be_ready()
        return body_end

    def _learn_head(self, received: bytes) -> None:
        assert self._route is not None
        known = KnownHead(self._method, self._path, self._query, self._headers, self._route)
        self._server.heads.learn(received, known, self._length)

    def _take_body(self, data: bytes, at: int, end: int) -> int:
        """Take what has come of a body with a length; returns where it ends."""
        cut = min(end, at + self._body_left)
        self._body_left -= cut - at
        self._more = cut < end
        if self._refused:
            self._count_drained(cut - at)
        else:
            self.on_body(data if cut - at == end else memoryview(data)[at:cut])
            self._check_body()
        if not self._body_left and self._state == BODY:
            self._finish_message()
        return cut

    def _find_cut(self, data: bytes, at: int, end: int) -> int:
        """Where the bytes from `at` on must be cut: the next place where a message can end."""
        seam = self._seam
        if seam and (found := (seam + data[at : at + 3]).find(_BLANK_LINE)) >= 0:
            self._seam = b""
            return at + found + 4 - len(seam)
        if (found := data.find(_BLANK_LINE, at)) >= 0:
            self._seam = b""
            return found + 4
        self._seam = (seam + data[max(at, end - 3) :])[-3:]
        return end

    def _count(self, cut_bytes: int) -> None:
        """Enter a cut into the books before it is fed."""
        if self._refused:
            self._count_drained(cut_bytes)
        self._framing_bytes += cut_bytes

    def _count_drained(self, drained_bytes: int) -> None:
        self._drained_bytes += drained_bytes
        if self._drained_bytes > self._server.limits.drain_bytes_max:
            self._close()

    def _feed(self, cut: bytes | memoryview) -> None:
        """Give one cut to the parser and act on what it noted."""
        assert self._parser is not None
        upgrade, broken = False, ""
        try:
            self._parser.feed_data(cut)
        except HttpParserUpgrade:
            upgrade = True
        except HttpParserError as error:
            broken = str(error) or "not HTTP"
        if self._head_complete:
            self._take_head(upgrade)
        if self._state >= LINGER:
            return  # Refused by its head. The parser is never fed again.
        if broken:
            # The parser's words are fixed sentences; nothing of the request is in them.
            self._refuse_and_linger(400, "not_http", broken)
            return
        if self._state != HEAD:
            self._check_body()
        if self._message_complete and self._state < LINGER:
            self._finish_message()

    def _take_head(self, upgrade: bool) -> None:
        """Decide on a request by its head: answer at once, or receive its body."""
        self._head_complete = False
        self._framing_bytes = 0
        self._since_s = self._touched_s
        self._headers = headers = self._server.read_headers(self._fields)
        digits = headers.pop("content-length", None)
        self._length = None if digits is None else int(digits)  # The parser has seen to them.
        length = self._length or 0
        if "transfer-encoding" in headers:
            self._state = CHUNKED
        elif length:
            self._state = BODY
            self._body_left = length
        if upgrade and self._state != HEAD:
            self._message_complete = False
        if upgrade and self._state == CHUNKED:
            self._parser = _make_body_parser(self)
        if not self._judge_head():
            return
        if self._state == BODY and length > READ_BYTES_MAX:
            self._read_at_most(min(length, BODY_READ_BYTES_MAX))
        if "expect" not in headers:
            plain = self._keep_alive and not self._old_client and not upgrade
            self._learns = plain and self._state != CHUNKED and self._method != "HEAD"
        elif not (self._message_complete or self._more or self._old_client):
            self._transport.write(_CONTINUE)

    def _judge_head(self) -> bool:
        """Refuse the request if its head is reason enough; True when it may go on."""
        server, headers = self._server, self._headers
        self._method = method = self._request_parser.get_method().decode()
        version = self._request_parser.get_http_version()
        self._old_client = version == "1.0"
        if self._state == CHUNKED:
            # Senders of 1.0 do not know chunks; what follows the body is anyone's guess.
            self._keep_alive = self._keep_alive and not self._old_client
        self._path, self._query = split_target(self._url)
        self._route = server.routes.get(self._path)
        limit = server.limits.body_bytes_max
        refusal = judge(method, version, headers, self._length, self._route, limit)
        if refusal is None:
            return True
        refuse = self._refuse_and_linger if refusal.is_last else self._refuse
        refuse(refusal.status, refusal.reason, refusal.message, refusal.headers)
        return False

    def _check_body(self) -> None:
        """Refuse the request if what has come of its body is reason enough."""
        server, limits = self._server, self._server.limits
        if self._framing_bytes > limits.header_bytes_max:
            message = f"more than {limits.header_bytes_max} bytes between two chunks"
            self._refuse_and_linger(400, "large_framing", message)
        elif self._upload.received_bytes > limits.body_bytes_max:
            self._refuse(413, "large_body", f"the body is over {limits.body_bytes_max} bytes")
        elif server.upload_bytes > limits.uploads_bytes_max:
            message = f"over {limits.uploads_bytes_max} bytes of bodies wait for their answers"
            self._refuse(429, "uploads", message, _RETRY_AFTER)

    # Answering.

    def _finish_message(self) -> None:
        """Answer a complete request, unless it is answered, and be ready for the next."""
        self._message_complete = False
        if self._state == BODY:
            # The old one waits for a body that it was not shown.
            self._request_parser = HttpRequestParser(self)
            self._read_at_most(READ_BYTES_MAX)
        self._parser = self._request_parser
        if not self._refused:
            assert self._route is not None
            body = self._upload.take()
            request = Request(self._method, self._path, self._query, self._headers, body)
            answer = self._server.answer(self._route, request)
            if isinstance(answer, Unfinished):
                self._wait_for(answer, request, closing=not self._keep_alive)
                return
            self._send(answer, closing=not self._keep_alive)
        self._be_ready()

    def _be_ready(self) -> None:
        """The request is answered: wait for the next, unless the answer said close."""
        self._state = IDLE
        self._since_s = self._touched_s
        if self._closing:
            self._close()

    def _wait_for(self, unfinished: Unfinished, request: Request, closing: bool) -> None:
        """Have an answer finished in later turns."""
        self._state = WORKING
        self._server.finish(unfinished, request, lambda answer: self._finished(answer, closing))

    def _finished(self, answer: Response, closing: bool) -> None:
        """Send an answer that was waited for, unless the client has left."""
        if self._state != WORKING:
            return
        self._touched_s = self._server.clock.steady_s()
        self._more = bool(self._held)
        self._send(answer, closing)
        self._be_ready()
        if self._state == IDLE:
            self._take_held()

    def _refuse(
        self,
        status: int,
        reason: str,
        message: str,
        headers: tuple[tuple[str, str], ...] = (),
    ) -> None:
        """Answer now, and throw away what is left of the message."""
        if (
            self._state in (BODY, CHUNKED)
            and "expect" in self._headers
            and not self._upload.received_bytes
        ):
            # The client waits to be asked for the body, or it does not: nobody can know.
            self._refuse_and_linger(status, reason, message, headers)
            return
        undrainable = self._body_left > self._server.limits.drain_bytes_max
        self._write_refusal(
            status, reason, message, headers, closing=undrainable or not self._keep_alive
        )

    def _refuse_and_linger(
        self,
        status: int,
        reason: str,
        message: str,
        headers: tuple[tuple[str, str], ...] = (),
    ) -> None:
        """Answer for the last time, and give the peer a while to read it."""
        if not self._refused:
            self._write_refusal(status, reason, message, headers, closing=True)
        transport = self._transport
        if self._server.stopping or transport.is_closing():
            self._close()
            return
        self._state = LINGER
        self._since_s = self._touched_s
        if transport.can_write_eof():
            try:
                transport.write_eof()
            except OSError:
                self._close()  # Reset by the peer, and we have not been told yet.

    def _write_refusal(
        self,
        status: int,
        reason: str,
        message: str,
        headers: tuple[tuple[str, str], ...],
        closing: bool,
    ) -> None:
        self._server.ledger.refused("requests", reason)
        self._refused = True
        self._upload.forget()
        body = json_message(message) if message else b""
        self._send(Response(status, body, headers=headers), closing)

    def _send(self, response: Response, closing: bool) -> None:
        # A request that is behind this one has arrived too; it is not cut off by a stop.
        self._closing = closing or (self._server.stopping and not self._more)
        if self._transport.is_closing():
            return
        connection_line = _KEEP_ALIVE if self._old_client else b""
        answer = self._server.encode(
            response, _CLOSE if self._closing else connection_line, self._touched_s
        )
        if self._method == "HEAD" and response.body:
            answer = answer[: -len(response.body)]
        self._transport.write(answer)

    def _end_input(self) -> None:
        """The peer sends nothing more."""
        if HEAD <= self._state <= CHUNKED and not self._refused:
            self._write_refusal(400, "cut_off", "the request is not complete", (), closing=True)
        self._close()

    def _close(self) -> None:
        self._state = CLOSED
        # From now on it has to read what it was sent.
        self._paused_s = self._server.clock.steady_s()
        self._transport.close()


class _BodyNotes:
    """The callbacks of a parser that reads only a body."""

    __slots__ = ("on_body", "on_message_complete")

    def __init__(self, connection: HttpConnection) -> None:
        self.on_body = connection.on_body
        self.on_message_complete = connection.on_message_complete


def _make_body_parser(connection: HttpConnection) -> HttpRequestParser:
    """A parser that stands after the head of a request in chunks.

    llhttp takes everything after a head with `Upgrade` for another protocol. We never upgrade,
    and Java's HTTP client asks for it with ordinary posts, so the body is read by a second one.
    """
    parser = HttpRequestParser(_BodyNotes(connection))
    parser.feed_data(b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n")
    return parser
