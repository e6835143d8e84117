"""Everything that ends the agent, behind one `with`.

    what                                            where            effect
    ----                                            -----            ------
    SIGTERM, SIGINT (Ctrl-C)                        everywhere       stop; a second one: hurry
    CTRL_BREAK                                      Windows          the same
    the console is closed, log-off, shutdown        Windows          stop, and hurry soon
    the process that started us ended               where asked for  stop
    the other end of standard input was closed      where asked for  stop

Only a person or a supervisor that asks twice is in a hurry; a parent's death after a signal is
one event seen from two sides. Both callbacks run on the loop, and may be called again.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import sys
import threading

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

log = logging.getLogger(__name__)

# How soon the parent's death is noticed where the system does not tell.
PARENT_LOOK_S = 0.5

# Windows ends the process 5 s after it closed the console, whatever it does; what cannot be
# delivered by then is left to the journal. Source: Windows, HandlerRoutine.
CONSOLE_CLOSED_S = 4.0
# How long the thread Windows calls us in keeps it waiting: longer than Windows waits.
CONSOLE_HELD_S = 30.0


@contextlib.contextmanager
def watch(
    stop: Callable[[], None],
    hurry: Callable[[], None],
    *,
    parent: int | None = None,
    control_stdin: bool = False,
) -> Iterator[None]:
    """Call `stop` when something ends the agent and `hurry` when that is urgent.

    For the main thread, with its loop running: only there signals can be taken.

    Args:
        parent: Id of the process whose end ends us, as `find_parent` gave it at the very start;
            once it is gone, another process is the parent.
        control_stdin: Whether the end of standard input ends us.
    """
    loop = asyncio.get_running_loop()
    asked = False

    def ask() -> None:
        nonlocal asked
        if asked:
            hurry()
        asked = True
        stop()

    def tell(reason: str) -> None:
        log.info("%s", reason)
        stop()

    with contextlib.ExitStack() as watches:
        watches.enter_context(_signals(loop, ask))
        if sys.platform == "win32":
            watches.enter_context(_console(loop, ask, tell, hurry))
        if parent is not None:
            watches.enter_context(_parent(loop, parent, tell))
        if control_stdin:
            _start_thread(_read_control_pipe, loop, tell)
        yield


@contextlib.contextmanager
def _signals(loop: asyncio.AbstractEventLoop, ask: Callable[[], None]) -> Iterator[None]:
    names = ("SIGTERM", "SIGINT", "SIGBREAK")
    numbers = [getattr(signal, name) for name in names if hasattr(signal, name)]
    # Not loop.add_signal_handler: Windows' loop has none.
    before = {
        number: signal.signal(number, lambda *_: loop.call_soon_threadsafe(ask))
        for number in numbers
    }
    try:
        yield
    finally:
        for number, taken in before.items():
            signal.signal(number, taken)


def _start_thread(
    work: Callable[[Callable[[str], None]], None],
    loop: asyncio.AbstractEventLoop,
    tell: Callable[[str], None],
) -> None:
    """Wait for something in a thread that nobody waits for: what it waits for may never come."""

    def report(reason: str) -> None:
        # The loop may be gone when the wait ends at last.
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(tell, reason)

    threading.Thread(target=work, args=(report,), name="ending", daemon=True).start()


def _read_control_pipe(report: Callable[[str], None]) -> None:
    if sys.stdin is None:
        # Its number may belong to a socket of ours by now.
        log.warning("there is no standard input that could be watched")
        return
    try:
        # Not through sys.stdin: its lock would be held when the interpreter ends.
        while os.read(sys.stdin.fileno(), 4096):
            pass
    except OSError as error:
        # As Windows reports a pipe whose other end was killed.
        log.debug("standard input: %s", error.strerror)
    report("the control pipe is closed")


if sys.platform == "win32":
    import _winapi

    _SYNCHRONIZE = 0x100000
    _QUERY_LIMITED = 0x1000
    _BASIC_INFORMATION = 0
    # No such process. Source: Windows, OpenProcess.
    _INVALID_PARAMETER = 87

    _CTRL_BREAK = 1
    _CLOSINGS = {2: "the console is closed", 5: "the user logs off", 6: "the machine shuts down"}

    # The longest path of a file, in characters. Source: Windows, "Maximum Path Length Limitation".
    _PATH_CHARACTERS_MAX = 32767
    # Launchers between us and whoever started us: pip's, and that of a virtual environment.
    _LAUNCHERS_MAX = 2

    # Kept for the life of the process: a thread of Windows may stand in one of them.
    _routines: list[object] = []

    def find_parent() -> int:
        """The id of the process that started us, to be asked for at the very start.

        The .exe files that pip writes and the python.exe of a virtual environment are launchers:
        they start the real interpreter and wait for it. Such a parent never ends before us, so
        whoever started the launcher counts.
        """
        pid = os.getppid()
        launchers = {os.path.normcase(path) for path in (sys.executable, *sys.orig_argv[1:2])}
        with contextlib.suppress(OSError):
            own_path, _ = _look_at(os.getpid())
            for _ in range(_LAUNCHERS_MAX):
                path, above = _look_at(pid)
                if path == own_path or path not in launchers:
                    break
                pid = above
        return pid

    def _look_at(pid: int) -> tuple[str, int]:
        """The path of a process's program, and the id of its parent."""
        import ctypes
        from ctypes import wintypes

        path = ctypes.create_unicode_buffer(_PATH_CHARACTERS_MAX)
        size = wintypes.DWORD(_PATH_CHARACTERS_MAX)
        # PROCESS_BASIC_INFORMATION, of which the last is the parent's id.
        about = (ctypes.c_size_t * 6)()
        process = _winapi.OpenProcess(_QUERY_LIMITED, False, pid)
        try:
            handle = wintypes.HANDLE(process)
            ctypes.WinDLL("kernel32").QueryFullProcessImageNameW(
                handle, 0, path, ctypes.byref(size)
            )
            ctypes.WinDLL("ntdll").NtQueryInformationProcess(
                handle, _BASIC_INFORMATION, about, ctypes.sizeof(about), None
            )
        finally:
            _winapi.CloseHandle(process)
        return os.path.normcase(path.value), about[5]

    @contextlib.contextmanager
    def _parent(
        loop: asyncio.AbstractEventLoop, pid: int, tell: Callable[[str], None]
    ) -> Iterator[None]:
        try:
            parent = _winapi.OpenProcess(_SYNCHRONIZE, False, pid)
        except OSError as error:
            if error.winerror == _INVALID_PARAMETER and pid:
                loop.call_soon(tell, "the parent is gone")
            else:
                log.warning("the parent's end cannot be watched: %s", error.strerror)
            yield
            return

        def wait(report: Callable[[str], None]) -> None:
            # The handle is the thread's own and lives as long as it waits.
            _winapi.WaitForSingleObject(parent, _winapi.INFINITE)
            _winapi.CloseHandle(parent)
            report("the parent is gone")

        _start_thread(wait, loop, tell)
        yield

    @contextlib.contextmanager
    def _console(
        loop: asyncio.AbstractEventLoop,
        ask: Callable[[], None],
        tell: Callable[[str], None],
        hurry: Callable[[], None],
    ) -> Iterator[None]:
        """Take the console's events that the C library knows no signal for, and CTRL_BREAK.

        Windows calls in a thread of its own, and when that returns from a closing event the
        process ends. So it stays there: the process ends by itself when all is done.
        """
        import ctypes
        from ctypes import wintypes

        forever, closing = threading.Event(), threading.Event()

        def begin_closing(reason: str) -> None:
            tell(reason)
            loop.call_later(CONSOLE_CLOSED_S, hurry)

        def take(event: int) -> bool:
            if event != _CTRL_BREAK and event not in _CLOSINGS:
                return False
            if event in _CLOSINGS:
                closing.set()
            with contextlib.suppress(RuntimeError):
                if event == _CTRL_BREAK:
                    loop.call_soon_threadsafe(ask)
                else:
                    loop.call_soon_threadsafe(begin_closing, _CLOSINGS[event])
            if event in _CLOSINGS:
                forever.wait(CONSOLE_HELD_S)
            return True

        routine = ctypes.WINFUNCTYPE(wintypes.BOOL, wintypes.DWORD)(take)
        _routines.append(routine)
        kernel = ctypes.WinDLL("kernel32", use_last_error=True)
        if not kernel.SetConsoleCtrlHandler(routine, True):
            log.warning("the console's events cannot be watched")
        try:
            yield
        finally:
            # It may be locked for as long as Windows is inside a routine.
            if not closing.is_set():
                kernel.SetConsoleCtrlHandler(routine, False)

