"""A request and a response as values: what passes between a connection and a receiver.

No sockets in here, so that receivers can be called with bytes from a file.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

JSON = "application/json"

REASONS = {
    100: "Continue",
    200: "OK",
    202: "Accepted",
    400: "Bad Request",
    404: "Not Found",
    405: "Method Not Allowed",
    408: "Request Timeout",
    411: "Length Required",
    413: "Content Too Large",
    415: "Unsupported Media Type",
    417: "Expectation Failed",
    429: "Too Many Requests",
    431: "Request Header Fields Too Large",
    500: "Internal Server Error",
    501: "Not Implemented",
    503: "Service Unavailable",
    505: "HTTP Version Not Supported",
}


class Request:
    """One complete request.

    Attributes:
        method: Upper case.
        path: Without the query string.
        query: After the question mark, or empty.
        headers: Lower-case names; the first value of a repeated name; Latin-1 text. Without
            Content-Length, which the body has. Requests with the same head share one mapping,
            so what is made of it can be kept for as long as the next has the same; nobody
            changes it.
        body: The whole body, chunked framing removed.
    """

    __slots__ = ("body", "headers", "method", "path", "query")

    def __init__(
        self, method: str, path: str, query: str, headers: Mapping[str, str], body: bytes
    ) -> None:
        self.method = method
        self.path = path
        self.query = query
        self.headers = headers
        self.body = body


class Response:
    """One answer; its length and framing are the connection's business.

    Attributes:
        headers: Further headers as (name, value) pairs.
    """

    __slots__ = ("body", "content_type", "headers", "status")

    def __init__(
        self,
        status: int,
        body: bytes = b"",
        content_type: str | None = JSON,
        headers: tuple[tuple[str, str], ...] = (),
    ) -> None:
        assert status in REASONS, f"status {status} has no reason phrase"
        self.status = status
        self.body = body
        self.content_type = content_type if body else None
        self.headers = headers


class Unfinished:
    """An answer that takes more than one turn of the loop.

    Attributes:
        go_on: Called once a turn: works for some milliseconds and gives the answer when it is
            there. It may raise what a route's handler may. Whoever does not call it until then
            gives the request up.
    """

    __slots__ = ("go_on",)

    def __init__(self, go_on: Callable[[], Response | None]) -> None:
        self.go_on = go_on


class Route:
    """What one path takes and who answers.

    Attributes:
        methods: Allowed methods; None allows every method.
        handler: Called with the complete request on the event loop; must not block, and answers
            what takes long as Unfinished. It may raise ProtocolError (answered with its status)
            and nothing else.
        takes_body: A request without Content-Length and Transfer-Encoding is answered 411.
    """

    __slots__ = ("handler", "methods", "takes_body")

    def __init__(
        self,
        handler: Callable[[Request], Response | Unfinished],
        methods: frozenset[str] | None,
        takes_body: bool,
    ) -> None:
        self.handler = handler
        self.methods = methods
        self.takes_body = takes_body
