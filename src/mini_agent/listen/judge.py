"""What is wrong with a request as far as its head says; the table in `listen.http` lists it all."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from mini_agent.wire.http import Route


class Refusal:
    """An answer to a request that is not taken.

    Attributes:
        reason: For the ledger.
        message: For the client; may be empty.
        headers: Further headers of the answer.
        is_last: Where the next request begins is anyone's guess: the connection ends.
    """

    __slots__ = ("headers", "is_last", "message", "reason", "status")

    def __init__(
        self,
        status: int,
        reason: str,
        message: str,
        headers: tuple[tuple[str, str], ...] = (),
        is_last: bool = False,
    ) -> None:
        self.status = status
        self.reason = reason
        self.message = message
        self.headers = headers
        self.is_last = is_last


def split_target(target: bytes) -> tuple[str, str]:
    """The path of a request's target, and what follows the question mark."""
    path, _, query = target.decode("latin-1").partition("?")
    if "://" in path and not path.startswith("/"):
        # A client that takes us for a proxy names the whole URL.
        path = "/" + path.split("/", 3)[3] if path.count("/") > 2 else "/"
    return path, query


def judge(
    method: str,
    version: str,
    headers: Mapping[str, str],
    length: int | None,
    route: Route | None,
    body_bytes_max: int,
) -> Refusal | None:
    """The first reason to refuse a request, or None.

    Args:
        length: What Content-Length says.
        route: Of its path.
    """
    if version not in ("1.1", "1.0"):
        message = "only HTTP/1.1 and HTTP/1.0 are spoken here"
        return Refusal(505, "version", message, is_last=True)
    coding = headers.get("transfer-encoding")
    if coding is not None and coding.lower() != "chunked":
        return Refusal(501, "coding", "the only transfer coding is chunked", is_last=True)
    if method == "CONNECT":
        return Refusal(405, "method", "CONNECT is not allowed", is_last=True)
    expect = headers.get("expect", "100-continue")
    # Senders of 1.0 do not know the word; it means nothing.
    if expect.lower() != "100-continue" and version == "1.1":
        return Refusal(417, "expectation", "only 100-continue can be expected")
    if route is None:
        return Refusal(404, "unknown_path", "")
    allowed = route.methods
    # HEAD is a GET whose body stays here.
    if allowed is not None and ("GET" if method == "HEAD" else method) not in allowed:
        allow = (("Allow", ", ".join(sorted(allowed))),)
        return Refusal(405, "method", f"{method} is not allowed", allow)
    if route.takes_body and coding is None and length is None:
        return Refusal(411, "no_length", "Content-Length or chunked is required", is_last=True)
    if length is not None and length > body_bytes_max:
        message = f"body of {length} bytes; at most {body_bytes_max}"
        return Refusal(413, "large_body", message)
    return None
