"""Which container this process runs in, as the intake is told with every request.

Both answers come from the kernel's control groups and exist on Linux alone; elsewhere, and
outside of containers, there is nothing to tell.

Source: reference-agent 4.10.
"""

from __future__ import annotations

import os
import re

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

CGROUP_FILE = "/proc/self/cgroup"
CGROUP_ROOT = "/sys/fs/cgroup"
NAMESPACE_FILE = "/proc/self/ns/cgroup"

# The inode of the host's own control group namespace. Source: Linux, include/linux/proc_ns.h.
_HOST_NAMESPACE_INODE = 0xEFFFFFFB

# No file of /proc about one process comes near this.
_FILE_BYTES_MAX = 64 * 1024

_UUID = r"[0-9a-f]{8}[-_][0-9a-f]{4}[-_][0-9a-f]{4}[-_][0-9a-f]{4}[-_][0-9a-f]{12}"
_FOUNDRY = r"[0-9a-f]{8}(?:-[0-9a-f]{4}){4}"
_DOCKER = r"[0-9a-f]{64}"
_FARGATE = r"[0-9a-f]{32}-\d+"
# The last id of a line's path; systemd adds `.scope` and, nested, a folder below it.
_CONTAINER = re.compile(rf".*({_UUID}|{_FOUNDRY}|{_DOCKER}|{_FARGATE})(?:\.scope)?(?:/[^/]+)? *$")
_LINE = re.compile(r"^\d+:([^:]*):(.+)$")


def request_headers(
    cgroup_file: str = CGROUP_FILE,
    cgroup_root: str = CGROUP_ROOT,
    namespace_file: str = NAMESPACE_FILE,
) -> dict[str, str]:
    """Headers that name this process's container: `datadog-container-id`, `datadog-entity-id`."""
    lines = _read_lines(cgroup_file)
    container_id = find_container_id(lines)
    if container_id is not None:
        return {"datadog-container-id": container_id, "datadog-entity-id": f"ci-{container_id}"}
    inode = _cgroup_inode(lines, cgroup_root, namespace_file)
    return {"datadog-entity-id": f"in-{inode}"} if inode else {}


def find_container_id(lines: Iterable[str]) -> str | None:
    """The container id in the lines of a cgroup file, from the first line that has one."""
    for line in lines:
        parts = _LINE.match(line)
        found = _CONTAINER.match(parts[2]) if parts else None
        if found is not None:
            return found[1]
    return None


def _cgroup_inode(lines: list[str], cgroup_root: str, namespace_file: str) -> int | None:
    """The inode of our control group's folder, seen from inside a container; else None."""
    try:
        if os.stat(namespace_file).st_ino == _HOST_NAMESPACE_INODE:
            return None
    except OSError:
        return None
    for line in lines:
        parts = _LINE.match(line)
        # Version 2 has one line without controllers; version 1 one for each.
        if parts and parts[1] in ("", "memory"):
            folder = os.path.join(cgroup_root, parts[1], parts[2].lstrip("/"))
            try:
                return os.stat(folder).st_ino
            except OSError:
                continue
    return None


def _read_lines(path: str) -> list[str]:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read(_FILE_BYTES_MAX).splitlines()
    except OSError:
        return []
