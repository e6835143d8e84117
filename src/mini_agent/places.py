"""Where files live when no setting says so.

One rule for the agent that writes them and the commands that read them.
"""

from __future__ import annotations

import os
import sys

from mini_agent.identity import LOCAL

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from mini_agent.config import Config

STORE_NAME = "traces.sqlite"
JOURNAL_NAME = "journal"


def state_dir(environ: Mapping[str, str], environment: str) -> str:
    """The folder for everything the agent keeps; it need not exist.

    On a function's host it lies in the folder for temporary files, the only one that is always
    writable there, under a name of this user's own. Elsewhere it lies in the user's data folder.

    Args:
        environment: As `Identity.environment` has it.

    Source: XDG Base Directory specification; Windows known folders; Apple's file system guide.
    """
    if environment != LOCAL:
        return _temporary()
    if sys.platform == "win32":
        place = environ.get("LOCALAPPDATA")
    elif sys.platform == "darwin":
        place = _below_home(environ, "Library", "Application Support")
    else:
        place = environ.get("XDG_DATA_HOME") or _below_home(environ, ".local", "share")
    return os.path.join(place, "mini-agent") if place else _temporary()


def store_path(config: Config, environ: Mapping[str, str], environment: str) -> str:
    """The file of the local store."""
    return config.store_path or os.path.join(state_dir(environ, environment), STORE_NAME)


def journal_dir(config: Config, environ: Mapping[str, str], environment: str) -> str:
    """The folder of the journal."""
    return config.journal_dir or os.path.join(state_dir(environ, environment), JOURNAL_NAME)


def _temporary() -> str:
    # Imported here: it brings compression and more, some eight milliseconds of a start.
    import tempfile

    # Others use the same folder: a name they took must not be in our way.
    user = str(os.getuid()) if hasattr(os, "getuid") else ""
    return os.path.join(tempfile.gettempdir(), f"mini-agent-{user}".rstrip("-"))


def _below_home(environ: Mapping[str, str], *names: str) -> str | None:
    home = environ.get("HOME")
    return os.path.join(home, *names) if home else None
