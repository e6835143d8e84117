"""endings: what ends the agent reaches the loop, once, and nothing else does."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Callable

import pytest
from kit.waiting import until

from mini_agent import endings

WAIT_S_MAX = 20.0

Told = list[str]


async def wait_for(told: Told, *words: str) -> None:
    """Let the loop run until it was told these words."""
    async with asyncio.timeout(WAIT_S_MAX):
        while told != list(words):
            await asyncio.sleep(0)


def run(work: Callable[[Told], object], **watched: object) -> Told:
    """Watch while `work` makes something happen; what was told."""

    async def scene() -> Told:
        told: Told = []
        stop, hurry = (lambda: told.append("stop")), (lambda: told.append("hurry"))
        with endings.watch(stop, hurry, **watched):  # type: ignore[arg-type]
            await work(told)  # type: ignore[misc]
        return told

    return asyncio.run(scene())


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGBREAK"])
def test_a_signal_stops_and_a_second_one_hurries(name: str) -> None:
    number = getattr(signal, name, None)
    if number is None:
        pytest.skip(f"no {name} on this system")

    async def twice(told: Told) -> None:
        signal.raise_signal(number)
        await wait_for(told, "stop")
        signal.raise_signal(number)
        await wait_for(told, "stop", "hurry", "stop")

    run(twice)


def test_signals_have_their_old_meaning_afterwards() -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]

    async def nothing(told: Told) -> None:
        assert signal.getsignal(signal.SIGTERM) is not before[1]

    assert run(nothing) == []
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def test_the_parent_is_who_started_us() -> None:
    program = "from mini_agent import endings; print(endings.find_parent())"
    child = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    assert int(child.stdout) == os.getpid()


def test_a_living_parent_ends_nothing() -> None:
    async def a_while(told: Told) -> None:
        for _ in range(10):
            await asyncio.sleep(0)

    assert run(a_while, parent=os.getppid()) == []


@pytest.mark.skipif(os.name == "nt", reason="there, an ended process has no id to be given")
def test_a_parent_that_is_gone_before_the_watch_begins_is_noticed() -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()

    async def look(told: Told) -> None:
        await wait_for(told, "stop")

    assert run(look, parent=ended.pid) == ["stop"]


# A child whose parent, which is not us, goes away; it says what it was told and ends.
_CHILD = """
import asyncio, os, sys
from mini_agent import endings

async def main():
    stopped = asyncio.Event()
    with endings.watch(stopped.set, stopped.set, {watched}):
        print("watching", flush=True)
        await asyncio.wait_for(stopped.wait(), 20)
    print("stopped", flush=True)

{before}
asyncio.run(main())
"""

_PARENT = """
import subprocess, sys
subprocess.Popen([sys.executable, "-c", sys.argv[1]])
sys.stdin.read()
"""


@pytest.mark.parametrize("told_by", ["the system", "looking"])
def test_the_death_of_the_parent_stops(told_by: str) -> None:
    if told_by == "looking" and not hasattr(os, "pidfd_open"):
        pytest.skip("this system has no other way than the first")
    # Without the call, as on macOS.
    before = "del os.pidfd_open" if told_by == "looking" else ""
    child = _CHILD.format(watched="parent=endings.find_parent()", before=before)
    with subprocess.Popen(
        [sys.executable, "-c", _PARENT, child],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as parent:
        assert parent.stdin is not None
        assert parent.stdout is not None
        assert parent.stdout.readline() == "watching\n"
        parent.kill()
        # Read to the end: the child holds the other end of the pipe.
        assert parent.stdout.read() == "stopped\n"


def test_a_closed_control_pipe_stops() -> None:
    child = _CHILD.format(watched="control_stdin=True", before="")
    with subprocess.Popen(
        [sys.executable, "-c", child], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as running:
        assert running.stdin is not None
        assert running.stdout is not None
        assert running.stdout.readline() == "watching\n"
        running.stdin.write("words are not the end\n")
        running.stdin.flush()
        running.stdin.close()
        assert running.stdout.read() == "stopped\n"
        assert running.wait(WAIT_S_MAX) == 0


@pytest.mark.skipif(os.name == "nt", reason="Windows gives a process no closed standard input")
def test_a_missing_standard_input_ends_nothing() -> None:
    child = _CHILD.format(watched="control_stdin=True", before="")
    with subprocess.Popen(
        ["/bin/sh", "-c", 'exec "$@" <&-', "sh", sys.executable, "-c", child],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as running:
        assert running.stdout is not None
        assert running.stderr is not None
        assert running.stdout.readline() == "watching\n"
        assert "no standard input" in running.stderr.readline()
        assert running.poll() is None
        running.terminate()
        assert running.stdout.read() == "stopped\n"
        until(lambda: running.poll() == 0)
