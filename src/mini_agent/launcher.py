r"""`mini_agent.start()`: the agent beside an application, started from within.

What the application can rely on:

- `start` returns within milliseconds and never raises. What is in the way is one line in the log
  and in `status().reason`.
- From its return on, connections to the TCP port and the Unix socket are accepted: they are bound
  here and handed to the child, and wait in their backlog while the child loads. (A named pipe on
  Windows cannot be: the child makes it, some tens of milliseconds later.)
- The agent ends with the process that started it, by itself, after delivering what it holds;
  nothing waits for it at exit.
- A second `start`, from any thread, does nothing while the agent runs. After the agent died it
  starts another, on the same port.
- After a fork the agent still belongs to the parent alone: the fork neither stops it nor keeps it
  alive, its tracer goes on using the same port, and a `start` in it finds that port taken, which
  is all right and said at info. So it does not matter whether a server that forks its workers
  calls `start` before, after or in each of them. Programs that fork to get into the background
  and end the original call it afterwards.

A port that is taken means that an agent runs already (of another worker, of the host) and is no
error; where a Unix socket or a named pipe is configured too, the agent starts with that alone.

Messages go to the logger `mini_agent.launcher`. No level is set and nothing is printed behind the
application's back: it decides what it shows. Python itself prints warnings and errors where
nobody configured logging. The agent's own lines come out on the standard streams it inherits.

DD_SERVERLESS_COMPAT_PATH tells other launchers what to run and is not read here: this `start`
starts this package's agent, compat.py is for the other way round.

Source: transport-contract 1.2 to 1.5 and 2.
"""

from __future__ import annotations

import errno
import os
import sys
from _thread import RLock

from mini_agent import __version__
from mini_agent.early import bind_plain

TYPE_CHECKING = False
if TYPE_CHECKING:
    import _socket
    import logging
    from collections.abc import Callable, Mapping, MutableMapping, Sequence

    from mini_agent.config import Config
    from mini_agent.errors import StartError
    from mini_agent.listen.bind import BoundSocket
    from mini_agent.spawn import Child

# What the child calls its inherited sockets. Source: the Go agent has the same variables.
TCP_FD = "DD_APM_NET_RECEIVER_FD"
UNIX_FD = "DD_APM_UNIX_RECEIVER_FD"

# Where a child on Windows gets a socket; see listen/share.py.
STANDARD_INPUT = 0

# 128 bits, as many as the GUID in the names that the .NET tracer makes.
PIPE_NAME_RANDOM_BYTES = 16

_PIPE_PREFIX = "\\\\.\\pipe\\"


class Status:
    """What is known about the agent without asking it.

    Attributes:
        running: Whether a child of this process runs.
        pid: Its process id, or None.
        port: The TCP port it serves, or None.
        socket_path: Its Unix socket, or None.
        trace_pipe: Bare name of its named pipe for traces, or None.
        dogstatsd_pipe: The same for metrics.
        reason: Why it does not run, or None.
    """

    __slots__ = (
        "dogstatsd_pipe",
        "pid",
        "port",
        "reason",
        "running",
        "socket_path",
        "trace_pipe",
    )

    def __init__(
        self,
        running: bool,
        pid: int | None,
        port: int | None,
        socket_path: str | None,
        pipes: PipeNames | None,
        reason: str | None,
    ) -> None:
        self.running = running
        self.pid = pid
        self.port = port
        self.socket_path = socket_path
        self.trace_pipe = pipes.trace if pipes else None
        self.dogstatsd_pipe = pipes.dogstatsd if pipes else None
        self.reason = reason

    def __repr__(self) -> str:
        """All of it, for a log."""
        return f"Status({', '.join(f'{name}={getattr(self, name)!r}' for name in self.__slots__)})"


class PipeNames:
    """The names of both pipes, without prefix, and what was odd about the settings."""

    __slots__ = ("dogstatsd", "trace", "warnings")

    def __init__(self, trace: str, dogstatsd: str, warnings: tuple[str, ...] = ()) -> None:
        self.trace = trace
        self.dogstatsd = dogstatsd
        self.warnings = warnings


