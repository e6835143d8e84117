"""HTTP/1.1 with one server: what a delivery needs, over one connection that is kept alive.

A request is one POST with its whole body. Of the answer its status counts, and Retry-After: the
status line is the verdict, and whatever goes wrong behind it costs the connection and no more.
The parser of answers is llhttp, as it is of requests to us.

TLS believes the system's certificates, or those that SSL_CERT_FILE and SSL_CERT_DIR name. The way
through a proxy is a CONNECT tunnel, and the way to the proxy may be TLS itself: so TLS works on
any stream here, and a tunnel to an https intake through an https proxy is TLS in TLS.

    what                                                limit               then
    ----                                                -----               ----
    connecting, to each address of the server           CONNECT_S_MAX       the next address
    no byte goes out or comes in                        SILENCE_S_MAX       TimeoutError
    one exchange, from connecting to the last byte      EXCHANGE_S_MAX      TimeoutError
    bytes of an answer, or of a proxy's                 ANSWER_BYTES_MAX    the connection closes

Looking a name up takes as long as the system lets it. All of this blocks, and is for one thread.
"""

from __future__ import annotations

import selectors
import socket
import time
from contextlib import suppress
from functools import partial

import httptools

TYPE_CHECKING = False
if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Mapping
    from typing import Protocol, TypeVar

    T = TypeVar("T")

    class Stream(Protocol):
        """What bytes are exchanged over: a socket, or TLS on another stream."""

        def sendall(self, data: bytes | memoryview, /) -> None:
            """Send all of it."""

        def recv(self, bytes_max: int, /) -> bytes:
            """Some bytes; none at the end."""

        def is_silent(self) -> bool:
            """Whether nothing is to be read: neither bytes that nobody asked for nor the end."""


# An intake that accepts the connection answers in well under a second; the reference gives 3 s.
CONNECT_S_MAX = 5.0
SILENCE_S_MAX = 10.0

# The largest body is 3.2 MB before compression: a line with half a megabit a second carries it.
# Without this limit, a server that drips bytes would hold all deliveries for hours.
EXCHANGE_S_MAX = 60.0

# Answers of the intake have some hundred bytes.
ANSWER_BYTES_MAX = 64 * 1024

_READ_BYTES = 16 * 1024
# What TLS takes at once; so much of a body is sent together with the head. Source: RFC 8446, 5.1.
_RECORD_BYTES = 16 * 1024

_PORTS = {"http": 80, "https": 443}


class ExchangeError(OSError):
    """The other side speaks no HTTP, or a proxy refuses; says which."""


class Address:
    """Where a URL points.

    Args:
        url: `scheme://host`, with or without a port, and a path.

    Attributes:
        scheme: "http" or "https".
        host: A name or an address, without brackets.
        port: The one it names, or the scheme's own.
        path: What stands behind, without a slash at the end.
        authority: Host and port as they stand in a request; without the scheme's own port.
    """

    __slots__ = ("authority", "host", "path", "port", "scheme")

    def __init__(self, url: str) -> None:
        self.scheme, _, rest = url.partition("://")
        authority, slash, path = rest.partition("/")
        self.path = (slash + path).rstrip("/")
        name, colon, port = authority.rpartition(":")
        if not colon or port.endswith("]"):
            name, port = authority, ""
        self.host = name.strip("[]")
        self.port = int(port) if port else _PORTS[self.scheme]
        self.authority = name if self.port == _PORTS[self.scheme] else authority


class Proxy:
    """Where tunnels are asked for.

    Args:
        address: The proxy itself.
        authorization: Value of Proxy-Authorization, or None.
    """

    __slots__ = ("address", "authorization")

    def __init__(self, address: Address, authorization: str | None = None) -> None:
        self.address = address
        self.authorization = authorization


class Answer:
    """What the server said.

    Attributes:
        status: Of the final answer; interim ones (1xx) are skipped.
        retry_after: That header, or None.
    """

    __slots__ = ("retry_after", "status")

    def __init__(self, status: int, retry_after: str | None) -> None:
        self.status = status
        self.retry_after = retry_after


