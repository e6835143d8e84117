"""A scripted intake on loopback that keeps what it was sent and knows every span id.

It listens on a port of its own and runs in threads, so that a test may block, and an agent in
another process may be served, without an event loop. What it answers is a *behaviour*: a plain
status, or one of the classes below, or a function of the arrival that returns either.

    with Intake() as intake:
        intake.answer_next([503, Reset(), Answer(429, {"Retry-After": "2"})])
        ...
        intake.wait_for(lambda: intake.ids >= sent)

An arrival is recorded before it is answered: whoever has seen the answer sees the record. It is
*taken* when it was answered with a 2xx, or when its behaviour says so (an intake may take a
request and lose the answer); only what was taken is in `spans()`, `ids` and `id_counts`.
"""

from __future__ import annotations

import contextlib
import http.client
import socket
import threading
import time
from collections import Counter, deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from kit import protos, stats
from kit.loopback import (
    LINGER_NONE,
    WAIT_S_MAX,
    Authority,
    Listener,
    decompress,
    encode_answer,
    is_closed_by_peer,
    read_body,
    read_head,
    reset,
)

if TYPE_CHECKING:
    import io
    from collections.abc import Callable, Iterable, Mapping
    from pathlib import Path
    from typing import TypeAlias

    Behaviour: TypeAlias = "int | Answer | Reset | Close | Hang | Trickle"
    Script: TypeAlias = "Behaviour | Callable[[Arrival], Behaviour]"

TRACES = "/api/v0.2/traces"
STATS = "/api/v0.2/stats"


@dataclass(frozen=True)
class Answer:
    """A complete answer."""

    status: int = 202
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b"{}"

    def encode(self) -> bytes:
        return encode_answer(self.status, self.headers, self.body)


@dataclass(frozen=True)
class Reset:
    """Reset the connection: before a byte of the request is looked at, or after reading it all."""

    before_reading: bool = False
    takes: bool = False


@dataclass(frozen=True)
class Close:
    """Read the request and close the connection in good order, without an answer."""

    takes: bool = False


@dataclass(frozen=True)
class Hang:
    """Say nothing until `release`, then answer if the sender is still there."""

    before_reading: bool = False
    then: Answer = Answer()


@dataclass(frozen=True)
class Trickle:
    """Answer one byte at a time."""

    answer: Answer = Answer()
    byte_interval_s: float = 0.05


@dataclass
class Arrival:
    """One request, complete.

    Attributes:
        headers: Lower-case names; the last value of a repeated one.
        header_pairs: As sent, in order, repeated ones included.
        wire_bytes: Size of the body as sent.
        body: Decompressed; empty where the intake keeps no payloads.
        payload: The AgentPayload of a trace request.
        problem: What is wrong with the body, if anything.
        taken: Whether the intake has it; see the top of the file.
    """

    number: int
    method: str
    path: str
    query: str
    header_pairs: list[tuple[str, str]]
    wire_bytes: int
    body_bytes: int
    body: bytes
    payload: Any | None
    problem: str | None
    arrived_steady_s: float
    taken: bool = False

    @property
    def headers(self) -> dict[str, str]:
        return {name.lower(): value for name, value in self.header_pairs}

    @property
    def spans(self) -> list[Any]:
        if self.payload is None:
            return []
        return [
            span
            for tracer_payload in self.payload.tracerPayloads
            for chunk in tracer_payload.chunks
            for span in chunk.spans
        ]


def refuse_above(body_bytes_max: int) -> Callable[[Arrival], Behaviour]:
    """Behave as an intake with a size limit, counted before compression."""
    return lambda arrival: 413 if arrival.body_bytes > body_bytes_max else 202


def refuse_until_key(key: str) -> Callable[[Arrival], Behaviour]:
    """Behave as an intake that knows one key."""
    return lambda arrival: 202 if arrival.headers.get("dd-api-key") == key else 403


