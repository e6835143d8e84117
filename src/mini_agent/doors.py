"""Opening every way in before anything heavy is loaded.

From here on clients are not refused: they wait in a backlog, or in an instance of a pipe. What
cannot be opened is no reason to close the rest; only with nothing open at all there is no start.

The TCP port of plain settings comes even before the settings are loaded: see early.py.

Loaded before the port is bound: imports next to nothing.
"""

from __future__ import annotations

import sys

from mini_agent.errors import StartError

TYPE_CHECKING = False
if TYPE_CHECKING:
    import _socket
    from collections.abc import Callable

    from mini_agent.config import Config
    from mini_agent.listen.bind import BoundSocket
    from mini_agent.listen.bind_pipe import BoundPipe

# Transports, as keys of `Doors.troubles`.
TCP, UNIX, PIPE = "tcp", "unix", "pipe"


class Doors:
    """What is open, and why the rest is not.

    Attributes:
        sockets: TCP first.
        pipe: The named pipe, on Windows and where one is configured.
        troubles: Why a configured transport is not open, by transport.
    """

    __slots__ = ("pipe", "sockets", "troubles")

    def __init__(self) -> None:
        self.sockets: list[BoundSocket] = []
        self.pipe: BoundPipe | None = None
        self.troubles: dict[str, StartError] = {}

    def close(self) -> None:
        """Give back what nobody took over; may be repeated."""
        for bound in self.sockets:
            bound.close()
        if self.pipe is not None:
            self.pipe.close()

    def _try(self, transport: str, bind: Callable[[], BoundSocket]) -> None:
        try:
            self.sockets.append(bind())
        except StartError as error:
            self.troubles[transport] = error


def open_doors(config: Config, early: _socket.socket | None = None) -> Doors:
    """Open every configured transport.

    Args:
        early: The TCP socket, if it listens already; taken over.

    Raises:
        StartError: None could be opened; says why, and who holds the port where that is known.
    """
    from mini_agent.listen.bind import adopt, bind_tcp, bind_unix

    doors = Doors()
    tcp_fd, unix_fd, path = config.tcp_fd, config.unix_fd, config.receiver_socket
    if tcp_fd is not None:
        doors._try(TCP, lambda: _adopt_tcp(tcp_fd))
    elif early is not None:
        doors._try(TCP, lambda: adopt(early.detach()))
    else:
        doors._try(TCP, lambda: bind_tcp(config.receiver_host, config.receiver_port))
    if unix_fd is not None:
        doors._try(UNIX, lambda: adopt(unix_fd))
    elif path is not None:
        doors._try(UNIX, lambda: bind_unix(path))
    if config.windows_pipe_name is not None:
        try:
            doors.pipe = _open_pipe(config, config.windows_pipe_name)
        except StartError as error:
            doors.troubles[PIPE] = error
    if not doors.sockets and doors.pipe is None:
        raise _nothing_open(config.receiver_port, doors.troubles[TCP])
    return doors


def _adopt_tcp(descriptor: int) -> BoundSocket:
    """Take over what a launcher bound; on Windows it comes by that descriptor."""
    from mini_agent.listen.bind import adopt

    if sys.platform == "win32":
        from mini_agent.listen.share import receive

        return adopt(receive(descriptor))
    return adopt(descriptor)


def _open_pipe(config: Config, name: str) -> BoundPipe:
    if sys.platform == "win32":
        from mini_agent.listen.bind_pipe import bind_pipe
        from mini_agent.listen.pipe_name import normalize_name

        try:
            path = normalize_name(name)
        except ValueError as error:
            raise StartError(f"DD_APM_WINDOWS_PIPE_NAME={name}: {error}") from error
        return bind_pipe(
            path,
            instances=config.pipe_instances,
            buffer_bytes=config.pipe_buffer_bytes,
            security_descriptor=config.pipe_security_descriptor,
        )
    raise StartError(f"cannot listen on the pipe {name}: this system has no named pipes")


def _nothing_open(port: int, error: StartError) -> StartError:
    from mini_agent.listen.holder import holder_of

    owner = holder_of(port)
    return StartError(f"{error}: {owner}" if owner else str(error))
