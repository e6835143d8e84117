"""A named pipe is taken here, before anything heavy is imported. Windows only.

A pipe has no backlog. It has *instances*: each is one place for one client, and a client that
finds all of them taken is told "busy". A client can open an instance from the moment it exists,
whether somebody waits for it yet or not, so the instances made here are what the backlog is to a
port: clients that start together with the agent wait a little and are not refused.

Who may connect. The default lets in the user we run as, SYSTEM and the administrators, and nobody
else. In an Azure function the worker starts the agent, so application and agent are one account,
and the sandbox keeps other applications out. An application under another account needs a
security descriptor of its own, such as
`D:P(A;;FA;;;SY)(A;;FA;;;BA)(A;;FA;;;OW)(A;;0x12019b;;;AU)`: 0x12019b is to read and write without
the right to create instances (0x4), with which another program could put itself in our place.
Windows' own default would let everyone read, and nobody else write. Source: transport-contract 5.4.
"""

from __future__ import annotations

import sys

from mini_agent.errors import StartError

TYPE_CHECKING = False
if TYPE_CHECKING:
    import ctypes
    from collections.abc import Callable

# Instances that wait for a client. Measured with 16 clients that connect anew for each request:
# with 8 of them 145 of 320 connects found the pipe busy, with 16 none did.
INSTANCES = 16
# What an instance holds for each direction until the other side reads. As the reference has it.
BUFFER_BYTES = 64 * 1024


class BoundPipe:
    r"""One pipe that is ours; its instances wait for clients, and nobody accepts yet.

    Args:
        path: With the prefix `\\.\pipe\`.
        instances: How many should wait for a client at any moment.
        make: Makes an instance, told whether it is the first; its handle, or OSError.
        close_handle: Closes one.

    Attributes:
        url: As it may be shown.
    """

    __slots__ = ("_close_handle", "_held", "_make", "instances", "path", "url")

    def __init__(
        self,
        path: str,
        instances: int,
        make: Callable[[bool], int],
        close_handle: Callable[[int], object],
    ) -> None:
        self.path = self.url = path
        self.instances = instances
        self._make = make
        self._close_handle = close_handle
        self._held: list[int] = []
        try:
            # The first fails where the name is taken; the others where the descriptor does not
            # let us make more of our own pipe, and then it is better to know that now.
            for _ in range(instances):
                self._held.append(make(not self._held))
        except OSError:
            self.close()
            raise

    def take(self) -> list[int]:
        """Hand the waiting instances' handles over; from now on the caller closes them."""
        taken, self._held = self._held, []
        return taken

    def make(self) -> int:
        """Make one more instance; returns its handle.

        Raises:
            OSError: Windows refuses.
        """
        return self._make(False)

    def close(self) -> None:
        """Give back what has not been taken."""
        for handle in self.take():
            self._close_handle(handle)


# Elsewhere this module is never imported; for their type checkers it ends here.
assert sys.platform == "win32"

import _winapi  # noqa: E402

# Clients that wait for a free instance as long as the server says, wait that long.
_WAIT_MS = 1000

# Windows' words. Source: winbase.h; _winapi does not have them.
_PIPE_TYPE_BYTE = 0
_PIPE_REJECT_REMOTE_CLIENTS = 8
_TOKEN_QUERY = 8
_TOKEN_USER = 1
_SDDL_REVISION = 1

_REASONS = {
    5: "another program serves that name, or its rights keep this user out",
    87: "Windows does not take these instances or buffers",
    123: "there can be no pipe of that name",
    206: "the name is too long",
    231: "another program serves that name and allows no further instance",
}


