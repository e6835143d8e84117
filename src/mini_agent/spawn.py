"""The agent's process, as the process that starts it sees it.

The child is an interpreter like ours that is told where to find this package, and that looks at
nothing else meant for us: no PYTHONPATH, no site module. Under `ddtrace-run` those would load a
tracer into the agent, which would then trace what it delivers.

It reads from a pipe that only we write to, and nobody ever does: when we close it, or end in
whatever way, the child reads the end of its input and stops. It has a session of its own, so that
Ctrl-C in a terminal ends the application first and the agent after it.
"""

from __future__ import annotations

import os
import subprocess
import sys

from mini_agent.errors import StartError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_PROGRAM = (
    "import sys; sys.path += {path!r}; from mini_agent.cli import main; sys.exit(main(['run']))"
)


class Child:
    """A running agent, which stops when we say so or end.

    Args:
        environ: All it gets.
        descriptors: Inherited under the same numbers; the caller closes its own. Not on Windows.

    Attributes:
        control: The pipe that it reads, closed by `stop`.

    Raises:
        StartError: There is no interpreter, or the system starts no process.
    """

    def __init__(self, environ: Mapping[str, str], descriptors: Sequence[int] = ()) -> None:
        words = command()
        read_end, self.control = os.pipe()
        try:
            self._process = _Process(
                words,
                env=environ,
                stdin=read_end,
                pass_fds=descriptors,
                start_new_session=True,
                # On Windows the same: Ctrl-C reaches the members of a group.
                creationflags=getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0),
            )
        except OSError as error:
            os.close(self.control)
            raise StartError(f"cannot start {words[0]}: {error.strerror or error}") from error
        finally:
            os.close(read_end)

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def ended(self) -> int | None:
        """The exit status, or None while it runs."""
        return self._process.poll()

    def stop(self) -> None:
        """Have it deliver what it holds and end; returns at once, may be repeated.

        In a process that was forked off after the start this only lets go of the copy it has.
        """
        if self.control >= 0:
            os.close(self.control)
            self.control = -1

    def wait(self, timeout_s: float) -> bool:
        """Whether it ended within that time."""
        try:
            self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return False
        return True


class _Process(subprocess.Popen[bytes]):
    def __del__(self) -> None:
        """Say nothing: this one is meant to outlive us, by the time its deliveries take."""


def command() -> list[str]:
    """The command line of an agent that finds its modules where we find ours.

    Raises:
        StartError: There is no interpreter.
    """
    words = [interpreter(), "-I", "-S"]
    # Two choices of whoever runs us that an isolated interpreter would not hear of.
    if sys.dont_write_bytecode:
        words.append("-B")
    if sys.pycache_prefix:
        words += ["-X", f"pycache_prefix={sys.pycache_prefix}"]
    return [*words, "-c", _PROGRAM.format(path=import_path())]


def import_path() -> list[str]:
    """Absolute folders and archives: the one with this package, then all that we import from."""
    own = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    # Anything may stand in that list; what is no text is for import hooks of the application.
    found = [os.path.abspath(entry) for entry in sys.path if isinstance(entry, str)]
    return list(dict.fromkeys([own, *found]))


def interpreter() -> str:
    """The path of a Python like the one that runs us.

    Raises:
        StartError: We are inside another program, and its Python is not where it should be.
    """
    name = os.path.basename(sys.executable or "").lower()
    if name.startswith(("python", "pypy")) and not getattr(sys, "frozen", False):
        # On Windows the one of a virtual environment only starts the real one and waits for it,
        # and a socket can be given to no grandchild. Our command names all folders anyway.
        real: str | None = getattr(sys, "_base_executable", None) if os.name == "nt" else None
        return real or sys.executable
    # uWSGI and its like are what they say is the interpreter.
    major, minor = sys.version_info[:2]
    for place in (f"bin/python{major}.{minor}", "python.exe"):
        path = os.path.join(sys.exec_prefix, place)
        if os.access(path, os.X_OK):
            return path
    raise StartError(
        f"found no Python interpreter: {sys.executable or 'this program'} is none, and there is "
        f"none in {sys.exec_prefix}"
    )
