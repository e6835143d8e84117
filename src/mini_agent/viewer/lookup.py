"""Reading the embedded store: the latest traces, a trace by what somebody wrote as its id, its
spans.

Rows are read into values at once and the file is let go, because the agent waits meanwhile.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3

from mini_agent.viewer.store import (
    APPLICATION_ID,
    BUSY_TIMEOUT_S,
    NO_HIGH,
    SCHEMA_VERSION,
    StoreUnavailable,
    number,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any, Self

# How many traces a lookup names when a prefix fits several.
CANDIDATES_MAX = 10

# Fewer digits than this are not shown as a trace's short id, even where they would do.
SHORT_ID_CHARS_MIN = 8

_LOW_MASK = (1 << 64) - 1
_HEX_DIGITS = "0123456789abcdef"

_TRACE_COLUMNS = (
    "trace_id, decimal_id, start_ns, duration_ns, span_count, error_count, omitted_count,"
    " service, name, resource, env"
)
_SPAN_COLUMNS = "span_id, parent_id, start_ns, duration_ns, error, service, name, resource, meta"


class NothingStored(StoreUnavailable):
    """No agent has made a store at this place."""


class StoredTrace:
    """One trace's summary.

    Attributes:
        trace_id: 32 hexadecimal digits; the first 16 are zero unless a span told them.
        decimal_id: The low 64 bits as most tracers write them into logs.
        short_id: The first digits of the low 64 bits, as many as name no other stored trace.
        omitted_count: Spans that were let go because the trace had too many.
        name: Of the root span, as are service and resource.
        env: None when no tracer told it.
        services: All that took part, sorted.
    """

    trace_id: str
    decimal_id: str
    start_ns: int
    duration_ns: int
    span_count: int
    error_count: int
    omitted_count: int
    service: str
    name: str
    resource: str
    env: str | None

    __slots__ = (
        "decimal_id",
        "duration_ns",
        "env",
        "error_count",
        "name",
        "omitted_count",
        "resource",
        "service",
        "services",
        "short_id",
        "span_count",
        "start_ns",
        "trace_id",
    )

    def __init__(self, columns: tuple[Any, ...], short_id: str, services: list[str]) -> None:
        (
            self.trace_id,
            self.decimal_id,
            self.start_ns,
            self.duration_ns,
            self.span_count,
            self.error_count,
            self.omitted_count,
            self.service,
            self.name,
            self.resource,
            self.env,
        ) = columns
        self.short_id = short_id
        self.services = services


class StoredSpan:
    """One span as it was stored.

    Attributes:
        span_id: 16 hexadecimal digits, as is parent_id.
        parent_id: None when the span has no parent.
        meta: Its text tags as a JSON object, or None.
    """

    span_id: str
    parent_id: str | None
    start_ns: int
    duration_ns: int
    error: int
    service: str
    name: str
    resource: str
    meta: str | None

    __slots__ = (
        "duration_ns",
        "error",
        "meta",
        "name",
        "parent_id",
        "resource",
        "service",
        "span_id",
        "start_ns",
    )

    def __init__(self, columns: tuple[Any, ...]) -> None:
        (
            self.span_id,
            self.parent_id,
            self.start_ns,
            self.duration_ns,
            self.error,
            self.service,
            self.name,
            self.resource,
            self.meta,
        ) = columns


class StoreReader:
    """One unchanging view of the store, until closed. A context.

    Close it before doing anything slow: a writer waits meanwhile.

    Raises:
        StoreUnavailable: By every method, when the file is missing, locked, damaged, of another
            version or not a trace store.
    """

    def __init__(self, path: str) -> None:
        self._path = os.path.abspath(path)
        if not os.path.exists(self._path):
            raise NothingStored(f"there is no trace store at {self._path} yet")
        with self._clear_errors():
            # Opened for writing, and then kept from it: whoever comes first after a writer was
            # killed in the middle has to undo what it began, and a reader can be first. A file
            # that this user may only read is opened for reading by SQLite itself.
            uri = f"{_file_uri(self._path)}?mode=rw"
            self._db = sqlite3.connect(uri, timeout=BUSY_TIMEOUT_S, isolation_level=None, uri=True)
        try:
            with self._clear_errors():
                self._db.execute("PRAGMA query_only = ON")
                self._db.execute("BEGIN")
                self._check_version()
        except BaseException:
            self._db.close()
            raise

    def __enter__(self) -> Self:
        """The reader itself."""
        return self

    def __exit__(self, *exception: object) -> None:
        """Close."""
        self.close()

    def close(self) -> None:
        """Let the file go; may be repeated."""
        self._db.close()

    def recent(self, limit: int, service: str | None = None) -> list[StoredTrace]:
        """The traces that started last, newest first.

        Args:
            service: Only traces in which it took part.
        """
        if service is None:
            return self._traces("ORDER BY start_ns DESC, trace_key DESC LIMIT ?", limit)
        return self._traces(
            "WHERE trace_key IN (SELECT trace_key FROM trace_services WHERE service = ?)"
            " ORDER BY start_ns DESC, trace_key DESC LIMIT ?",
            service,
            limit,
        )

    def find(self, text: str) -> list[StoredTrace]:
        """The traces a written id can mean.

        Args:
            text: The low 64 bits in decimal; all bits or the low ones in hexadecimal, with or
                without 0x, in either case; or the first digits of one of the two.

        Returns:
            What has exactly this id; else what begins with it, at most `CANDIDATES_MAX`.
        """
        written = text.strip().lower()
        digits = written.removeprefix("0x")
        values = []
        # Nobody writes decimal ids with leading zeros; first digits of small ids look like that.
        if _is_id(written, "0123456789", 39) and not written.startswith("0"):
            values.append(int(written))
        is_hex = _is_id(digits, _HEX_DIGITS, 32)
        if is_hex and (digits != written or len(digits) in (16, 32)):
            values.append(int(digits, 16))
        found = {trace.trace_id: trace for value in values for trace in self._with_id(value)}
        if found or not is_hex:
            return list(found.values())
        return self._with_prefix(digits)

    def spans(self, trace: StoredTrace) -> list[StoredSpan]:
        """The spans of a trace, by start."""
        with self._clear_errors():
            rows = self._db.execute(
                f"SELECT {_SPAN_COLUMNS} FROM spans"
                " WHERE trace_key = (SELECT trace_key FROM traces WHERE trace_id = ?)"
                " ORDER BY start_ns, span_id",
                (trace.trace_id,),
            )
            return [StoredSpan(row) for row in rows]

    def _with_id(self, value: int) -> list[StoredTrace]:
        high = f"{value >> 64:016x}"
        # High bits that one side does not know do not tell two traces apart.
        return [
            trace
            for trace in self._traces("WHERE low_id = ?", f"{value & _LOW_MASK:016x}")
            if high == NO_HIGH or trace.trace_id[:16] in (high, NO_HIGH)
        ]

    def _with_prefix(self, digits: str) -> list[StoredTrace]:
        # "g" follows every hexadecimal digit. High bits that nobody told are no digits of an id.
        # A small id may lack its leading zeros, all of them.
        whole = digits if digits.startswith("0") else digits.rjust(16, "0")
        return self._traces(
            "WHERE low_id BETWEEN ? AND ? OR low_id = ?"
            f" OR (trace_id BETWEEN ? AND ? AND substr(trace_id, 1, 16) <> '{NO_HIGH}')"
            " ORDER BY start_ns DESC, trace_key DESC LIMIT ?",
            digits,
            digits + "g",
            whole,
            digits,
            digits + "g",
            CANDIDATES_MAX,
        )

    def _traces(self, chosen: str, *arguments: str | int) -> list[StoredTrace]:
        with self._clear_errors():
            rows = self._db.execute(
                f"SELECT low_id, trace_key, {_TRACE_COLUMNS} FROM traces {chosen}", arguments
            ).fetchall()
            return [
                StoredTrace(columns, self._short_id(low_id), self._services(trace_key))
                for low_id, trace_key, *columns in rows
            ]

    def _services(self, trace_key: int) -> list[str]:
        statement = "SELECT service FROM trace_services WHERE trace_key = ? ORDER BY service"
        return [service for (service,) in self._db.execute(statement, (trace_key,))]

    def _short_id(self, low_id: str) -> str:
        neighbours = self._db.execute(
            "SELECT (SELECT max(low_id) FROM traces WHERE low_id < :id),"
            " (SELECT min(low_id) FROM traces WHERE low_id > :id)",
            {"id": low_id},
        ).fetchone()
        # In the order of ids, nothing shares more digits with it than its neighbours do.
        length = SHORT_ID_CHARS_MIN
        while any(other is not None and other.startswith(low_id[:length]) for other in neighbours):
            length += 1
        return low_id[:length]

    def _check_version(self) -> None:
        application_id = number(self._db, "PRAGMA application_id")
        version = number(self._db, "PRAGMA user_version")
        if application_id == APPLICATION_ID and version == SCHEMA_VERSION:
            return
        if application_id == APPLICATION_ID:
            raise StoreUnavailable(
                f"the trace store {self._path} has layout {version}, this program reads"
                f" {SCHEMA_VERSION}; an agent of the same version as this program begins it anew"
            )
        if os.path.getsize(self._path) == 0:
            raise NothingStored(f"the trace store {self._path} is still empty")
        raise StoreUnavailable(f"{self._path} belongs to another program")

    @contextlib.contextmanager
    def _clear_errors(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            message = f"the trace store {self._path} cannot be read: {error}"
            raise StoreUnavailable(message) from error


def _is_id(text: str, digits: str, length_max: int) -> bool:
    return 0 < len(text) <= length_max and not text.strip(digits)


def _file_uri(path: str) -> str:
    # Imported here: nothing else of the program needs it at this point.
    from urllib.parse import quote

    path = path.replace(os.sep, "/")
    # file:///tmp/a and file:///C:/a; for a network share file:////host/a, since SQLite takes no
    # host in the place for hosts.
    return "file://" + ("" if path.startswith("/") else "/") + quote(os.fsencode(path), safe="/:")