class Intake:
    """The intake; safe to use from any thread.

    Attributes:
        complaints: What arrived and could not be read, one sentence each. A test that does not
            expect any asserts that this is empty; the `intake` fixture does.
    """

    def __init__(self, *, tls: bool = False, keep_payloads: bool = True) -> None:
        # Compiled before the first request has to wait for it.
        protos.load()
        self.complaints: list[str] = []
        self._keep_payloads = keep_payloads
        # Re-entrant: predicates read the public properties while the lock is held.
        self._changed = threading.Condition(threading.RLock())
        self._arrivals: list[Arrival] = []
        self._spans: list[Any] = []
        self._id_counts: Counter[int] = Counter()
        self._always: list[tuple[str | None, Script]] = [(None, 202)]
        self._next: deque[tuple[str | None, Script]] = deque()
        self._releases = 0
        self._hung = 0
        self._resets = 0
        self._connections: dict[socket.socket, threading.Thread] = {}
        self._connections_seen = 0
        self._closed = False
        self._tls = Authority() if tls else None
        self.host = "127.0.0.1"
        listener = Listener(self.host, 0, self._take_connection)
        self.port = listener.port
        self._listener: Listener | None = listener

    def __enter__(self) -> Intake:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def url(self) -> str:
        return f"{'https' if self._tls else 'http'}://{self.host}:{self.port}"

    def write_certificates(self, path: Path) -> Path:
        """Write what a client must trust to reach a TLS intake."""
        assert self._tls is not None, "this intake has no TLS"
        path.write_bytes(self._tls.certificates)
        return path

    # What it answers

    def answer_always(
        self,
        script: Script,
        headers: Mapping[str, str] | None = None,
        *,
        path: str | None = None,
    ) -> None:
        """Behave so from now on, for one path or for every path; forgets what `answer_next` set."""
        if isinstance(script, int):
            script = Answer(script, dict(headers or {}))
        with self._changed:
            if path is None:
                self._always = [(None, script)]
                self._next.clear()
            else:
                self._always = [(path, script), *(a for a in self._always if a[0] != path)]
                self._next = deque(entry for entry in self._next if entry[0] != path)

    def answer_next(self, scripts: Iterable[Script], *, path: str | None = None) -> None:
        """Behave so for the next requests, one entry each; afterwards as `answer_always` said."""
        with self._changed:
            self._next.extend((path, script) for script in scripts)

    def release(self) -> None:
        """Let every request that hangs now have its answer."""
        with self._changed:
            self._releases += 1
            self._changed.notify_all()

    def pause(self) -> None:
        """Refuse connections and cut the open ones."""
        with self._changed:
            listener, self._listener = self._listener, None
        if listener is not None:
            listener.close()
        self._end_connections()

    def resume(self) -> None:
        """Listen on the same port again."""
        assert self._listener is None, "the intake is listening"
        self._listener = Listener(self.host, self.port, self._take_connection)

    def close(self) -> None:
        """End everything; may be repeated."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self.pause()

    # What it has seen

    @property
    def arrivals(self) -> list[Arrival]:
        """Every request in order of arrival, whatever it was answered."""
        with self._changed:
            return list(self._arrivals)

    def arrivals_at(self, path: str) -> list[Arrival]:
        return [arrival for arrival in self.arrivals if arrival.path == path]

    @property
    def ids(self) -> set[int]:
        """The ids of all spans taken."""
        with self._changed:
            return set(self._id_counts)

    @property
    def id_counts(self) -> Counter[int]:
        """How often each span id was taken."""
        with self._changed:
            return Counter(self._id_counts)

    def spans(self) -> list[Any]:
        """Every span taken, decoded, in order; empty where the intake keeps no payloads."""
        with self._changed:
            return list(self._spans)

    @property
    def span_count(self) -> int:
        """How many spans were taken, repetitions included."""
        with self._changed:
            return self._id_counts.total()

    @property
    def hung_count(self) -> int:
        """How many requests hang now."""
        with self._changed:
            return self._hung

    @property
    def reset_count(self) -> int:
        """How many connections were reset on purpose."""
        with self._changed:
            return self._resets

    @property
    def connection_count(self) -> int:
        """How many connections were ever accepted."""
        with self._changed:
            return self._connections_seen

    def stats_entries(self) -> list[dict[str, Any]]:
        """Every group of stats taken, in order; see kit.stats."""
        taken = [arrival for arrival in self.arrivals_at(STATS) if arrival.taken]
        return [entry for arrival in taken for entry in stats.entries(arrival.body)]

    def wait_for(self, predicate: Callable[[], Any], timeout_s: float = WAIT_S_MAX) -> Any:
        """Wait until the predicate holds; it is asked after every change of this intake.

        Raises:
            TimeoutError: It did not; says what had arrived.
        """
        with self._changed:
            value = self._changed.wait_for(predicate, timeout_s)
            if not value:
                raise TimeoutError(f"not within {timeout_s:g} s; {self._summary()}")
            return value

    def wait_for_spans(self, count: int, timeout_s: float = WAIT_S_MAX) -> list[Any]:
        """Wait until that many different spans were taken."""
        self.wait_for(lambda: len(self._id_counts) >= count, timeout_s)
        return self.spans()

    def _summary(self) -> str:
        paths = Counter(arrival.path for arrival in self._arrivals)
        return (
            f"{len(self._id_counts)} spans taken, requests {dict(paths)}, {self._hung} hung, "
            f"complaints {self.complaints}"
        )

    # One connection

    def _take_connection(self, connection: socket.socket) -> None:
        thread = threading.Thread(
            target=self._serve, args=(connection,), name="intake-connection", daemon=True
        )
        with self._changed:
            self._connections_seen += 1
            self._connections[connection] = thread
            self._changed.notify_all()
        thread.start()

    def _serve(self, plain: socket.socket) -> None:
        connection = plain
        try:
            if self._tls is not None:
                # Wrapping takes the descriptor over; the books follow it.
                connection = self._tls.context.wrap_socket(
                    plain, server_side=True, do_handshake_on_connect=False
                )
                with self._changed:
                    self._connections[connection] = self._connections.pop(plain)
                connection.do_handshake()
            with connection.makefile("rb") as reader:
                while self._serve_request(connection, reader):
                    pass
        except (OSError, http.client.HTTPException):
            # The other side's business: a client that went away in the middle is part of tests.
            pass
        finally:
            with self._changed:
                self._connections.pop(plain, None)
                self._connections.pop(connection, None)
                self._changed.notify_all()
            connection.close()

    def _serve_request(self, connection: socket.socket, reader: io.BufferedReader) -> bool:
        """Take one request; returns whether the connection lives on."""
        if not reader.peek(1):
            return False
        early = self._pop_early_script()
        if isinstance(early, Reset):
            return self._reset(connection, reader)
        if isinstance(early, Hang):
            self._hang(connection)
        arrival = self._read_arrival(connection, reader)
        behaviour = early.then if isinstance(early, Hang) else self._behaviour_for(arrival)
        return self._behave(behaviour, arrival, connection, reader)

    def _pop_early_script(self) -> Reset | Hang | None:
        with self._changed:
            if self._next:
                path, script = self._next[0]
            else:
                path, script = next(a for a in reversed(self._always) if a[0] is None)
            if path is None and isinstance(script, Reset | Hang) and script.before_reading:
                if self._next:
                    self._next.popleft()
                return script
        return None

    def _behaviour_for(self, arrival: Arrival) -> Behaviour:
        if arrival.problem is not None:
            return 400
        with self._changed:
            script = self._script_for(arrival.path)
        return script(arrival) if callable(script) else script

    def _script_for(self, path: str) -> Script:
        for index, (wanted, script) in enumerate(self._next):
            if wanted in (None, path):
                del self._next[index]
                return script
        return next(script for wanted, script in self._always if wanted in (None, path))

    def _behave(
        self,
        behaviour: Behaviour,
        arrival: Arrival,
        connection: socket.socket,
        reader: io.BufferedReader,
    ) -> bool:
        if isinstance(behaviour, Hang) and not behaviour.before_reading:
            self._hang(connection)
            behaviour = behaviour.then
        if isinstance(behaviour, int):
            behaviour = Answer(behaviour)
        match behaviour:
            case Answer():
                self._settle(arrival, taken=200 <= behaviour.status < 300)
                connection.sendall(behaviour.encode())
            case Trickle(answer, byte_interval_s):
                self._settle(arrival, taken=200 <= answer.status < 300)
                self._trickle(connection, answer.encode(), byte_interval_s)
            case Reset(takes=takes):
                self._settle(arrival, taken=takes)
                return self._reset(connection, reader)
            case Close(takes):
                self._settle(arrival, taken=takes)
                return False
            case _:
                raise AssertionError(f"{behaviour} cannot be done here")
        return arrival.headers.get("connection", "").lower() != "close"

    def _settle(self, arrival: Arrival, *, taken: bool) -> None:
        with self._changed:
            arrival.taken = taken
            if taken:
                spans = arrival.spans
                self._id_counts.update(span.spanID for span in spans)
                if self._keep_payloads:
                    self._spans.extend(spans)
            if not self._keep_payloads:
                arrival.payload, arrival.body = None, b""
            self._changed.notify_all()

    def _hang(self, connection: socket.socket) -> None:
        """Wait for `release`.

        Raises:
            ConnectionError: The sender went away, or the intake is closed.
        """
        with self._changed:
            before = self._releases
            self._hung += 1
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._releases > before or self._closed)
            self._hung -= 1
            self._changed.notify_all()
        if self._closed or is_closed_by_peer(connection):
            raise ConnectionError("nobody waits for the answer")

    def _trickle(self, connection: socket.socket, answer: bytes, interval_s: float) -> None:
        for index in range(len(answer)):
            with self._changed:
                if self._changed.wait_for(lambda: self._closed, interval_s):
                    raise ConnectionError("the intake is closed")
            connection.sendall(answer[index : index + 1])

    def _reset(self, connection: socket.socket, reader: io.BufferedReader) -> bool:
        with self._changed:
            self._resets += 1
            self._changed.notify_all()
        # The descriptor is only released when the reader lets go of it too.
        reader.close()
        reset(connection)
        return False

    def _end_connections(self) -> None:
        with self._changed:
            open_now = dict(self._connections)
        for connection in open_now:
            with contextlib.suppress(OSError):
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_NONE)
            with contextlib.suppress(OSError):
                # Wakes the thread that reads; it closes. The plain socket's method, because the
                # TLS one takes the session away from under that thread.
                socket.socket.shutdown(connection, socket.SHUT_RDWR)
        for thread in open_now.values():
            if thread is not threading.current_thread():
                thread.join(WAIT_S_MAX)

    # One request

    def _read_arrival(self, connection: socket.socket, reader: io.BufferedReader) -> Arrival:
        method, target, pairs = read_head(reader)
        path, _, query = target.partition("?")
        headers = {name.lower(): value for name, value in pairs}
        if headers.get("expect", "").lower() == "100-continue":
            connection.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
        raw = read_body(reader, headers)
        body, payload, problem = b"", None, None
        try:
            body = decompress(raw, headers.get("content-encoding", "identity"))
            if path == TRACES:
                payload = protos.load().AgentPayload.FromString(body)
            elif path == STATS:
                stats.decode(body)
        except Exception as error:  # noqa: BLE001 - whatever a decoder says is the complaint
            problem = f"{method} {path}: {type(error).__name__}: {error}"
        with self._changed:
            if problem is not None:
                self.complaints.append(problem)
            arrival = Arrival(
                number=len(self._arrivals),
                method=method,
                path=path,
                query=query,
                header_pairs=pairs,
                wire_bytes=len(raw),
                body_bytes=len(body),
                body=body,
                payload=payload,
                problem=problem,
                arrived_steady_s=time.monotonic(),
            )
            self._arrivals.append(arrival)
            self._changed.notify_all()
        return arrival
