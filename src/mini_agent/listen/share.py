"""A listening socket for a process that we started: Windows only.

Elsewhere a child inherits sockets under their numbers. On Windows a socket is described for one
other process, by its id, and whoever has the description is that process has the socket too. It
goes through the pipe that is the child's standard input, before anything else.

Source: Windows, WSADuplicateSocketW; the description is a WSAPROTOCOL_INFOW.
"""

from __future__ import annotations

import sys

# Elsewhere this module is never imported; for their type checkers it ends here.
assert sys.platform == "win32"

import _socket  # noqa: E402
import os  # noqa: E402

from mini_agent.errors import StartError  # noqa: E402

# The same for programs of 32 and 64 bits. Source: winsock2.h.
_DESCRIPTION_BYTES = 628


def send(descriptor: int, pid: int, pipe: int) -> None:
    """Give a socket to the process `pid`, at the other end of `pipe`; ours stays ours to close.

    Raises:
        OSError: There is no such process any more, or it is not ours.
    """
    held = _socket.socket(fileno=descriptor)
    try:
        description = held.share(pid)
    finally:
        held.detach()
    assert len(description) == _DESCRIPTION_BYTES
    os.write(pipe, description)


def receive(pipe: int) -> int:
    """The socket that was sent to us, as a descriptor that is ours.

    Raises:
        StartError: None came, or it is not for us.
    """
    description = b""
    while missing := _DESCRIPTION_BYTES - len(description):
        part = os.read(pipe, missing)
        if not part:
            raise StartError("the launcher ended before it had handed the port over")
        description += part
    try:
        return _socket.socket(0, 0, 0, description).detach()
    except OSError as error:
        raise StartError(f"the launcher's port cannot be taken over: {error.strerror}") from error
