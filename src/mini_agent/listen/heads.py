"""Heads of requests that were read before.

A tracer sends the same head with every request; only the digits behind Content-Length change.
Reading a head of ten headers with the parser and judging it takes several times what everything
else about a small request takes, so a head that was taken once is remembered by its bytes, those
digits left out. The parser reads the same bytes in the same way, whoever sends them; the digits
are the one thing that is read here, and the limits that hang on them are held by whoever asks.

What is found is as the parser read it the first time: a head that it refused, or that asks for
more than a plain answer on a kept connection, is never remembered.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from mini_agent.wire.http import Route

# A few clients with a few further headers that change, such as the number of traces.
HEADS_MAX = 64
# The heads of tracers are near 1 KiB; with HEADS_MAX, this bounds the memory to 128 KiB.
HEAD_BYTES_MAX = 2048
# More digits than any length that is taken; a longer row of them is the parser's business.
_DIGITS_MAX = 12

_BLANK_LINE = b"\r\n\r\n"
_LENGTH = b"\r\nContent-Length: "
_LENGTH_IN_LOWER_CASE = b"\r\ncontent-length: "


class KnownHead:
    """What a head says besides the length.

    Attributes:
        headers: As a request has them; one mapping for all requests with this head.
    """

    __slots__ = ("headers", "method", "path", "query", "route")

    def __init__(
        self, method: str, path: str, query: str, headers: Mapping[str, str], route: Route
    ) -> None:
        self.method = method
        self.path = path
        self.query = query
        self.headers = headers
        self.route = route


class KnownHeads:
    """The heads that were taken last; for all connections of a server."""

    __slots__ = ("_heads",)

    def __init__(self) -> None:
        self._heads: dict[bytes, KnownHead] = {}

    def find(self, received: bytes, at: int) -> tuple[KnownHead, int, int] | None:
        """The head that begins at `at`, if it is complete and known.

        Returns:
            The head, where its body begins, and how long that is.
        """
        blank = received.find(_BLANK_LINE, at)
        if blank < 0:
            return None
        found = received.find(_LENGTH, at, blank)
        if found < 0:
            found = received.find(_LENGTH_IN_LOWER_CASE, at, blank)
            if found < 0:
                head = self._heads.get(received[at:blank])
                return None if head is None else (head, blank + 4, 0)
        digits_at = found + len(_LENGTH)
        # The first is what counts; the parser refuses a head with another.
        digits_end = received.find(b"\r\n", digits_at)
        digits = received[digits_at:digits_end]
        head = self._heads.get(received[at:digits_at] + received[digits_end:blank])
        if head is None or not digits.isdigit() or len(digits) > _DIGITS_MAX:
            return None
        return head, blank + 4, int(digits)

    def learn(self, received: bytes, head: KnownHead, length: int | None) -> None:
        """Remember a head; the one that was learned first is forgotten for it.

        Args:
            received: Its bytes, the blank line included.
            length: What the parser read as Content-Length, or None when there is none.
        """
        blank = len(received) - len(_BLANK_LINE)
        found = max(received.find(_LENGTH), received.find(_LENGTH_IN_LOWER_CASE))
        if len(received) > HEAD_BYTES_MAX or (found < 0) != (length is None):
            return  # The latter: it is written in a way that `find` does not know.
        key = received[:blank]
        if found >= 0:
            digits_at = found + len(_LENGTH)
            digits_end = received.find(b"\r\n", digits_at)
            if not received[digits_at:digits_end].isdigit():
                return
            key = received[:digits_at] + received[digits_end:blank]
        heads = self._heads
        if len(heads) >= HEADS_MAX and key not in heads:
            del heads[next(iter(heads))]
        heads[key] = head
