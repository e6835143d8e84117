"""Starts an agent as a Windows program and does to it what it is told: `keeper.py`, on Windows.

Further words are the interpreter's, in place of `-m mini_agent run`. Prints `agent PID`, then all
the agent says. Takes one order per line from standard input:

    ctrl-c, ctrl-break, close, logoff, shutdown   a console event for the agent
    close-stdin                                   closes the agent's control pipe
    write TEXT                                    writes to it
    kill                                          ends the agent where it stands
    die                                           ends at once, without a word to the agent

and prints `status N` when the agent has ended. Under Wine, whose GenerateConsoleCtrlEvent knows
Ctrl-C alone, an event is delivered as Wine itself does it: kernelbase's CtrlRoutine is begun as a
thread of the agent. Windows takes the first two by its own call, and offers nothing for the rest.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import threading

EVENTS = {"ctrl-c": 0, "ctrl-break": 1, "close": 2, "logoff": 5, "shutdown": 6}
ALL_ACCESS = 0x1FFFFF
IS_WINE = hasattr(ctypes.WinDLL("ntdll"), "wine_get_version")


def main() -> None:
    child = subprocess.Popen(
        [sys.executable, *(sys.argv[1:] or ["-m", "mini_agent", "run"])],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        # Windows sends an event to a group, and a group of its own never gets Ctrl-C.
        creationflags=0 if IS_WINE else subprocess.CREATE_NEW_PROCESS_GROUP,
    )
    say(f"agent {child.pid}")
    threading.Thread(target=obey, args=(child,), daemon=True).start()
    assert child.stdout is not None
    for line in child.stdout:
        say(line.decode("utf-8", "replace").rstrip())
    say(f"status {child.wait()}")


def obey(child: subprocess.Popen[bytes]) -> None:
    for line in sys.stdin:
        word, _, text = line.strip().partition(" ")
        assert child.stdin is not None
        if word == "die":
            os._exit(0)
        elif word == "close-stdin":
            child.stdin.close()
        elif word == "write":
            child.stdin.write(text.encode())
            child.stdin.flush()
        elif word == "kill":
            child.kill()
        else:
            deliver(child, EVENTS[word])


def deliver(child: subprocess.Popen[bytes], event: int) -> None:
    if not IS_WINE:
        child.send_signal({0: signal.CTRL_C_EVENT, 1: signal.CTRL_BREAK_EVENT}[event])
        return
    kernel = ctypes.WinDLL("kernel32", use_last_error=True)
    for name in ("OpenProcess", "CreateRemoteThread", "GetProcAddress", "GetModuleHandleW"):
        getattr(kernel, name).restype = ctypes.c_void_p
    # The same address in every process.
    module = ctypes.c_void_p(kernel.GetModuleHandleW("kernelbase.dll"))
    routine = ctypes.c_void_p(kernel.GetProcAddress(module, b"CtrlRoutine"))
    process = ctypes.c_void_p(kernel.OpenProcess(ALL_ACCESS, 0, child.pid))
    begun = kernel.CreateRemoteThread(
        process, None, ctypes.c_size_t(0), routine, ctypes.c_void_p(event), 0, None
    )
    assert begun, ctypes.get_last_error()


def say(line: str) -> None:
    sys.stdout.buffer.write(line.encode() + b"\n")
    sys.stdout.buffer.flush()


main()
