"""One exchange with the intake: a finished body goes out, an outcome comes back.

Runs in the sender thread, where urllib3, TLS and zstd are imported on first use: none of them
may slow the start. One kept-alive connection; whether to try again is the forwarder's question,
so that a wait survives a restart of the process.
"""

from __future__ import annotations

import logging
import socket

from mini_agent.forward import proxy
from mini_agent.forward.packed import load_zstd

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import urllib3

    from mini_agent.forward.payload import Kind

log = logging.getLogger(__name__)

# An intake that accepts the connection answers in well under a second; the reference gives 3 s.
CONNECT_S_MAX = 5.0
ANSWER_S_MAX = 10.0

# What of an answer's body is read, so that the connection can be used again.
_ANSWER_BYTES_MAX = 64 * 1024

# A longer Retry-After is not believed: an outage is over sooner than that.
RETRY_AFTER_S_MAX = 300.0

_GZIP_LEVEL_MAX = 9

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
        # What the URL has behind the host.
        self._path = ""
        self._pool: urllib3.HTTPConnectionPool | None = None

    def deliver(
        self, kind: Kind, headers: Mapping[str, str], body: bytes, packed: bool = False
    ) -> Outcome:
        """Send one body. Blocks; at most CONNECT_S_MAX and ANSWER_S_MAX without progress.

        Args:
            packed: The body is compressed already, as the kind's is.
        """
        import urllib3

        if self._pool is None:
            self._pool = self._open_pool()
        request_headers = {
            **self._headers,
            **headers,
            "content-type": kind.content_type,
            "content-encoding": kind.compression,
        }
        try:
            response = self._pool.urlopen(
                "POST",
                self._path + kind.path,
                body=body if packed else _compress(body, kind.compression, self._compression_level),
                headers=request_headers,
                timeout=urllib3.Timeout(connect=CONNECT_S_MAX, read=ANSWER_S_MAX),
                retries=False,
                redirect=False,
                preload_content=False,
            )
            try:
                response.read(_ANSWER_BYTES_MAX)
                return outcome_of(response.status, response.headers.get("Retry-After"))
            finally:
                response.release_conn()
        except urllib3.exceptions.TimeoutError as error:
            log.debug("intake: %s", type(error).__name__)
            return RetryLater("timeout")
        except (urllib3.exceptions.HTTPError, OSError) as error:
            log.debug("intake: %s", type(error).__name__)
            return RetryLater("network")

    def _open_pool(self) -> urllib3.HTTPConnectionPool:
        """The one host's connections: finding them by URL again costs 0.1 ms a request."""
        import urllib3
        from urllib3.util import parse_url

        target = parse_url(self.url)
        self._path = target.path or ""
        # urllib3 leaves Nagle on towards proxies, which costs 40 ms a request (decision 0002).
        options = [
            (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
            (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
        ]
        port = target.port or (443 if target.scheme == "https" else 80)
        host = (target.host or "").strip("[]")
        if (
            self._proxy_url is None
            or target.scheme != "https"
            or proxy.bypasses(host, port, self._no_proxy)
        ):
            manager = urllib3.PoolManager(1, maxsize=1, socket_options=options)
            return manager.connection_from_url(self.url)
        proxy_target = parse_url(self._proxy_url)
        proxy_headers = (
            urllib3.make_headers(proxy_basic_auth=_unquoted(proxy_target.auth))
            if proxy_target.auth
            else None
        )
        through_proxy = urllib3.ProxyManager(
            self._proxy_url,
            1,
            proxy_headers=proxy_headers,
            maxsize=1,
            socket_options=options,
        )
        return through_proxy.connection_from_url(self.url)


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
        import gzip

        # Without a time, the same body gives the same bytes.
        return gzip.compress(body, min(level, _GZIP_LEVEL_MAX), mtime=0)
    compressed: bytes = load_zstd().compress(body, level)
    return compressed


def _unquoted(auth: str) -> str:
    from urllib.parse import unquote

    return unquote(auth)