else:

    def find_parent() -> int:
        """The id of the process that started us, to be asked for at the very start."""
        return os.getppid()

    @contextlib.contextmanager
    def _parent(
        loop: asyncio.AbstractEventLoop, pid: int, tell: Callable[[str], None]
    ) -> Iterator[None]:
        with contextlib.ExitStack() as held:
            looking = loop.call_soon(_look_for_parent, loop, pid, tell, held)
            held.callback(looking.cancel)
            yield

    def _look_for_parent(
        loop: asyncio.AbstractEventLoop,
        pid: int,
        tell: Callable[[str], None],
        held: contextlib.ExitStack,
    ) -> None:
        """Tell if the parent is gone; otherwise be called again when it is, or in a while."""
        # Whatever was to call us has done so.
        held.close()
        if os.getppid() != pid:
            tell("the parent is gone")
            return
        try:
            # Linux tells at once, and it costs nothing until then; others have no such call.
            watched: int = getattr(os, "pidfd_open")(pid)  # noqa: B009
        except (AttributeError, OSError):
            again = loop.call_later(PARENT_LOOK_S, _look_for_parent, loop, pid, tell, held)
            held.callback(again.cancel)
            return
        held.callback(os.close, watched)
        loop.add_reader(watched, _tell_once, tell, held)
        held.callback(loop.remove_reader, watched)

    def _tell_once(tell: Callable[[str], None], held: contextlib.ExitStack) -> None:
        held.close()
        tell("the parent is gone")
