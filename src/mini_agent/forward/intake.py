"""One exchange with the intake: a finished body goes out, an outcome comes back.

Runs in the sender thread, where exchange.py, TLS and zstd are imported on first use: none of them
may slow the start. One kept-alive connection; whether to try again is the forwarder's question,
so that a wait survives a restart of the process.
"""

from __future__ import annotations

import logging

from mini_agent.forward import proxy
from mini_agent.forward.packed import load_zstd

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from mini_agent.forward.exchange import Connection, Proxy
    from mini_agent.forward.payload import Kind

log = logging.getLogger(__name__)

# A longer Retry-After is not believed: an outage is over sooner than that.
RETRY_AFTER_S_MAX = 300.0

_GZIP_LEVEL_MAX = 9
# zlib's longest window, and the head and foot of gzip around it.
_GZIP = 16 + 15

_RETRIED = frozenset({408, 425, 429})


class Delivered:
    """The intake has it."""

    __slots__ = ()


class RetryLater:
    """It may go well later.

    Attributes:
        reason: A word for log and ledger, such as "status_503" or "network".
        after_s: What the intake asked for, or None.
        slowly: A person has to mend something first (403: the API key).
    """

    __slots__ = ("after_s", "reason", "slowly")

    def __init__(self, reason: str, after_s: float | None = None, slowly: bool = False) -> None:
        self.reason = reason
        self.after_s = after_s
        self.slowly = slowly


class TooLarge:
    """The intake takes less at once."""

    __slots__ = ()


class Refused:
    """The same request would fail again."""

    __slots__ = ("status",)

    def __init__(self, status: int) -> None:
        self.status = status


Outcome = Delivered | RetryLater | TooLarge | Refused


class Intake:
    """The remote service and the connection to it.

    Args:
        url: Scheme, host and port, without a trailing slash; a kind's path is appended.
        api_key: Sent as DD-API-KEY; must be a legal header value.
        headers: Sent with every request.
        proxy_url: For https intakes, or None.
        no_proxy: Hosts reached without the proxy.
        compression_level: Of zstd; gzip gets the nearest it has.
    """

    takes_packed = True

    def __init__(
        self,
        url: str,
        api_key: str,
        headers: Mapping[str, str],
        proxy_url: str | None,
        no_proxy: Sequence[str],
        compression_level: int,
    ) -> None:
        self.url = url
        self._headers = {**headers, "dd-api-key": api_key}
        self._proxy_url = proxy_url
        self._no_proxy = no_proxy
        self._compression_level = compression_level
        self._connection: Connection | None = None

    def deliver(
        self, kind: Kind, headers: Mapping[str, str], body: bytes, packed: bool = False
    ) -> Outcome:
        """Send one body. Blocks; the limits are those of exchange.py.

        Args:
            packed: The body is compressed already, as the kind's is.
        """
        if self._connection is None:
            self._connection = self._make_connection()
        request_headers = {
            **self._headers,
            **headers,
            "content-type": kind.content_type,
            "content-encoding": kind.compression,
        }
        if not packed:
            body = _compress(body, kind.compression, self._compression_level)
        try:
            answer = self._connection.post(kind.path, request_headers, body)
        except TimeoutError as error:
            log.debug("intake: %s: %s", type(error).__name__, error)
            return RetryLater("timeout")
        except OSError as error:
            log.debug("intake: %s: %s", type(error).__name__, error)
            return RetryLater("network")
        return outcome_of(answer.status, answer.retry_after)

    def _make_connection(self) -> Connection:
        from mini_agent.forward.exchange import Address, Connection

        server = Address(self.url)
        if (
            self._proxy_url is None
            or server.scheme != "https"
            or proxy.bypasses(server.host, server.port, self._no_proxy)
        ):
            return Connection(server)
        return Connection(server, _proxy_of(self._proxy_url))


def outcome_of(status: int, retry_after: str | None) -> Outcome:
    """What an answer means.

    Source: the intake's statuses as the Go agent treats them, but a wrong key (401, 403) is
    mended by a person and loses nothing, 413 is divided, and any other 4xx would fail again.
    """
    if 200 <= status < 300:
        return Delivered()
    if status == 413:
        return TooLarge()
    if status in (401, 403):
        return RetryLater(f"status_{status}", _seconds(retry_after), slowly=True)
    if 400 <= status < 500 and status not in _RETRIED:
        return Refused(status)
    # 5xx, and also a redirect: a proxy or a portal in between, not the intake's verdict.
    return RetryLater(f"status_{status}", _seconds(retry_after))


def _seconds(retry_after: str | None) -> float | None:
    """Retry-After as seconds; both of its forms."""
    if not retry_after:
        return None
    text = retry_after.strip()
    if text.isascii() and text.isdigit():
        return min(float(text), RETRY_AFTER_S_MAX)
    from datetime import UTC, datetime
    from email.utils import parsedate_to_datetime

    try:
        when = parsedate_to_datetime(text)
    except ValueError:
        return None
    if when.tzinfo is None:
        when = when.replace(tzinfo=UTC)
    wait_s = (when - datetime.now(UTC)).total_seconds()
    return min(max(wait_s, 0.0), RETRY_AFTER_S_MAX)


def _compress(body: bytes, compression: str, level: int) -> bytes:
    if compression == "gzip":
        import zlib

        # Without a time, so that the same body gives the same bytes; the module gzip brings more.
        return zlib.compress(body, min(level, _GZIP_LEVEL_MAX), _GZIP)
    compressed: bytes = load_zstd().compress(body, level)
    return compressed


def _proxy_of(url: str) -> Proxy:
    from mini_agent.forward.exchange import Address, Proxy

    scheme, _, rest = url.partition("://")
    account, _, authority = rest.rpartition("@")
    address = Address(f"{scheme}://{authority}")
    if not account:
        return Proxy(address)
    # Imported here: few have a proxy, and fewer an account with it.
    from binascii import b2a_base64
    from urllib.parse import unquote

    encoded = b2a_base64(unquote(account).encode(), newline=False)
    return Proxy(address, f"Basic {encoded.decode()}")
