"""The embedded store: the latest traces in one SQLite file, for running without an account.

What this is
    The agent's sender thread hands over each finished traces body; `mini-agent traces` (another
    process, later a page in a browser) reads. One body is one transaction, and the same body
    again changes nothing: a span is known by its trace and its span id, and a later one with the
    same ids takes its place. A trace may arrive in parts, from several services, over hours;
    each part is merged and the trace's summary is computed anew.

What this is not
    A record that outlives its bounds or the loss of power. `traces_max` traces are kept, and
    fewer when `bytes_max` is reached first; those that had a span last are the last to go.

Choices
    Rollback journal, not WAL: WAL needs shared memory between its users and therefore does not
    work on network shares, where home folders may lie. Readers take their rows and let go, so a
    writer waits for milliseconds.
    synchronous=OFF: what a transaction wrote is in the system's cache when it ends, so it
    survives the death of this process at any instant, like the agent's own journal. A loss of
    power may damage the file; then it is moved aside and a new one begun. In return no slow
    disk can hold up the sender thread while the agent stops.
    A connection for each body: no handle outlives a call, so the file may be deleted or replaced
    while the agent runs, and no cache stays in memory. Opening costs about a quarter of a
    millisecond.
    Ids are text of hexadecimal digits: SQLite's integers are signed, those of JavaScript end at
    2**53, and text sorts and compares the way ids are written.
    No vacuum: pages of deleted traces are used again, so the file stays as large as it was at
    its largest, which is `bytes_max` and one body.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sqlite3

from mini_agent.errors import AgentError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from mini_agent.flow.clock import Clock
    from mini_agent.viewer.read import TracePart

log = logging.getLogger(__name__)

MIB = 1024 * 1024

# Room for about half a million spans of usual size, and little on a disk of today.
BYTES_MAX = 256 * MIB

# One trace that never ends (a worker loop) must not push out all others nor make each merge
# slow: a merge looks at every span of the trace, some 40 ms at this size.
SPANS_PER_TRACE_MAX = 50_000

# How long one side waits for the other. A reader holds the file for milliseconds and a writer
# for the time of one body, well below a second.
BUSY_TIMEOUT_S = 5.0

# "MiAT" in the file's header says that the file is ours; the version counts table layouts.
APPLICATION_ID = 0x4D694154
SCHEMA_VERSION = 1

# The high bits of a trace id as long as no span told them.
NO_HIGH = "0" * 16

# A fifth less time per row than with SQLite's 4096, at rows of half a kilobyte.
_PAGE_BYTES = 8192

# Primary result codes are the lowest byte of SQLite's extended ones.
_PRIMARY_CODE = 0xFF
_DAMAGE_CODES = (
    sqlite3.SQLITE_CORRUPT,
    sqlite3.SQLITE_NOTADB,
    sqlite3.SQLITE_ERROR,
    sqlite3.SQLITE_CONSTRAINT,
)

_SCHEMA = (
    # A trace is known by the low 64 bits of its id: every tracer sends them, while the high ones
    # come with one span of each chunk, and not from every tracer. Times are in nanoseconds since
    # 1970; duration_ns reaches from the first start to the last end.
    """CREATE TABLE traces (
        trace_key INTEGER PRIMARY KEY,
        low_id TEXT NOT NULL UNIQUE,
        trace_id TEXT NOT NULL,
        decimal_id TEXT NOT NULL,
        received_ns INTEGER NOT NULL,
        start_ns INTEGER NOT NULL DEFAULT 0,
        duration_ns INTEGER NOT NULL DEFAULT 0,
        span_count INTEGER NOT NULL DEFAULT 0,
        error_count INTEGER NOT NULL DEFAULT 0,
        omitted_count INTEGER NOT NULL DEFAULT 0,
        root_span_id TEXT,
        service TEXT NOT NULL DEFAULT '',
        name TEXT NOT NULL DEFAULT '',
        resource TEXT NOT NULL DEFAULT '',
        env TEXT,
        origin TEXT,
        priority INTEGER)""",
    "CREATE INDEX traces_by_id ON traces (trace_id)",
    "CREATE INDEX traces_by_received ON traces (received_ns)",
    "CREATE INDEX traces_by_start ON traces (start_ns)",
    "CREATE INDEX traces_by_duration ON traces (duration_ns)",
    "CREATE INDEX traces_failed ON traces (start_ns) WHERE error_count > 0",
    # Every service that took part in a trace.
    """CREATE TABLE trace_services (
        service TEXT NOT NULL,
        trace_key INTEGER NOT NULL,
        PRIMARY KEY (service, trace_key)) WITHOUT ROWID""",
    "CREATE INDEX trace_services_by_trace ON trace_services (trace_key)",
    # The last five are JSON, NULL when empty; bytes in meta_struct are base64.
    """CREATE TABLE spans (
        trace_key INTEGER NOT NULL,
        span_id TEXT NOT NULL,
        parent_id TEXT,
        start_ns INTEGER NOT NULL,
        duration_ns INTEGER NOT NULL,
        error INTEGER NOT NULL,
        service TEXT NOT NULL,
        name TEXT NOT NULL,
        resource TEXT NOT NULL,
        type TEXT NOT NULL,
        meta TEXT,
        metrics TEXT,
        meta_struct TEXT,
        links TEXT,
        events TEXT,
        UNIQUE (trace_key, span_id))""",
    # All that a summary needs: merging into a large trace reads no whole rows, which takes a
    # tenth of the time and makes inserting no slower that could be measured.
    """CREATE INDEX spans_by_start ON spans
        (trace_key, start_ns, duration_ns, error, parent_id, span_id)""",
    f"PRAGMA application_id = {APPLICATION_ID}",
    f"PRAGMA user_version = {SCHEMA_VERSION}",
)

_INSERT_SPAN = "INSERT OR REPLACE INTO spans VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"

# A CAST, because a sum past 64 bits becomes a float in SQLite.
_SUMMARISE = """UPDATE traces SET (start_ns, duration_ns, span_count, error_count) = (
        SELECT min(start_ns), CAST(max(start_ns + duration_ns) - min(start_ns) AS INTEGER),
            count(*), sum(error <> 0)
        FROM spans WHERE spans.trace_key = traces.trace_key)
    WHERE trace_key = ?"""

# The root: a span without a parent; else one whose parent is not stored; else any. The earliest
# of them. The later questions are asked only when the earlier ones found nothing.
_NAME_ROOT = """UPDATE traces SET (root_span_id, service, name, resource) = (
        SELECT span_id, service, name, resource FROM spans
        WHERE trace_key = :key AND span_id = coalesce(
            (SELECT span_id FROM spans WHERE trace_key = :key AND parent_id IS NULL
                ORDER BY start_ns LIMIT 1),
            (SELECT span_id FROM spans AS child WHERE trace_key = :key AND NOT EXISTS (
                    SELECT 1 FROM spans AS parent
                    WHERE parent.trace_key = :key AND parent.span_id = child.parent_id)
                ORDER BY start_ns LIMIT 1),
            (SELECT span_id FROM spans WHERE trace_key = :key ORDER BY start_ns LIMIT 1)))
    WHERE trace_key = :key"""

_OLDEST = "(SELECT trace_key FROM traces ORDER BY received_ns, trace_key LIMIT ?)"


class StoreUnavailable(AgentError):
    """The store cannot be used now: locked, no room, no permission, not ours, not there yet.

    Nothing of the body at hand was stored; the same call may succeed later.
    """


class _Unusable(Exception):
    """The file must make way for a new one."""

    def __init__(self, suffix: str, reason: str) -> None:
        super().__init__(reason)
        self.suffix = suffix


class TraceStore:
    """The writing side; one per agent, called from one thread at a time.

    Two agents may share a file: they wait for each other.

    Args:
        path: The SQLite file; made with its folder, for this user only, when missing.
        traces_max: Traces kept.
        clock: For the stamp of arrival.
        bytes_max: Room the stored traces may take; the file may be larger by one body.
    """

    def __init__(
        self, path: str, traces_max: int, clock: Clock, bytes_max: int = BYTES_MAX
    ) -> None:
        assert traces_max > 0, traces_max
        self._path = os.path.abspath(path)
        self._traces_max = traces_max
        self._clock = clock
        self._bytes_max = bytes_max

    @property
    def path(self) -> str:
        """Where the store lies, absolute."""
        return self._path

    def prepare(self) -> None:
        """Make the file, so that trouble with it shows before the first trace.

        Raises:
            StoreUnavailable: It can be neither made nor opened.
        """
        self._write([])

    def add_payload(self, body: bytes) -> int:
        """Store what one traces body carries, all of it or nothing.

        Args:
            body: A whole `AgentPayload`, not compressed.

        Returns:
            How many spans the body has.

        Raises:
            StoreUnavailable: Try again later.
            DecodeError: The body is not an `AgentPayload` and never will be.
        """
        # Imported with the first body: an agent that starts need not wait for what it loads.
        from mini_agent.viewer.read import read_payload

        parts = read_payload(body)
        self._write(parts)
        return sum(len(part.spans) for part in parts)

    def _write(self, parts: Sequence[TracePart]) -> None:
        try:
            try:
                self._write_once(parts)
            except _Unusable as unusable:
                self._set_aside(unusable)
                self._write_once(parts)
        except (_Unusable, sqlite3.Error, OSError) as error:
            message = f"the trace store {self._path} cannot be used: {error}"
            raise StoreUnavailable(message) from error

    def _write_once(self, parts: Sequence[TracePart]) -> None:
        try:
            # Closing without a commit undoes what was begun.
            with contextlib.closing(self._open()) as db:
                db.execute("BEGIN IMMEDIATE")
                _make_tables(db)
                self._add(db, parts)
                db.execute("COMMIT")
        except sqlite3.DatabaseError as error:
            if _is_damage(error):
                raise _Unusable(".damaged", f"it is damaged ({error})") from error
            raise

    def _open(self) -> sqlite3.Connection:
        os.makedirs(os.path.dirname(self._path), mode=0o700, exist_ok=True)
        # SQLite would make the file readable for everybody; its journal takes the file's mode.
        os.close(os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600))
        db = sqlite3.connect(self._path, timeout=BUSY_TIMEOUT_S, isolation_level=None)
        try:
            _check_owner(db)
            db.execute(f"PRAGMA page_size = {_PAGE_BYTES}")
            # TRUNCATE rather than DELETE: on Windows a deleted file may linger under a scanner.
            db.execute("PRAGMA journal_mode = TRUNCATE")
            db.execute("PRAGMA synchronous = OFF")
        except BaseException:
            db.close()
            raise
        return db

    def _add(self, db: sqlite3.Connection, parts: Sequence[TracePart]) -> None:
        received_ns = self._clock.wall_ns()
        for part in parts:
            key = _upsert_trace(db, part, received_ns)
            db.executemany(_INSERT_SPAN, [(key, *span) for span in part.spans])
            db.executemany(
                "INSERT OR IGNORE INTO trace_services VALUES (?, ?)",
                [(service, key) for service in part.services],
            )
            db.execute(_SUMMARISE, (key,))
            _shorten_trace(db, key)
            db.execute(_NAME_ROOT, {"key": key})
        self._drop_oldest(db)

    def _drop_oldest(self, db: sqlite3.Connection) -> None:
        """Bring the store back within its bounds."""
        count = number(db, "SELECT count(*) FROM traces")
        excess_count = count - self._traces_max
        while count > 0:
            if excess_count > 0:
                for table in ("spans", "trace_services", "traces"):
                    statement = f"DELETE FROM {table} WHERE trace_key IN {_OLDEST}"
                    db.execute(statement, (excess_count,))
                count -= excess_count
            used_bytes = _used_bytes(db)
            if used_bytes <= self._bytes_max:
                break
            # As many as would do if all traces were of one size, and one more.
            share = (used_bytes - self._bytes_max) / used_bytes
            excess_count = min(count, int(count * share) + 1)

    def _set_aside(self, unusable: _Unusable) -> None:
        # The journal goes first: left beside a new file it would be played into it.
        for suffix in ("-journal", "-wal", "-shm"):
            with contextlib.suppress(FileNotFoundError):
                os.remove(self._path + suffix)
        aside = self._path + unusable.suffix
        os.replace(self._path, aside)
        log.warning(
            "The trace store %s is begun anew: %s; the old file is now %s",
            self._path,
            unusable,
            aside,
        )


def _check_owner(db: sqlite3.Connection) -> None:
    # Somebody's own file, named by mistake, stays as it is; before anything else is done to it.
    if number(db, "PRAGMA application_id") == APPLICATION_ID:
        return
    if number(db, "SELECT count(*) FROM sqlite_master"):
        raise sqlite3.OperationalError("it belongs to another program")


def _make_tables(db: sqlite3.Connection) -> None:
    version = number(db, "PRAGMA user_version")
    if number(db, "PRAGMA application_id") != APPLICATION_ID:
        for statement in _SCHEMA:
            db.execute(statement)
    elif version != SCHEMA_VERSION:
        raise _Unusable(f".v{version}", f"it has layout {version}, not {SCHEMA_VERSION}")


def _upsert_trace(db: sqlite3.Connection, part: TracePart, received_ns: int) -> int:
    low_id = f"{part.trace_id_low:016x}"
    row = db.execute("SELECT trace_key, trace_id FROM traces WHERE low_id = ?", (low_id,))
    known: tuple[int, str] | None = row.fetchone()
    high = f"{part.trace_id_high:016x}"
    if known is None:
        cursor = db.execute(
            "INSERT INTO traces (low_id, trace_id, decimal_id, received_ns, env, origin, priority)"
            " VALUES (?, ?, ?, ?, ?, ?, ?)",
            (
                low_id,
                high + low_id,
                str(part.trace_id_low),
                received_ns,
                part.env,
                part.origin,
                part.priority,
            ),
        )
        assert cursor.lastrowid is not None
        return cursor.lastrowid
    key, trace_id = known
    if high == NO_HIGH:
        high = trace_id[:16]
    # What an earlier part told stays unless a later one tells otherwise.
    db.execute(
        "UPDATE traces SET trace_id = ?, received_ns = ?, env = coalesce(?, env),"
        " origin = coalesce(?, origin), priority = coalesce(?, priority) WHERE trace_key = ?",
        (high + low_id, received_ns, part.env, part.origin, part.priority, key),
    )
    return key


def _shorten_trace(db: sqlite3.Connection, key: int) -> None:
    """Let the earliest spans of an overlong trace go, those without a parent last."""
    count = number(db, "SELECT span_count FROM traces WHERE trace_key = ?", key)
    excess = count - SPANS_PER_TRACE_MAX
    if excess <= 0:
        return
    db.execute(
        "DELETE FROM spans WHERE trace_key = :key AND span_id IN (SELECT span_id FROM spans"
        " WHERE trace_key = :key ORDER BY parent_id IS NULL, start_ns LIMIT :excess)",
        {"key": key, "excess": excess},
    )
    db.execute(_SUMMARISE, (key,))
    db.execute(
        "UPDATE traces SET omitted_count = omitted_count + ? WHERE trace_key = ?", (excess, key)
    )


def _used_bytes(db: sqlite3.Connection) -> int:
    pages = number(db, "PRAGMA page_count") - number(db, "PRAGMA freelist_count")
    return pages * number(db, "PRAGMA page_size")


def number(db: sqlite3.Connection, statement: str, *arguments: object) -> int:
    """The one number a statement answers with."""
    (number,) = db.execute(statement, arguments).fetchone()
    return int(number)


def _is_damage(error: sqlite3.DatabaseError) -> bool:
    # SQLite's own errors carry a code, those of its Python face do not. Our statements are
    # always the same and avoid conflicts: an ERROR is a table of another shape under our
    # version, and a CONSTRAINT an index that lost step with its table.
    code = getattr(error, "sqlite_errorcode", 0) & _PRIMARY_CODE
    return code in _DAMAGE_CODES