class Launcher:
    """The agent of one process; safe to use from any thread.

    Args:
        environ: Read at each start; on Windows the pipes' names are added to it.
        spawn: Starts a child with an environment and descriptors, as `spawn.Child`.
        windows: Whether pipes are served, and sockets come by standard input.
    """

    def __init__(
        self,
        environ: MutableMapping[str, str],
        spawn: Callable[[Mapping[str, str], Sequence[int]], Child],
        windows: bool = sys.platform == "win32",
    ) -> None:
        self._environ = environ
        self._spawn = spawn
        self._windows = windows
        self._child: Child | None = None
        self._port: int | None = None
        self._socket_path: str | None = None
        self._pipes: PipeNames | None = None
        self._reason = "start() was not called"
        # Held while forking too: a fork in the middle of a start would keep the port for ever.
        # It may be asked for again by its holder, because signals come at any time.
        self.lock = RLock()

    def start(self) -> None:
        """Start the agent unless it runs; never raises."""
        with self.lock:
            if self._child is not None and self._child.ended() is None:
                _say_aside("debug", "the agent runs already (process %d)", self._child.pid)
                return
            # Before anything else is loaded.
            early = bind_plain(self._environ, self._port)
            from mini_agent.errors import AgentError

            try:
                self._start(early)
            except AgentError as error:
                self._reason = str(error)
                _log().error("the agent is not started: %s", error)
            except Exception as error:  # noqa: BLE001 - the application's edge
                # Whatever is wrong with us, the application goes on.
                self._reason = f"{type(error).__name__}: {error}"
                _log().exception("the agent is not started")
            finally:
                # What was not handed over is given back.
                if early is not None:
                    early.close()

    def stop(self, timeout_s: float) -> bool:
        """Have the agent deliver and end; whether it did within the time, or none is ours."""
        with self.lock:
            child = self._child
            if child is None:
                return True
            child.stop()
        return child.wait(timeout_s)

    def status(self) -> Status:
        """What is known about the agent."""
        with self.lock:
            child = self._child
            exit_status = child.ended() if child else None
            running = child is not None and exit_status is None
            reason = None if running else self._reason
            if exit_status is not None:
                reason = f"the agent ended with status {exit_status}"
            return Status(
                running,
                child.pid if child and running else None,
                self._port,
                self._socket_path,
                self._pipes,
                reason,
            )

    def forked(self) -> None:
        """Leave the agent to the parent; called in a process just forked off it."""
        if self._child is not None:
            self._child.stop()
            self._child = None
            self._reason = f"the agent belongs to process {os.getppid()}, this one is its fork"

    def _start(self, early: _socket.socket | None) -> None:
        # Imported here, as everything that may be missing or slow.
        from mini_agent.config import Config
        from mini_agent.errors import ConfigError
        from mini_agent.identity import LOCAL, detect

        config = Config.read(self._environ)
        host = detect(self._environ)
        if host.flex_without_group:
            raise ConfigError(
                "this is an Azure function on a Flex Consumption plan and DD_AZURE_RESOURCE_GROUP "
                "is not set; set it to the name of the resource group in the app's settings"
            )
        if self._windows:
            self._settle_pipes()
        bound = self._bind(config, early)
        if not bound and not self._pipes:
            return
        self._child = self._spawn_with(bound)
        if host.environment == LOCAL:
            _say_aside("info", "no known function host; taken for a machine of your own")
        where = [each.url for each in bound.values()]
        if self._pipes:
            where.append(f"named pipe {self._pipes.trace}")
        _say_aside("info", "agent started as process %d, %s", self._child.pid, ", ".join(where))

    def _bind(self, config: Config, early: _socket.socket | None) -> dict[str, BoundSocket]:
        """The sockets that can be had, by the variable that hands each over.

        Args:
            early: The TCP socket, if it listens already.
        """
        from mini_agent.errors import StartError
        from mini_agent.listen.bind import adopt, bind_tcp, bind_unix

        bound: dict[str, BoundSocket] = {}
        troubles: list[StartError] = []

        def take(variable: str, bind: Callable[[], BoundSocket]) -> None:
            try:
                bound[variable] = bind()
            except StartError as error:
                troubles.append(error)

        # One descriptor can be handed over, and "localhost" would be two.
        host = "127.0.0.1" if config.receiver_host == "localhost" else config.receiver_host
        # Where the system chose the port, tracers know that one by now.
        port = config.receiver_port or self._port or 0
        take(TCP_FD, lambda: adopt(early.detach()) if early else bind_tcp(host, port))
        path = config.receiver_socket
        if path is not None and not self._windows:
            take(UNIX_FD, lambda: bind_unix(path))
        if TCP_FD in bound:
            self._port = bound[TCP_FD].port
        self._socket_path = path if UNIX_FD in bound else None
        self._say_unbound(troubles, bool(bound or self._pipes))
        return bound

    def _say_unbound(self, troubles: Sequence[StartError], others: bool) -> None:
        if not troubles:
            return
        reason = "; ".join(map(str, troubles))
        if others:
            _log().warning("%s; the agent starts without", reason)
        elif all(_is_taken(error) for error in troubles):
            self._reason = f"{reason}; it is taken for an agent that runs already"
            _say_aside("info", "the agent is not started: %s", self._reason)
        else:
            from mini_agent.errors import StartError

            raise StartError(reason)

    def _spawn_with(self, bound: Mapping[str, BoundSocket]) -> Child:
        """Start the child and give it the sockets; ours are closed in any case."""
        from _socket import close

        handed = {variable: each.take()[0] for variable, each in bound.items()}
        told = dict.fromkeys(handed, STANDARD_INPUT) if self._windows else handed
        try:
            return self._spawn(
                child_environ(self._environ, told, self._pipes), list(handed.values())
            )
        except BaseException:
            for each in bound.values():
                each.close()
            raise
        finally:
            for descriptor in handed.values():
                close(descriptor)

    def _settle_pipes(self) -> None:
        if self._pipes is None:
            self._pipes = choose_pipe_names(self._environ)
            for warning in self._pipes.warnings:
                _log().warning("%s", warning)
        tell_own_process(self._environ, self._pipes)


