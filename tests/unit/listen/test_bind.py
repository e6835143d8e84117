"""listen.bind: a port is ours from the moment of the call, or we say why not."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

import pytest

from mini_agent.errors import StartError
from mini_agent.listen.bind import UNIX_MODE, BoundSocket, adopt, bind_tcp, bind_unix

HAS_IPV6 = True
try:
    with socket.socket(socket.AF_INET6) as _probe:
        _probe.bind(("::1", 0))
except OSError:
    HAS_IPV6 = False

needs_ipv6 = pytest.mark.skipif(not HAS_IPV6, reason="this machine has no ::1")


def close_taken(bound: BoundSocket) -> int:
    """Take everything over and close it; how many sockets it was."""
    descriptors = bound.take()
    for descriptor in descriptors:
        socket.socket(fileno=descriptor).close()
    return len(descriptors)


def test_a_client_can_connect_before_anybody_accepts() -> None:
    bound = bind_tcp("127.0.0.1", 0)
    with socket.create_connection(("127.0.0.1", bound.port), 5) as client:
        client.sendall(b"hello")
        (descriptor,) = bound.take()
        with socket.socket(fileno=descriptor) as listening:
            accepted, _ = listening.accept()
            with accepted:
                assert accepted.recv(5) == b"hello"
    bound.close()


def test_port_0_gives_the_real_port_and_a_given_port_is_kept() -> None:
    first = bind_tcp("127.0.0.1", 0)
    assert first.port > 0
    first.close()
    second = bind_tcp("127.0.0.1", first.port)
    assert second.port == first.port
    assert close_taken(second) == 1


def test_what_is_closed_is_free_again_and_close_may_be_repeated() -> None:
    bound = bind_tcp("127.0.0.1", 0)
    with socket.create_connection(("127.0.0.1", bound.port), 5):
        bound.close()
        bound.close()
        assert bound.take() == []
    bind_tcp("127.0.0.1", bound.port).close()


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_a_taken_port_is_named_with_the_reason(host: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(StartError) as caught:
            bind_tcp(host, port)
    assert str(caught.value) == (
        f"cannot listen on {host}:{port}: the port is taken by another program"
    )


@pytest.mark.parametrize(
    ("host", "port", "words"),
    [
        ("127.0.0.1", 70_000, "127.0.0.1:70000: no such port"),
        ("192.0.2.1", 8126, "192.0.2.1:8126: this machine has no such address"),
        ("no.such.host.invalid", 8126, "cannot listen on no.such.host.invalid:8126: "),
        ("2001:db8::1", 8126, "cannot listen on [2001:db8::1]:8126: "),
    ],
)
def test_an_impossible_address_is_named_with_the_reason(host: str, port: int, words: str) -> None:
    with pytest.raises(StartError) as caught:
        bind_tcp(host, port)
    assert words in str(caught.value)


@needs_ipv6
def test_localhost_means_both_addresses() -> None:
    bound = bind_tcp("localhost", 0)
    for address in ("127.0.0.1", "::1"):
        socket.create_connection((address, bound.port), 5).close()
    assert close_taken(bound) == 2


@needs_ipv6
def test_localhost_does_without_the_second_address() -> None:
    first = bind_tcp("::1", 0)
    bound = bind_tcp("localhost", first.port)
    assert bound.port == first.port
    assert close_taken(bound) == 1
    first.close()


@needs_ipv6
@pytest.mark.parametrize("host", ["::1", "[::1]"])
def test_an_ipv6_address_is_only_itself(host: str) -> None:
    bound = bind_tcp(host, 0)
    socket.create_connection(("::1", bound.port), 5).close()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", bound.port), 5)
    bound.close()


@needs_ipv6
def test_the_ipv6_wildcard_is_every_address() -> None:
    bound = bind_tcp("::", 0)
    for address in ("::1", "127.0.0.1"):
        socket.create_connection((address, bound.port), 5).close()
    bound.close()


def test_binding_imports_nothing_heavy() -> None:
    code = (
        "import sys; from mini_agent.listen.bind import bind_tcp; bind_tcp('127.0.0.1', 0);"
        "print(*{'asyncio', 'socket', 'selectors', 'typing', 're', 'logging'} & set(sys.modules))"
    )
    # Without site, whose hooks import what they like; the paths are those of this interpreter.
    path = f"import sys; sys.path[:] = {sys.path!r}; "
    done = subprocess.run(
        [sys.executable, "-S", "-c", path + code], capture_output=True, text=True, timeout=30
    )
    assert (done.stdout.strip(), done.stderr) == ("", "")


needs_unix = pytest.mark.skipif(
    not hasattr(socket, "AF_UNIX"), reason="this system has no Unix sockets"
)


@needs_unix
def test_a_socket_file_is_taken_with_the_go_agents_mode(tmp_path: Path) -> None:
    path = tmp_path / "apm.socket"
    bound = bind_unix(str(path))
    assert path.stat().st_mode & 0o777 == UNIX_MODE
    assert (bound.url, bound.port) == (f"unix://{path}", 0)
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
    bound.close()
    assert not path.exists()


@needs_unix
def test_a_stale_socket_file_is_replaced_and_a_live_one_respected(tmp_path: Path) -> None:
    path = str(tmp_path / "apm.socket")
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(path)
    live = bind_unix(path)
    with pytest.raises(StartError, match="another program serves it"):
        bind_unix(path)
    live.close()


@needs_unix
def test_what_is_no_socket_is_never_removed(tmp_path: Path) -> None:
    path = tmp_path / "precious"
    path.write_text("keep me")
    with pytest.raises(StartError, match="no socket"):
        bind_unix(str(path))
    assert path.read_text() == "keep me"
    with pytest.raises(StartError, match="No such file"):
        bind_unix(str(tmp_path / "missing" / "apm.socket"))


@needs_unix
def test_a_successors_socket_file_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "apm.socket"
    first = bind_unix(str(path))
    path.unlink()
    second = bind_unix(str(path))
    first.close()
    assert path.exists()
    second.close()


def test_a_socket_that_was_bound_elsewhere_is_adopted(tmp_path: Path) -> None:
    given = socket.socket()
    given.bind(("127.0.0.1", 0))
    port = given.getsockname()[1]
    bound = adopt(given.detach())
    assert (bound.host, bound.port) == ("127.0.0.1", port)
    socket.create_connection(("127.0.0.1", port), 20).close()
    bound.close()
    if hasattr(socket, "AF_UNIX"):
        held = socket.socket(socket.AF_UNIX)
        held.bind(str(tmp_path / "s"))
        adopted = adopt(held.detach())
        assert adopted.path == str(tmp_path / "s")
        adopted.close()


def test_a_descriptor_that_is_no_socket_is_named() -> None:
    with pytest.raises(StartError, match="descriptor 987"):
        adopt(987)
