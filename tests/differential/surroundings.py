"""What the reference looks for on its host, without leaving anything on this machine.

It is run in a mount namespace of its own, which takes root on Linux: there an application lies
where Azure puts it, or the name of Google's metadata server is that of one on loopback.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from kit.metadata import MetadataServer
from kit.reference import find_binary

if TYPE_CHECKING:
    from collections.abc import Iterator

AZURE_ROOT = Path("/home/site/wwwroot")

# The reference asks on port 80 and knows no other; an address that nothing else is likely to use.
METADATA_PLACE = ("127.0.80.80", 80)
METADATA_NAME = "metadata.google.internal"

_NAMESPACE = ("unshare", "--mount", "--propagation", "private", "--", "sh", "-ec")

# The last words are the command, as $0 and on: it takes the shell's place and so gets its signals.
_WITH_APPLICATION = (
    f"mount -t tmpfs none /home; mkdir -p {AZURE_ROOT}; "
    f'echo "{{}}" > {AZURE_ROOT}/host.json; exec "$0" "$@"'
)


@contextlib.contextmanager
def azure_function(folder: Path) -> Iterator[list[str]]:
    """Surroundings with an application; gives what the reference is run by.

    Where there are none to be had, the application is put where it belongs and taken away again.
    """
    if (AZURE_ROOT / "host.json").exists():
        yield []
    elif _has_namespaces() and not _lies_in_home(folder, find_binary()):
        yield [*_NAMESPACE, _WITH_APPLICATION]
    else:
        with _put_application():
            yield []


@contextlib.contextmanager
def cloud_function(folder: Path) -> Iterator[tuple[list[str], MetadataServer]]:
    """Surroundings with a metadata server; also gives the server itself."""
    if not _has_namespaces():
        pytest.skip("the reference asks a fixed name, which takes a mount namespace to give it")
    hosts = folder / "hosts"
    hosts.write_text(f"127.0.0.1 localhost\n{METADATA_PLACE[0]} {METADATA_NAME}\n")
    try:
        server = MetadataServer(place=METADATA_PLACE)
    except OSError as problem:
        pytest.skip(f"there is no port 80 for a metadata server: {problem}")
    with server:
        yield [*_NAMESPACE, f'mount --bind "{hosts}" /etc/hosts; exec "$0" "$@"'], server


def _has_namespaces() -> bool:
    if sys.platform != "linux" or os.geteuid() != 0 or shutil.which("unshare") is None:
        return False
    tried = subprocess.run([*_NAMESPACE, "mount -t tmpfs none /home"], capture_output=True)
    return tried.returncode == 0


def _lies_in_home(*paths: Path) -> bool:
    return any(Path("/home") in path.resolve().parents for path in paths)


@contextlib.contextmanager
def _put_application() -> Iterator[None]:
    made = [each for each in (*reversed(AZURE_ROOT.parents), AZURE_ROOT) if not each.exists()]
    document = AZURE_ROOT / "host.json"
    try:
        AZURE_ROOT.mkdir(parents=True, exist_ok=True)
        document.write_text("{}")
    except OSError as problem:
        for folder in reversed(made):
            with contextlib.suppress(OSError):
                folder.rmdir()
        pytest.skip(f"the reference needs {document}: {problem}")
    try:
        yield
    finally:
        document.unlink()
        for folder in reversed(made):
            folder.rmdir()
