"""forward.exchange: one request at a time, with servers that behave and servers that do not."""

from __future__ import annotations

import selectors
import shutil
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import trustme
from kit.loopback import WAIT_S_MAX, reset

from mini_agent.forward import exchange
from mini_agent.forward.exchange import Address, Connection, ExchangeError, Proxy

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"
# What some servers say before they close an idle connection.
UNASKED = b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\n\r\n"

# Quick, and long enough for everything that is not meant to take so long.
SHORT_S = 0.3

Script = Callable[[socket.socket], object]


class Server:
    """Accepts connections one after the other and plays a script on each."""

    def __init__(self, *scripts: Script) -> None:
        self._scripts = scripts
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port = self._listening.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.heads: list[bytes] = []
        self.bodies: list[bytes] = []
        # One for each connection whose end the client can see.
        self.ended = threading.Semaphore(0)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        for script in self._scripts:
            try:
                connection, _ = self._listening.accept()
            except OSError:
                # Closed: the test is over.
                return
            # A client that leaves in the middle is part of some tests.
            with suppress(OSError), connection:
                connection.settimeout(WAIT_S_MAX)
                script(connection)
            self.ended.release()

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        # What it accepts is over, even while it waits.
        with suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        self._thread.join(WAIT_S_MAX)

    def take(self, connection: socket.socket) -> None:
        """Take one request."""
        head, body = take_request(connection)
        self.heads.append(head)
        self.bodies.append(body)

    def answer(self, connection: socket.socket, *answers: bytes) -> None:
        """Take one request for each answer."""
        for each in answers:
            self.take(connection)
            connection.sendall(each)


def take_request(connection: socket.socket) -> tuple[bytes, bytes]:
    """Head and body of a request."""
    read = b""
    while b"\r\n\r\n" not in read:
        read += receive(connection)
    head, _, body = read.partition(b"\r\n\r\n")
    length = 0
    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            length = int(line.partition(b":")[2])
    while len(body) < length:
        body += receive(connection)
    return head, body


def receive(connection: socket.socket) -> bytes:
    data = connection.recv(65536)
    if not data:
        raise ConnectionError("the client left")
    return data


def drip(connection: socket.socket, begin: bytes, drop: bytes) -> None:
    """Send something now, and then one piece after the other until the client has enough."""
    connection.sendall(begin)
    pause = threading.Event()
    while not pause.wait(SHORT_S / 10):
        connection.sendall(drop)


def serve(*answers: bytes, connections: int = 1) -> Server:
    """A server that gives these answers on each of its connections, and then closes it."""
    server = Server(*[lambda connection: server.answer(connection, *answers)] * connections)
    return server


@contextmanager
def connect(url: str, proxy: Proxy | None = None) -> Iterator[Connection]:
    connection = Connection(Address(url), proxy)
    try:
        yield connection
    finally:
        connection.close()


def resolve_to(
    monkeypatch: pytest.MonkeyPatch, *addresses: tuple[socket.AddressFamily, tuple[str, int]]
) -> None:
    """Every name has these addresses."""
    found = [(family, socket.SOCK_STREAM, 0, "", where) for family, where in addresses]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)


