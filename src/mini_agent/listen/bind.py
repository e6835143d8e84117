"""Ports and socket files are taken here, before anything heavy is imported.

From this moment the kernel queues connections, so a client that starts together with the agent
waits a little and is not refused. Only the C module under `socket` is used: importing `socket`
itself costs several milliseconds of a promise that is counted in milliseconds.
"""

from __future__ import annotations

import _socket
import errno
import os
import stat

from mini_agent.errors import StartError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

# Connections the kernel keeps for us until we accept. Clients of one host are few; the bursts
# are reconnects after a restart. Linux cuts it at net.core.somaxconn (4096 by default).
BACKLOG = 1024

# Where "localhost" points. The second is a kindness to clients that try it first.
_LOCALHOST, _LOCALHOST_V6 = "127.0.0.1", "::1"

_REASONS = {
    errno.EADDRINUSE: "the port is taken by another program",
    # Windows answers so when the other program holds the port exclusively.
    errno.EACCES: "this user may not open the port, or another program holds it",
    errno.EADDRNOTAVAIL: "this machine has no such address",
    errno.EAFNOSUPPORT: "this machine does not speak that address family",
}


# Who may connect: this user, and whoever else the folder lets in; connecting needs the right to
# write. Source: the Go agent.
UNIX_MODE = 0o722


class BoundSocket:
    """One address that is ours and listens; nobody accepts yet.

    Attributes:
        url: As it may be shown, and as tracers take it.
        host: As it was asked for; empty for a socket file.
        port: The real one, also when 0 was asked for; 0 for a socket file.
        path: The socket file, or empty.
    """

    __slots__ = ("_inode", "_sockets", "host", "path", "port", "url")

    def __init__(
        self, sockets: Sequence[_socket.socket], host: str = "", port: int = 0, path: str = ""
    ) -> None:
        self.host = host
        self.port = port
        self.path = path
        self.url = f"unix://{path}" if path else f"http://{_shown(host, port)}"
        self._inode = _inode(path)
        self._sockets = list(sockets)

    def take(self) -> list[int]:
        """Hand the listening descriptors over; from now on the caller closes them."""
        taken = [held.detach() for held in self._sockets]
        self._sockets.clear()
        return taken

    def close(self) -> None:
        """Give back what has not been taken, and remove a socket file that is still ours."""
        for held in self._sockets:
            held.close()
        self._sockets.clear()
        if self._inode is not None and _inode(self.path) == self._inode:
            os.unlink(self.path)
        self._inode = None


def bind_tcp(host: str, port: int, backlog: int = BACKLOG) -> BoundSocket:
    """Take a TCP port and listen on it at once.

    Args:
        host: An IPv4 or IPv6 address, a name, or "localhost": then 127.0.0.1, and ::1 beside it
            where the machine has one.
        port: 0 lets the system choose.
        backlog: Connections the kernel keeps waiting.

    Raises:
        StartError: The address cannot be had; names it and says why.
    """
    try:
        if host != "localhost":
            sockets = [_listen(host.strip("[]"), port, backlog)]
        else:
            sockets = [_listen(_LOCALHOST, port, backlog)]
            port = sockets[0].getsockname()[1]
            sockets += _listen_if_possible(_LOCALHOST_V6, port, backlog)
    except OverflowError as error:
        raise StartError(f"cannot listen on {_shown(host, port)}: no such port") from error
    except OSError as error:
        reason = _REASONS.get(error.errno or 0, error.strerror or str(error))
        raise StartError(f"cannot listen on {_shown(host, port)}: {reason}") from error
    return BoundSocket(sockets, host, sockets[0].getsockname()[1])


def bind_unix(path: str, backlog: int = BACKLOG) -> BoundSocket:
    """Take a socket file and listen on it at once.

    A file that a dead program left is replaced, one that somebody serves is respected.

    Raises:
        StartError: The path cannot be had; names it and says why.
    """
    try:
        family: int = getattr(_socket, "AF_UNIX")  # noqa: B009 - unknown to Windows' type checker
    except AttributeError:
        raise StartError(f"cannot listen on {path}: this system has no Unix sockets") from None
    bound = _socket.socket(family, _socket.SOCK_STREAM, 0)
    try:
        _remove_stale(path, family)
        bound.bind(path)
        os.chmod(path, UNIX_MODE)
        bound.listen(backlog)
    except OSError as error:
        bound.close()
        reason = "another program serves it" if error.errno == errno.EADDRINUSE else error.strerror
        raise StartError(f"cannot listen on {path}: {reason or error}") from error
    return BoundSocket([bound], path=path)


def adopt(descriptor: int) -> BoundSocket:
    """Take over a socket that another process bound and passed on, listening or not.

    Raises:
        StartError: The descriptor is no stream socket.
    """
    try:
        bound = _socket.socket(fileno=descriptor)
        name = bound.getsockname()
        bound.listen(BACKLOG)
    except OSError as error:
        raise StartError(f"descriptor {descriptor} cannot be used: {error.strerror}") from error
    if isinstance(name, tuple):
        return BoundSocket([bound], host=name[0], port=name[1])
    return BoundSocket([bound], path=os.fsdecode(name))


def _remove_stale(path: str, family: int) -> None:
    try:
        if not stat.S_ISSOCK(os.stat(path).st_mode):
            raise OSError(errno.EEXIST, "there is a file that is no socket")
    except FileNotFoundError:
        return
    probe = _socket.socket(family, _socket.SOCK_STREAM, 0)
    try:
        probe.connect(path)
    except ConnectionRefusedError:
        os.unlink(path)
    else:
        raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))
    finally:
        probe.close()


def _inode(path: str) -> int | None:
    try:
        return os.stat(path).st_ino if path else None
    except OSError:
        return None


def _listen(host: str, port: int, backlog: int) -> _socket.socket:
    family = _socket.AF_INET6 if ":" in host else _socket.AF_INET
    bound = _socket.socket(family, _socket.SOCK_STREAM, 0)
    try:
        exclusive = getattr(_socket, "SO_EXCLUSIVEADDRUSE", None)
        if exclusive is not None:
            # There, SO_REUSEADDR would let any other program take the port from under us.
            bound.setsockopt(_socket.SOL_SOCKET, exclusive, 1)
        else:
            # Here it only says that connections of an agent that is gone do not block the port.
            bound.setsockopt(_socket.SOL_SOCKET, _socket.SO_REUSEADDR, 1)
        if family == _socket.AF_INET6:
            # "::" means every address, IPv4 too, on every system; they differ in the default.
            bound.setsockopt(_socket.IPPROTO_IPV6, _socket.IPV6_V6ONLY, host != "::")
        bound.bind((host, port))
        bound.listen(backlog)
    except BaseException:
        bound.close()
        raise
    return bound


def _listen_if_possible(host: str, port: int, backlog: int) -> list[_socket.socket]:
    try:
        return [_listen(host, port, backlog)]
    except OSError:
        return []


def _shown(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host and "[" not in host else f"{host}:{port}"
