"""The reference agent, run beside ours to see what the same input becomes there.

Its binary travels in the package `datadog-serverless-compat`, which the `dev` extra installs.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import stat
import sys
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from kit.agent import ChildProcess
from kit.ports import find_tcp_port

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

PACKAGE = "datadog-serverless-compat"

# It flushes every three seconds; what it was sent arrives within two turns.
FLUSH_INTERVAL_S = 3.0

# Needs no metadata service and no folder of an application, and adds only `_dd.origin`, `origin`
# and `functionname` to the root span.
LAMBDA = {"AWS_LAMBDA_INITIALIZATION_TYPE": "on-demand", "AWS_LAMBDA_FUNCTION_NAME": "fn"}

_FOLDERS = {("linux", "x86_64"): "linux-amd64", ("win32", "amd64"): "windows-amd64"}


def find_binary() -> Path:
    """The binary for this machine, inside the installed package.

    Raises:
        FileNotFoundError: There is none; says what is missing.
    """
    machine = (sys.platform, platform.machine().lower())
    folder = _FOLDERS.get(machine)
    if folder is None:
        raise FileNotFoundError(f"{PACKAGE} brings no binary for {' '.join(machine)}")
    try:
        files = metadata.files(PACKAGE) or []
    except metadata.PackageNotFoundError as problem:
        raise FileNotFoundError(
            f"{PACKAGE} is not installed; `pip install -e .[dev]` brings it"
        ) from problem
    for file in files:
        if file.parent.name == folder and file.name.startswith("datadog-serverless-compat"):
            return Path(str(file.locate()))
    raise FileNotFoundError(f"{PACKAGE} is installed without its binary for {folder}")


class ReferenceProcess(ChildProcess):
    """The reference on a port that was free a moment ago.

    Args:
        environment: Settings; those given here win.
        host: The variables it knows its host by: a Lambda function's, unless others are given.
        within: The beginning of a command that runs the rest of it in surroundings of its own.
    """

    READY = re.compile(r"Mini Agent listening on TCP port (?P<port>\d+)")

    def __init__(
        self,
        environment: Mapping[str, str],
        folder: Path,
        host: Mapping[str, str] = LAMBDA,
        within: Sequence[str] = (),
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        binary = find_binary()
        if not os.access(binary, os.X_OK):
            # Installers may leave the mode out; the installed file stays as it is.
            binary = Path(shutil.copyfile(binary, folder / binary.name))
            binary.chmod(stat.S_IRUSR | stat.S_IXUSR)
        settings = {
            **host,
            "DD_API_KEY": "a-key-for-tests",
            "DD_APM_RECEIVER_PORT": str(find_tcp_port()),
            "DD_USE_DOGSTATSD": "false",
            # Its ready line is one of the debug kind, and from this module alone.
            "DD_LOG_LEVEL": "info,datadog_trace_agent::mini_agent=debug",
            **environment,
        }
        super().__init__([*within, str(binary)], settings, folder, self.READY)

    def __enter__(self) -> ReferenceProcess:
        return self