class Connection:
    """A connection to one server, opened when it is needed and opened anew when it was closed."""

    def __init__(self, server: Address, proxy: Proxy | None = None) -> None:
        self._server = server
        self._proxy = proxy
        self._wire: Wire | None = None
        # The wire itself, or TLS on it.
        self._stream: Stream | None = None
        self._context: ssl.SSLContext | None = None

    def post(self, path: str, headers: Mapping[str, str], body: bytes) -> Answer:
        """Send one request and wait for its answer. After an error the connection is closed.

        Args:
            path: Behind the path of the server's URL.
            headers: Besides Host and Content-Length.

        Raises:
            TimeoutError: A limit was reached.
            OSError: The connection could not be had or broke, a certificate is wrong, the other
                side speaks no HTTP.
            ValueError: A header cannot be sent.
        """
        fields = {"host": self._server.authority, "content-length": str(len(body)), **headers}
        head = _head(f"POST {self._server.path}{path} HTTP/1.1", fields)
        stays_open = False
        try:
            stream = self._open(time.monotonic() + EXCHANGE_S_MAX)
            is_sent = _send(stream, head, body)
            answer = _Reading(stream)
            answer.read()
            assert answer.status is not None
            if not is_sent and answer.status < 300:
                raise ExchangeError("the server says yes to half a request")
            stays_open = is_sent and answer.leaves_open
        finally:
            if not stays_open:
                self.close()
        return Answer(answer.status, answer.retry_after)

    def close(self) -> None:
        """Close the connection; may be repeated."""
        if self._wire is not None:
            self._wire.close()
        self._wire = self._stream = None

    def __del__(self) -> None:
        """Whoever lets go of it is done with it."""
        self.close()

    def _open(self, until_s: float) -> Stream:
        if self._wire is not None and self._stream is not None and self._stream.is_silent():
            self._wire.until_s = until_s
            return self._stream
        self.close()
        first = self._proxy.address if self._proxy else self._server
        self._wire = Wire(first.host, first.port, until_s)
        stream: Stream = self._wire
        if self._proxy is not None:
            stream = self._secure(stream, self._proxy.address)
            self._ask_tunnel(stream, self._proxy)
        self._stream = self._secure(stream, self._server)
        return self._stream

    def _secure(self, stream: Stream, address: Address) -> Stream:
        if address.scheme != "https":
            return stream
        if self._context is None:
            self._context = _make_context()
        return Tls(stream, self._context, address.host)

    def _ask_tunnel(self, stream: Stream, proxy: Proxy) -> None:
        server = self._server
        host = f"[{server.host}]" if ":" in server.host else server.host
        fields = {"host": f"{host}:{server.port}"}
        if proxy.authorization is not None:
            fields["proxy-authorization"] = proxy.authorization
        stream.sendall(_head(f"CONNECT {host}:{server.port} HTTP/1.1", fields))
        answer = _Reading(stream)
        answer.read_head()
        if answer.status is None or not 200 <= answer.status < 300:
            raise ExchangeError(f"the proxy answers {answer.status}")


class Wire:
    """A TCP connection on which neither one step nor all of them take too long.

    Args:
        until_s: When, on the monotonic clock, everything must be done.

    Raises:
        OSError: No address of the host can be connected to; the last one's.
    """

    def __init__(self, host: str, port: int, until_s: float) -> None:
        self.until_s = until_s
        self._socket = self._connect(host, port)

    def sendall(self, data: bytes | memoryview, /) -> None:
        """Send all of it."""
        view = memoryview(data)
        while view:
            self._limit(self._socket, SILENCE_S_MAX)
            view = view[self._socket.send(view) :]

    def recv(self, bytes_max: int, /) -> bytes:
        """Some bytes; none at the end."""
        self._limit(self._socket, SILENCE_S_MAX)
        return self._socket.recv(bytes_max)

    def is_silent(self) -> bool:
        """Whether nothing is to be read: neither bytes that nobody asked for nor the end."""
        with selectors.DefaultSelector() as selector:
            selector.register(self._socket, selectors.EVENT_READ)
            return not selector.select(0)

    def close(self) -> None:
        """Close it."""
        self._socket.close()

    def _connect(self, host: str, port: int) -> socket.socket:
        # As bytes: text would load the tables of international names, which settings refuse.
        found = socket.getaddrinfo(host.encode("ascii"), port, type=socket.SOCK_STREAM)
        failure = OSError("the name has no address")
        for family, kind, protocol, _, where in found:
            opened: socket.socket | None = None
            try:
                # Raises too: there may be no IPv6 here.
                opened = socket.socket(family, kind, protocol)
                self._limit(opened, CONNECT_S_MAX)
                opened.connect(where)
                # Without the first, what follows a small piece would wait for the other side.
                opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                opened.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
                return opened
            except OSError as error:
                failure = error
                if opened is not None:
                    opened.close()
        raise failure

    def _limit(self, limited: socket.socket, seconds_max: float) -> None:
        left_s = self.until_s - time.monotonic()
        if left_s <= 0:
            raise TimeoutError("the exchange takes too long")
        limited.settimeout(min(seconds_max, left_s))