# What does not depend on a process


def choose_pipe_names(
    environ: Mapping[str, str], random: Callable[[int], bytes] = os.urandom
) -> PipeNames:
    """The user's names where there are some, otherwise names that no other process has.

    Of a pair of variables that differ the one with WINDOWS decides, as in the other launchers;
    the agent's own variable counts last.
    """
    warnings: list[str] = []

    def choose(variables: Sequence[str], prefix: str) -> str:
        given = {name: environ.get(name, "").strip() for name in variables}
        given = {name: _bare(value) for name, value in given.items() if value}
        if not given:
            return prefix + random(PIPE_NAME_RANDOM_BYTES).hex()
        decides = next(iter(given))
        for name, value in given.items():
            # Names of pipes are not case-sensitive.
            if value.lower() != given[decides].lower():
                warnings.append(
                    f"{decides}={given[decides]} and {name}={value} differ; taking {decides}. "
                    f"What goes by {name} reaches another pipe"
                )
        return given[decides]

    trace = choose(
        ("DD_TRACE_WINDOWS_PIPE_NAME", "DD_TRACE_PIPE_NAME", "DD_APM_WINDOWS_PIPE_NAME"),
        "dd_trace_",
    )
    dogstatsd = choose(
        ("DD_DOGSTATSD_WINDOWS_PIPE_NAME", "DD_DOGSTATSD_PIPE_NAME"), "dd_dogstatsd_"
    )
    return PipeNames(trace, dogstatsd, tuple(warnings))


def tell_own_process(environ: MutableMapping[str, str], pipes: PipeNames) -> None:
    """Let clients made later in this process find the pipes; what the user set stays."""
    names = {"DD_TRACE_PIPE_NAME": pipes.trace, "DD_DOGSTATSD_PIPE_NAME": pipes.dogstatsd}
    for variable, name in names.items():
        if not environ.get(variable, "").strip():
            environ[variable] = name


def child_environ(
    environ: Mapping[str, str], handed: Mapping[str, int], pipes: PipeNames | None
) -> dict[str, str]:
    """The environment of the agent: ours, and what it cannot know.

    Args:
        handed: Descriptors by which it gets sockets, by the variable that tells it so.
    """
    # Ours may have been started like this itself; those sockets are not the child's.
    told = {name: text for name, text in environ.items() if name not in (TCP_FD, UNIX_FD)}
    told |= {variable: str(descriptor) for variable, descriptor in handed.items()}
    told.setdefault("DD_SERVERLESS_COMPAT_VERSION", __version__)
    # Two ways to see our end. The pipe is the quick one; if a library forks without telling
    # Python, a copy of its end stays open, and the parent's id is what is left.
    told["MINI_AGENT_CONTROL_STDIN"] = "true"
    told["MINI_AGENT_EXIT_WITH_PARENT"] = "true"
    told["MINI_AGENT_PARENT_PID"] = str(os.getpid())
    if pipes is not None:
        told["DD_APM_WINDOWS_PIPE_NAME"] = pipes.trace
        told["DD_DOGSTATSD_WINDOWS_PIPE_NAME"] = pipes.dogstatsd
    return told


def _bare(name: str) -> str:
    return name[len(_PIPE_PREFIX) :] if name.lower().startswith(_PIPE_PREFIX) else name


def _is_taken(error: StartError) -> bool:
    cause = error.__cause__
    return isinstance(cause, OSError) and cause.errno == errno.EADDRINUSE


def _log() -> logging.Logger:
    import logging

    return logging.getLogger(__name__)


def _say_aside(level: str, message: str, *arguments: object) -> None:
    """Say what only those see who configured logging; who never loaded it did not.

    Loading it would take longer than all the rest of a start.
    """
    if "logging" in sys.modules:
        getattr(_log(), level)(message, *arguments)


# The launcher of this process


def _spawn_child(environ: Mapping[str, str], descriptors: Sequence[int]) -> Child:
    # Imported here, after the sockets are bound: it brings subprocess.
    from mini_agent.spawn import Child

    if sys.platform == "win32":
        from mini_agent.listen.share import send

        child = Child(environ)
        try:
            for descriptor in descriptors:
                send(descriptor, child.pid, child.control)
        except OSError as error:
            child.stop()
            raise StartError(f"the port cannot be handed over: {error.strerror}") from error
        return child
    return Child(environ, descriptors)


_launcher = Launcher(os.environ, _spawn_child)


def _forked() -> None:
    _launcher.forked()
    _launcher.lock.release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_launcher.lock.acquire,
        after_in_parent=_launcher.lock.release,
        after_in_child=_forked,
    )

start = _launcher.start
stop = _launcher.stop
status = _launcher.status
