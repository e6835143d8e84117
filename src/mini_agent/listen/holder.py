"""Who holds a TCP port, where the system tells: for one helpful sentence when it is taken.

Linux says it in /proc; elsewhere, or when the holder is another user's, there is no answer.
"""

from __future__ import annotations

import os

# State of a listening socket. Source: Linux, include/net/tcp_states.h.
_LISTENING = "0A"


def holder_of(port: int, proc: str = "/proc") -> str | None:
    """The program that listens on a port, as "name (process 123)", or None."""
    links = {f"socket:[{inode}]" for inode in _listening_inodes(port, proc)}
    if not links:
        return None
    for pid in filter(str.isdigit, _names(proc)):
        descriptors = os.path.join(proc, pid, "fd")
        for name in _names(descriptors):
            if _link(os.path.join(descriptors, name)) in links:
                return f"{_first_line(os.path.join(proc, pid, 'comm'))} (process {pid})"
    return None


def _listening_inodes(port: int, proc: str) -> set[str]:
    inodes = set()
    for table in ("tcp", "tcp6"):
        try:
            with open(os.path.join(proc, "net", table), encoding="ascii") as file:
                rows = [line.split() for line in file][1:]
        except OSError:
            continue
        for row in rows:
            if row[3] == _LISTENING and int(row[1].rpartition(":")[2], 16) == port:
                inodes.add(row[9])
    return inodes


def _names(folder: str) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError:
        return []


def _link(path: str) -> str:
    try:
        return os.readlink(path)
    except OSError:
        return ""


def _first_line(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.readline().strip()
    except OSError:
        return "a program"