class Tls:
    """TLS on a stream; a stream itself.

    Args:
        host: What the other side's certificate must be for.

    Raises:
        OSError: The other side has no certificate for it that is believed, or speaks no TLS.
    """

    def __init__(self, under: Stream, context: ssl.SSLContext, host: str) -> None:
        # Imported here: whoever sends to a port of this machine needs no TLS.
        import ssl

        self._under = under
        self._want_read = ssl.SSLWantReadError
        # With a goodbye, and without.
        self._ends = ssl.SSLZeroReturnError, ssl.SSLEOFError
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        # As bytes: see Wire. No certificate has the dot that a name may end with.
        name = host.rstrip(".").encode("ascii")
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=name)
        try:
            self._carry(self._tls.do_handshake)
        except ssl.SSLError:
            # So that the other side's log has the reason too.
            with suppress(OSError):
                self._flush()
            raise

    def sendall(self, data: bytes | memoryview, /) -> None:
        """Send all of it."""
        view = memoryview(data)
        while view:
            record = view[:_RECORD_BYTES]
            view = view[self._carry(partial(self._tls.write, record)) :]

    def recv(self, bytes_max: int, /) -> bytes:
        """Some bytes; none at the end."""
        try:
            return self._carry(partial(self._tls.read, bytes_max))
        except self._ends:
            return b""

    def is_silent(self) -> bool:
        """Whether nothing is to be read; what TLS says to itself is taken on the way."""
        if not self._under.is_silent():
            return False
        try:
            self._tls.read(1)
        except self._want_read:
            return True
        except OSError:
            return False
        return False

    def _carry(self, step: Callable[[], T]) -> T:
        """Take a step of the protocol as often as the other side has to say something first."""
        while True:
            try:
                result = step()
            except self._want_read:
                self._flush()
                arrived = self._under.recv(_READ_BYTES)
                if arrived:
                    self._incoming.write(arrived)
                else:
                    self._incoming.write_eof()
            else:
                self._flush()
                return result

    def _flush(self) -> None:
        waiting = self._outgoing.read()
        if waiting:
            self._under.sendall(waiting)


class _Reading:
    """An answer as it arrives; the methods that begin with "on" are for the parser.

    Attributes:
        status: None until the status line of the final answer has been read.
        leaves_open: The whole answer was read, and the server takes another request.
    """

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._parser = httptools.HttpResponseParser(self)
        self._left = ANSWER_BYTES_MAX
        self._has_head = False
        self._has_body = False
        self.status: int | None = None
        self.retry_after: str | None = None
        self.leaves_open = False

    def read(self) -> None:
        """Read all of it; an error is raised only before its status line has been read."""
        try:
            while not self._has_body:
                self._read_more()
        except OSError:
            self.leaves_open = False
            if self.status is None:
                raise

    def read_head(self) -> None:
        """Read its head alone: what follows belongs to the tunnel."""
        while not self._has_head:
            self._read_more()

    def _read_more(self) -> None:
        # At the limit that is none, as at the end.
        arrived = self._stream.recv(min(_READ_BYTES, self._left))
        self._left -= len(arrived)
        if not arrived:
            raise ExchangeError("the answer ends too early, or is too long")
        try:
            self._parser.feed_data(arrived)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            # After the head of an answer to CONNECT, which has no body whatever it says.
            if not self._has_head:
                raise ExchangeError(f"the answer is not HTTP: {error}") from None
            self.leaves_open = False
            self._has_body = True

    def on_message_begin(self) -> None:
        """The begin of a head, after an interim answer too."""
        if self._has_body:
            # An answer that nobody asked for.
            self.leaves_open = False

    def on_status(self, _: bytes) -> None:
        """The status line, but not one without a phrase behind the number."""
        status = self._parser.get_status_code()
        if self.status is None and status >= 200:
            self.status = status

    def on_header(self, name: bytes, value: bytes) -> None:
        """One field of a head, or of what follows a chunked body."""
        self.on_status(b"")
        if name.lower() == b"retry-after" and self.status is not None and not self._has_head:
            self.retry_after = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        """The end of a head."""
        self.on_status(b"")
        self._has_head = self.status is not None

    def on_message_complete(self) -> None:
        """The end of an answer, interim or final."""
        if self._has_head and not self._has_body:
            self._has_body = True
            self.leaves_open = self._parser.should_keep_alive()


def _make_context() -> ssl.SSLContext:
    # Imported here: see Tls.
    import ssl

    context = ssl.create_default_context()
    # What a certificate is for stands in its alternative names. Source: RFC 9110, 4.3.4.
    context.hostname_checks_common_name = False
    context.set_alpn_protocols(["http/1.1"])
    return context


def _send(stream: Stream, head: bytes, body: bytes) -> bool:
    """Whether all of it went out: a server may answer, and close, without wanting all of it."""
    try:
        stream.sendall(head + body[:_RECORD_BYTES])
        stream.sendall(memoryview(body)[_RECORD_BYTES:])
    except OSError:
        # If there is no answer, reading it will say what is wrong.
        return False
    return True


def _head(line: str, fields: Mapping[str, str]) -> bytes:
    lines = [line, *(f"{name}: {value}" for name, value in fields.items())]
    for each in lines:
        if any(mark in each for mark in "\r\n\0"):
            raise ValueError(f"a header cannot be sent: {each.partition(':')[0]}")
    # What clients sent us as bytes leaves as the same bytes.
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")