def bind_pipe(
    path: str,
    *,
    instances: int = INSTANCES,
    buffer_bytes: int = BUFFER_BYTES,
    security_descriptor: str | None = None,
) -> BoundPipe:
    r"""Take a named pipe: byte mode, both directions, no clients from other machines.

    Args:
        path: As `pipe_name.normalize_name` gives it.
        instances: How many wait for a client at any moment.
        buffer_bytes: Held for each direction of each client until the other side reads.
        security_descriptor: Who may connect, as SDDL; None for the default of this module.

    Raises:
        StartError: The pipe cannot be had; names it and says why.
    """
    from ctypes import addressof

    mode = _winapi.PIPE_ACCESS_DUPLEX | _winapi.FILE_FLAG_OVERLAPPED

    def make(first: bool) -> int:
        return _winapi.CreateNamedPipe(
            path,
            mode | (_winapi.FILE_FLAG_FIRST_PIPE_INSTANCE if first else 0),
            # A stream of bytes: with messages, a client that writes nothing looks like the end.
            _PIPE_TYPE_BYTE | _PIPE_REJECT_REMOTE_CLIENTS,
            _winapi.PIPE_UNLIMITED_INSTANCES,
            buffer_bytes,
            buffer_bytes,
            _WAIT_MS,
            addressof(attributes),
        )

    try:
        attributes = _attributes(security_descriptor or _default_descriptor())
        return BoundPipe(path, instances, make, _winapi.CloseHandle)
    except OSError as error:
        reason = _REASONS.get(error.winerror or 0, error.strerror or str(error))
        raise StartError(f"cannot listen on {path}: {reason}") from error


def _attributes(descriptor: str) -> ctypes.Structure:
    """SECURITY_ATTRIBUTES for a descriptor in SDDL."""
    import ctypes
    from ctypes import wintypes

    class SecurityAttributes(ctypes.Structure):
        _fields_ = (
            ("length", wintypes.DWORD),
            ("descriptor", wintypes.LPVOID),
            ("inherited", wintypes.BOOL),
        )

    # One for the life of the process; it is never given back.
    parsed = wintypes.LPVOID()
    advapi = ctypes.WinDLL("advapi32", use_last_error=True)
    if not advapi.ConvertStringSecurityDescriptorToSecurityDescriptorW(
        wintypes.LPCWSTR(descriptor), _SDDL_REVISION, ctypes.byref(parsed), None
    ):
        reason = ctypes.WinError(ctypes.get_last_error()).strerror
        raise StartError(f"the security descriptor of the pipe cannot be used: {reason}")
    return SecurityAttributes(ctypes.sizeof(SecurityAttributes), parsed, False)


def _default_descriptor() -> str:
    """All rights for SYSTEM, the administrators and this user, none for anybody else."""
    return f"D:P(A;;FA;;;SY)(A;;FA;;;BA)(A;;FA;;;{_user_sid()})"


def _user_sid() -> str:
    """The account this process runs as, as SDDL writes it."""
    import ctypes
    from ctypes import wintypes

    advapi = ctypes.WinDLL("advapi32", use_last_error=True)
    kernel = ctypes.WinDLL("kernel32", use_last_error=True)
    token = wintypes.HANDLE()
    me = wintypes.HANDLE(_winapi.GetCurrentProcess())
    if not advapi.OpenProcessToken(me, _TOKEN_QUERY, ctypes.byref(token)):
        raise ctypes.WinError(ctypes.get_last_error())
    try:
        # TOKEN_USER: a pointer to the SID, the SID behind it; together below 100 bytes.
        user = (ctypes.c_void_p * 32)()
        size = wintypes.DWORD()
        if not advapi.GetTokenInformation(
            token, _TOKEN_USER, user, ctypes.sizeof(user), ctypes.byref(size)
        ):
            raise ctypes.WinError(ctypes.get_last_error())
        text = wintypes.LPWSTR()
        if not advapi.ConvertSidToStringSidW(ctypes.c_void_p(user[0]), ctypes.byref(text)):
            raise ctypes.WinError(ctypes.get_last_error())
        sid = text.value or ""
        kernel.LocalFree(text)
        return sid
    finally:
        kernel.CloseHandle(token)