def refusing_port() -> int:
    """A port nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port: int = taken.getsockname()[1]
        return port


@pytest.mark.parametrize(
    ("url", "host", "port", "path", "authority"),
    [
        ("http://intake", "intake", 80, "", "intake"),
        ("https://intake:443/", "intake", 443, "", "intake"),
        ("https://intake:8443/a/b/", "intake", 8443, "/a/b", "intake:8443"),
        ("http://127.0.0.1:81", "127.0.0.1", 81, "", "127.0.0.1:81"),
        ("http://[::1]", "::1", 80, "", "[::1]"),
        ("https://[::1]:8443/x", "::1", 8443, "/x", "[::1]:8443"),
    ],
)
def test_a_url_says_where_to(url: str, host: str, port: int, path: str, authority: str) -> None:
    address = Address(url)
    named = (address.host, address.port, address.path, address.authority)
    assert named == (host, port, path, authority)


def test_a_request_is_sent_whole_and_its_answer_read() -> None:
    with serve(OK) as server, connect(server.url + "/prefix") as connection:
        # The e with an accent as a client may have sent it: one byte.
        answer = connection.post("/path", {"x-one": "caf\xe9"}, b"body")
        assert (answer.status, answer.retry_after) == (200, None)
    assert server.bodies == [b"body"]
    assert server.heads[0].split(b"\r\n") == [
        b"POST /prefix/path HTTP/1.1",
        b"host: 127.0.0.1:%d" % server.port,
        b"content-length: 4",
        b"x-one: caf\xe9",
    ]


def test_a_small_request_leaves_in_one_piece() -> None:
    pieces: list[bytes] = []

    def script(connection: socket.socket) -> None:
        pieces.append(connection.recv(65536))
        connection.sendall(OK)

    with Server(script) as server, connect(server.url) as connection:
        connection.post("/", {}, b"body")
    assert pieces[0].endswith(b"\r\n\r\nbody")


SIZES = [0, 1, 16_383, 16_384, 16_385, 3_200_000]


@pytest.mark.parametrize("size", SIZES)
def test_a_body_arrives_as_it_is(size: int) -> None:
    body = bytes(number % 251 for number in range(size))
    with serve(OK) as server, connect(server.url) as connection:
        assert connection.post("/", {}, body).status == 200
    assert server.bodies == [body]


@pytest.mark.parametrize(
    ("answer", "status", "retry_after"),
    [
        (b"HTTP/1.1 503 Busy\r\nRetry-After: 7\r\nContent-Length: 0\r\n\r\n", 503, "7"),
        (b"HTTP/1.1 204 No Content\r\n\r\n", 204, None),
        (b"HTTP/1.1 200\r\nretry-after:  1\r\ncontent-length: 0\r\n\r\n", 200, "1"),
        (b"HTTP/1.1 100 Continue\r\n\r\n" + OK, 200, None),
        (b"HTTP/1.1 103 Early Hints\r\nRetry-After: 7\r\n\r\n" + OK, 200, None),
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n"
            b"Retry-After: 7\r\n\r\n",
            200,
            None,
        ),
        (b"HTTP/1.1 202 Accepted\r\n\r\nuntil the end", 202, None),
        (b"HTTP/1.0 200 OK\r\n\r\n", 200, None),
        # The verdict has been said, whatever follows.
        (b"HTTP/1.1 429 Slow\r\nRetry-After: 3\r\nContent-Length: 100\r\n\r\nx", 429, "3"),
        (b"HTTP/1.1 200 OK\r\nContent-", 200, None),
        (b"HTTP/1.1 200 OK\nContent-Length: 0\n\n", 200, None),
        (b"HTTP/1.1 202 Accepted\r\nodd field\r\n\r\n", 202, None),
        (b"HTTP/1.1 202 A\r\nContent-Length: 0\r\nTransfer-Encoding: chunked\r\n\r\n", 202, None),
        (b"HTTP/1.1 202 A\r\nTransfer-Encoding: chunked\r\n\r\nodd\r\n", 202, None),
    ],
)
def test_every_form_of_an_answer_is_read(
    answer: bytes, status: int, retry_after: str | None
) -> None:
    with serve(answer, connections=2) as server, connect(server.url) as connection:
        for _ in range(2):
            got = connection.post("/", {}, b"")
            assert (got.status, got.retry_after) == (status, retry_after)
            assert server.ended.acquire(timeout=WAIT_S_MAX)


def test_an_answer_that_arrives_byte_by_byte_is_read() -> None:
    answer = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 429 Slow\r\nRetry-After: 12\r\n\r\n"

    def script(connection: socket.socket) -> None:
        server.take(connection)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for place in range(len(answer)):
            connection.sendall(answer[place : place + 1])

    with Server(script) as server, connect(server.url) as connection:
        got = connection.post("/", {}, b"")
        assert (got.status, got.retry_after) == (429, "12")


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"HTTP/1.1 20",
        b"HTTP/1.1 2x0 OK\r\n\r\n",
        b"SSH-2.0-x\r\n\r\n",
        b"\x16\x03\x01 not HTTP\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\n",
        b"HTTP/1.1 101 Other\r\nUpgrade: other\r\nConnection: upgrade\r\n\r\n",
    ],
)
def test_what_is_no_answer_is_an_error_and_the_next_request_goes_well(answer: bytes) -> None:
    def script(connection: socket.socket) -> None:
        server.answer(connection, answer)

    def recovered(connection: socket.socket) -> None:
        server.answer(connection, OK)

    with Server(script, recovered) as server, connect(server.url) as connection:
        with pytest.raises(ExchangeError):
            connection.post("/", {}, b"")
        assert connection.post("/", {}, b"").status == 200


@pytest.mark.parametrize(
    "answer",
    [
        OK,
        b"HTTP/1.1 204 No Content\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\n" + OK,
        b"HTTP/1.1 413 Large\r\nContent-Length: 3\r\n\r\nbig",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
        b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 0\r\n\r\n",
    ],
)
def test_a_connection_is_used_again(answer: bytes) -> None:
    with serve(answer, answer, answer) as server, connect(server.url) as connection:
        statuses = {connection.post("/", {}, b"x").status for _ in range(3)}
        assert len(statuses) == 1
        assert len(server.heads) == 3


@pytest.mark.parametrize(
    "last",
    [
        OK,
        OK.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"),
        OK + UNASKED,
    ],
)
def test_a_connection_that_is_at_its_end_is_opened_anew(last: bytes) -> None:
    with serve(last, connections=3) as server, connect(server.url) as connection:
        for _ in range(3):
            assert connection.post("/", {}, b"x").status == 200
            assert server.ended.acquire(timeout=WAIT_S_MAX)


@pytest.mark.parametrize("at_once", [True, False])
def test_an_answer_nobody_asked_for_belongs_to_no_request(at_once: bool) -> None:
    said = threading.Semaphore(0)

    def script(connection: socket.socket) -> None:
        if at_once:
            server.answer(connection, OK + UNASKED)
        else:
            server.answer(connection, OK)
            connection.sendall(UNASKED)
        said.release()
        # Open until the client has seen it and gone.
        connection.recv(1)

    with Server(script, script) as server, connect(server.url) as connection:
        for _ in range(2):
            assert connection.post("/", {}, b"x").status == 200
            assert said.acquire(timeout=WAIT_S_MAX)


@pytest.mark.parametrize("end", [reset, socket.socket.close])
def test_a_request_without_an_answer_is_an_error_and_not_sent_again(end: Script) -> None:
    def script(connection: socket.socket) -> None:
        server.answer(connection, OK)
        server.take(connection)
        end(connection)

    with Server(script, script) as server, connect(server.url) as connection:
        for number in (1, 3):
            assert connection.post("/", {}, b"x").status == 200
            with pytest.raises((ExchangeError, ConnectionError)):
                connection.post("/", {}, b"y")
            assert len(server.heads) == number + 1


def test_every_address_of_a_name_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    with serve(OK) as server, connect("http://intake") as connection:
        resolve_to(
            monkeypatch,
            (socket.AF_INET6, ("::1", refusing_port())),
            (socket.AF_INET, ("127.0.0.1", refusing_port())),
            (socket.AF_INET, ("127.0.0.1", server.port)),
        )
        assert connection.post("/", {}, b"").status == 200


def test_a_name_whose_addresses_all_refuse_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    resolve_to(monkeypatch, *[(socket.AF_INET, ("127.0.0.1", refusing_port()))] * 2)
    with connect("http://intake") as connection, pytest.raises(ConnectionRefusedError):
        connection.post("/", {}, b"")
    resolve_to(monkeypatch)
    with connect("http://intake") as connection, pytest.raises(OSError, match="no address"):
        connection.post("/", {}, b"")


def flood(begin: bytes, drop: bytes) -> Server:
    """A server that answers the first request for as long as the client listens."""

    def script(connection: socket.socket) -> None:
        server.answer(connection, begin)
        while True:
            connection.sendall(drop * 1000)

    server = Server(script, lambda connection: server.answer(connection, OK))
    return server


def test_an_endless_answer_counts_and_is_not_read_to_its_end() -> None:
    begin = b"HTTP/1.1 202 Accepted\r\nContent-Length: 1000000000000\r\n\r\n"
    with flood(begin, b"x") as server, connect(server.url) as connection:
        assert connection.post("/", {}, b"").status == 202
        assert connection.post("/", {}, b"").status == 200


def test_endless_interim_answers_are_an_error() -> None:
    with flood(b"", b"HTTP/1.1 100 Wait\r\n\r\n") as server, connect(server.url) as connection:
        with pytest.raises(ExchangeError, match="too long"):
            connection.post("/", {}, b"")
        assert connection.post("/", {}, b"").status == 200


@pytest.mark.parametrize("limit", ["SILENCE_S_MAX", "EXCHANGE_S_MAX"])
def test_a_server_that_says_nothing_is_a_timeout(
    monkeypatch: pytest.MonkeyPatch, limit: str
) -> None:
    for each in ("SILENCE_S_MAX", "EXCHANGE_S_MAX"):
        monkeypatch.setattr(exchange, each, SHORT_S if each == limit else 1000.0)
    with (
        Server(lambda connection: receive(connection) and connection.recv(1)) as server,
        connect(server.url) as connection,
        pytest.raises(TimeoutError),
    ):
        connection.post("/", {}, b"")


def test_what_there_is_no_time_for_is_not_begun(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exchange, "EXCHANGE_S_MAX", 0.0)
    with (
        serve(OK) as server,
        connect(server.url) as connection,
        pytest.raises(TimeoutError, match="too long"),
    ):
        connection.post("/", {}, b"")


def test_a_late_answer_belongs_to_no_request(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exchange, "SILENCE_S_MAX", SHORT_S)
    refusal = b"HTTP/1.1 400 Bad\r\nContent-Length: 0\r\n\r\n"

    def script(connection: socket.socket) -> None:
        server.take(connection)
        # As the client leaves, there is no second one.
        server.answer(connection, refusal)

    with (
        Server(script, lambda connection: server.answer(connection, OK)) as server,
        connect(server.url) as connection,
    ):
        with pytest.raises(TimeoutError):
            connection.post("/", {}, b"")
        assert connection.post("/", {}, b"").status == 200


def test_a_server_that_drips_is_a_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exchange, "EXCHANGE_S_MAX", SHORT_S)
    with (
        Server(lambda connection: drip(connection, b"", b"HTTP/1.1 100 Wait\r\n\r\n")) as server,
        connect(server.url) as connection,
        pytest.raises(TimeoutError),
    ):
        connection.post("/", {}, b"")


def test_each_exchange_on_a_connection_has_its_own_time(monkeypatch: pytest.MonkeyPatch) -> None:
    def script(connection: socket.socket) -> None:
        server.answer(connection, OK)
        server.take(connection)
        drip(connection, b"", b"HTTP/1.1 100 Wait\r\n\r\n")

    monkeypatch.setattr(exchange, "ANSWER_BYTES_MAX", 1000)
    with Server(script) as server, connect(server.url) as connection:
        assert connection.post("/", {}, b"").status == 200
        monkeypatch.setattr(exchange, "EXCHANGE_S_MAX", SHORT_S)
        with pytest.raises(TimeoutError):
            connection.post("/", {}, b"")


def test_a_body_that_drips_takes_nothing_from_the_verdict(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exchange, "EXCHANGE_S_MAX", SHORT_S)
    begin = b"HTTP/1.1 202 Accepted\r\nContent-Length: 1000000\r\n\r\n"
    script: Script = lambda connection: drip(connection, begin, b"x")  # noqa: E731
    with Server(script, script) as server, connect(server.url) as connection:
        assert connection.post("/", {}, b"").status == 202
        assert connection.post("/", {}, b"").status == 202


@pytest.mark.parametrize("reads_on", [True, False])
@pytest.mark.parametrize("status", [403, 413])
def test_an_answer_before_the_end_of_the_request_is_read(
    monkeypatch: pytest.MonkeyPatch, status: int, reads_on: bool
) -> None:
    monkeypatch.setattr(exchange, "SILENCE_S_MAX", SHORT_S if not reads_on else 10.0)

    def script(connection: socket.socket) -> None:
        connection.recv(1)
        connection.sendall(b"HTTP/1.1 %d Early\r\nContent-Length: 0\r\n\r\n" % status)
        if not reads_on:
            answered.wait(WAIT_S_MAX)
        # Until the client closes, which it has to: the rest of the body would be a request.
        while connection.recv(65536):
            pass

    answered = threading.Event()
    with (
        Server(script, lambda connection: server.answer(connection, OK)) as server,
        connect(server.url) as connection,
    ):
        assert connection.post("/", {}, bytes(8_000_000)).status == status
        answered.set()
        if reads_on:
            # All of it went out, so the connection is as good as it was.
            connection.close()
        assert connection.post("/", {}, b"").status == 200


def test_a_yes_to_half_a_request_is_no_yes() -> None:
    def script(connection: socket.socket) -> None:
        connection.recv(1)
        connection.sendall(b"HTTP/1.1 202 Early\r\nContent-Length: 0\r\n\r\n")
        connection.shutdown(socket.SHUT_RDWR)

    with (
        Server(script) as server,
        connect(server.url) as connection,
        pytest.raises(ExchangeError, match="half a request"),
    ):
        connection.post("/", {}, bytes(8_000_000))


def test_an_answer_is_read_though_the_server_closes_before_the_end_of_the_request() -> None:
    def script(connection: socket.socket) -> None:
        connection.recv(1)
        connection.sendall(b"HTTP/1.1 413 Early\r\nContent-Length: 0\r\n\r\n")
        connection.shutdown(socket.SHUT_RDWR)

    with Server(script) as server, connect(server.url) as connection:
        assert connection.post("/", {}, bytes(8_000_000)).status == 413


@pytest.mark.parametrize("value", ["a\r\nb: c", "a\nb", "a\0"])
def test_a_header_never_becomes_two(value: str) -> None:
    with connect("http://127.0.0.1:9") as connection, pytest.raises(ValueError, match="x-tags"):
        connection.post("/", {"x-tags": value}, b"")


# TLS and proxies


@pytest.fixture
def authority(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> trustme.CA:
    """Signs for 127.0.0.1; the only one that is believed."""
    authority = trustme.CA()
    path = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(path))
    monkeypatch.setenv("SSL_CERT_FILE", str(path))
    monkeypatch.setenv("SSL_CERT_DIR", str(tmp_path / "none"))
    return authority


def server_context(
    authority: trustme.CA, name: str = "127.0.0.1", days_left: int = 1
) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    until = datetime.now(UTC) + timedelta(days=days_left)
    authority.issue_cert(name, not_after=until).configure_cert(context)
    return context


def secured(context: ssl.SSLContext, script: Script) -> Script:
    def play(connection: socket.socket) -> None:
        with context.wrap_socket(connection, server_side=True) as inner:
            script(inner)

    return play


def secure_server(context: ssl.SSLContext, *answers: bytes, connections: int = 1) -> Server:
    script = secured(context, lambda connection: server.answer(connection, *answers))
    server = Server(*[script] * connections)
    server.url = server.url.replace("http:", "https:")
    return server


@pytest.mark.parametrize("size", SIZES)
def test_tls_carries_a_body_as_it_is_and_is_used_again(authority: trustme.CA, size: int) -> None:
    body = bytes(number % 251 for number in range(size))
    with (
        secure_server(server_context(authority), OK, OK) as server,
        connect(server.url) as connection,
    ):
        assert connection.post("/", {}, body).status == 200
        assert connection.post("/", {}, b"x").status == 200
    assert server.bodies == [body, b"x"]


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_both_versions_of_tls_are_spoken(authority: trustme.CA, version: ssl.TLSVersion) -> None:
    context = server_context(authority)
    context.minimum_version = context.maximum_version = version
    with secure_server(context, OK, OK) as server, connect(server.url) as connection:
        assert connection.post("/", {}, b"x").status == 200
        assert connection.post("/", {}, b"x").status == 200


def test_tls_that_the_server_closed_is_opened_anew(authority: trustme.CA) -> None:
    context = server_context(authority)
    with secure_server(context, OK, connections=2) as server, connect(server.url) as connection:
        for _ in range(2):
            assert connection.post("/", {}, b"x").status == 200
            assert server.ended.acquire(timeout=WAIT_S_MAX)


def test_over_tls_too_an_answer_nobody_asked_for_belongs_to_no_request(
    authority: trustme.CA,
) -> None:
    def script(connection: socket.socket) -> None:
        server.answer(connection, OK)
        # Two records, which may arrive as one piece.
        connection.sendall(UNASKED)
        said.release()
        connection.recv(1)

    said = threading.Semaphore(0)
    context = server_context(authority)
    url = "https://127.0.0.1:%d"
    with (
        Server(secured(context, script), secured(context, script)) as server,
        connect(url % server.port) as connection,
    ):
        for _ in range(2):
            assert connection.post("/", {}, b"x").status == 200
            assert said.acquire(timeout=WAIT_S_MAX)


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 202 Accepted\r\n\r\nuntil the end"])
def test_an_end_without_a_goodbye_is_an_end(authority: trustme.CA, answer: bytes) -> None:
    # The sockets' end is not announced: that would take `unwrap`.
    with (
        secure_server(server_context(authority), answer) as server,
        connect(server.url) as connection,
    ):
        if answer:
            assert connection.post("/", {}, b"x").status == 202
        else:
            with pytest.raises(ExchangeError, match="too early"):
                connection.post("/", {}, b"x")


def test_over_tls_too_an_answer_before_the_end_of_the_request_is_read(
    authority: trustme.CA,
) -> None:
    def script(connection: socket.socket) -> None:
        connection.recv(1)
        connection.sendall(b"HTTP/1.1 413 Early\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        while connection.recv(65536):
            pass

    url = "https://127.0.0.1:%d"
    with (
        Server(secured(server_context(authority), script)) as server,
        connect(url % server.port) as connection,
    ):
        assert connection.post("/", {}, bytes(8_000_000)).status == 413


def check_nothing_is_sent(server: Server, reason: str) -> None:
    with (
        server,
        connect(server.url) as connection,
        pytest.raises(ssl.SSLCertVerificationError, match=reason),
    ):
        connection.post("/", {}, b"secret")
    assert server.heads == []


def test_a_certificate_for_another_name_ends_the_exchange(authority: trustme.CA) -> None:
    context = server_context(authority, "intake.example")
    check_nothing_is_sent(secure_server(context, OK), "not valid for '127.0.0.1'")


def test_a_certificate_of_an_unknown_authority_ends_the_exchange(authority: trustme.CA) -> None:
    context = server_context(trustme.CA())
    check_nothing_is_sent(secure_server(context, OK), "unable to get local issuer certificate")


def test_an_expired_certificate_ends_the_exchange(authority: trustme.CA) -> None:
    context = server_context(authority, days_left=-1)
    check_nothing_is_sent(secure_server(context, OK), "certificate has expired")


def test_a_name_is_checked_as_a_name(
    authority: trustme.CA, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = server_context(authority, "intake.example")
    with (
        secure_server(context, OK) as server,
        # With the dot that says that nothing is to be added.
        connect(f"https://intake.example.:{server.port}") as connection,
    ):
        resolve_to(monkeypatch, (socket.AF_INET, ("127.0.0.1", server.port)))
        assert connection.post("/", {}, b"x").status == 200


@pytest.mark.skipif(shutil.which("openssl") is None, reason="names the files of such a folder")
def test_a_folder_of_certificates_is_believed(
    authority: trustme.CA, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folder = tmp_path / "certificates"
    folder.mkdir()
    authority.cert_pem.write_to_path(str(folder / "authority.pem"))
    subprocess.run(["openssl", "rehash", str(folder)], check=True)
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("SSL_CERT_DIR", str(folder))
    context = server_context(authority)
    with secure_server(context, OK) as server, connect(server.url) as connection:
        assert connection.post("/", {}, b"x").status == 200


def test_a_server_without_tls_is_an_error(authority: trustme.CA) -> None:
    with (
        Server(lambda connection: connection.sendall(OK)) as server,
        connect(server.url.replace("http:", "https:")) as connection,
        pytest.raises(ssl.SSLError),
    ):
        connection.post("/", {}, b"secret")


def test_a_server_that_never_begins_tls_is_a_timeout(
    authority: trustme.CA, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exchange, "SILENCE_S_MAX", SHORT_S)
    with (
        Server(lambda connection: receive(connection) and connection.recv(1)) as server,
        connect(server.url.replace("http:", "https:")) as connection,
        pytest.raises(TimeoutError),
    ):
        connection.post("/", {}, b"secret")


def tunnel(heads: list[bytes], answer: bytes = b"HTTP/1.1 200 Connected\r\n\r\n") -> Script:
    """A proxy that connects to the port it is asked for, on this machine."""

    def carry(client: socket.socket, target: socket.socket) -> None:
        # In one thread: a TLS connection stands no two.
        with selectors.DefaultSelector() as selector:
            selector.register(client, selectors.EVENT_READ, target)
            selector.register(target, selectors.EVENT_READ, client)
            while True:
                for key, _ in selector.select():
                    source = client if key.data is target else target
                    data = source.recv(65536)
                    # What was decrypted and not taken makes no socket readable.
                    while isinstance(source, ssl.SSLSocket) and source.pending():
                        data += source.recv(65536)
                    if not data:
                        return
                    key.data.sendall(data)

    def script(connection: socket.socket) -> None:
        head, _ = take_request(connection)
        heads.append(head)
        connection.sendall(answer)
        if b" 200 " not in answer:
            return
        port = int(head.split()[1].rpartition(b":")[2])
        with socket.create_connection(("127.0.0.1", port), WAIT_S_MAX) as target:
            carry(connection, target)

    return script


@pytest.mark.parametrize("tls_to_proxy", [False, True])
@pytest.mark.parametrize(
    "says",
    [
        b"HTTP/1.1 200 Connected\r\n\r\n",
        b"HTTP/1.0 200 Connection established\r\nProxy-Agent: x\r\n\r\n",
        # Lengths mean nothing in an answer to CONNECT. Source: RFC 9110, 9.3.6.
        b"HTTP/1.1 200 Connected\r\nContent-Length: 100\r\n\r\n",
        b"HTTP/1.1 200 Connected\r\nTransfer-Encoding: chunked\r\n\r\n",
    ],
)
def test_a_proxy_is_asked_for_a_tunnel(
    authority: trustme.CA, tls_to_proxy: bool, says: bytes
) -> None:
    heads: list[bytes] = []
    context = server_context(authority)
    script = tunnel(heads, says)
    with (
        Server(secured(context, script) if tls_to_proxy else script) as proxy,
        secure_server(context, OK, OK) as server,
        connect(
            server.url,
            Proxy(
                Address(proxy.url.replace("http:", "https:") if tls_to_proxy else proxy.url),
                "Basic eDp5",
            ),
        ) as connection,
    ):
        assert connection.post("/", {"dd-api-key": "key"}, bytes(100_000)).status == 200
        assert connection.post("/", {}, b"x").status == 200
    target = b"127.0.0.1:%d" % server.port
    assert [head.split(b"\r\n") for head in heads] == [
        [
            b"CONNECT " + target + b" HTTP/1.1",
            b"host: " + target,
            b"proxy-authorization: Basic eDp5",
        ]
    ]


def test_a_tunnel_to_an_ipv6_address_is_asked_for_with_brackets() -> None:
    heads: list[bytes] = []
    with (
        Server(tunnel(heads, b"HTTP/1.1 503 No\r\n\r\n")) as proxy,
        connect("https://[2001:db8::1]", Proxy(Address(proxy.url))) as connection,
        pytest.raises(ExchangeError, match="the proxy answers 503"),
    ):
        connection.post("/", {}, b"secret")
    assert heads == [b"CONNECT [2001:db8::1]:443 HTTP/1.1\r\nhost: [2001:db8::1]:443"]


@pytest.mark.parametrize(
    ("says", "reason"),
    [
        (b"HTTP/1.1 407 Who are you\r\nContent-Length: 0\r\n\r\n", "the proxy answers 407"),
        (b"HTTP/1.1 302 Found\r\nLocation: http://portal\r\n\r\n", "the proxy answers 302"),
        (b"HTTP/1.1 200 OK\r\nodd field\r\n\r\n", "not HTTP"),
        (b"HTTP/1.1 200 OK\r\n", "too early"),
        (b"", "too early"),
    ],
)
def test_a_tunnel_that_is_not_given_carries_nothing(says: bytes, reason: str) -> None:
    with (
        Server(lambda connection: take_request(connection) and connection.sendall(says)) as proxy,
        connect("https://intake.example", Proxy(Address(proxy.url))) as connection,
        pytest.raises(ExchangeError, match=reason),
    ):
        connection.post("/", {}, b"secret")


def test_a_proxy_with_a_false_certificate_is_told_nothing(authority: trustme.CA) -> None:
    heads: list[bytes] = []
    with (
        Server(secured(server_context(trustme.CA()), tunnel(heads))) as proxy,
        connect(
            "https://intake.example",
            Proxy(Address(proxy.url.replace("http:", "https:")), "Basic eDp5"),
        ) as connection,
        pytest.raises(ssl.SSLCertVerificationError),
    ):
        connection.post("/", {}, b"secret")
    assert heads == []
