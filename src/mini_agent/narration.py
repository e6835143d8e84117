"""What the agent says while it runs: one line per record on standard output.

The level, the part that speaks, the message; no time, because the platforms that run functions
stamp every line themselves, and no colours. A line break inside a message becomes `\\n`, so that
nothing from outside can start a line of its own.
"""

from __future__ import annotations

import logging
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import TextIO

_TRACE = 5

_LEVELS = {
    "off": logging.CRITICAL + 1,
    "critical": logging.CRITICAL,
    "error": logging.ERROR,
    "warn": logging.WARNING,
    "info": logging.INFO,
    "debug": logging.DEBUG,
    "trace": _TRACE,
}

# At most five letters, so that the columns stand.
_NAMES = {
    logging.CRITICAL: "CRIT",
    logging.ERROR: "ERROR",
    logging.WARNING: "WARN",
    logging.INFO: "INFO",
    logging.DEBUG: "DEBUG",
    _TRACE: "TRACE",
}


def set_up(level: str, out: TextIO | None = None) -> None:
    """Let records of this level and above be printed; a second call replaces the first.

    Libraries are heard from warnings upward: their debugging lines are for their authors, and
    some print what they send.

    Args:
        level: As `Config.log_level` has it.
        out: In place of standard output.
    """
    root = logging.getLogger()
    for voice in [voice for voice in root.handlers if isinstance(voice, _Voice)]:
        root.removeHandler(voice)
    root.addHandler(_Voice(out or sys.stdout))
    root.setLevel(max(_LEVELS[level], logging.WARNING))
    logging.getLogger("mini_agent").setLevel(_LEVELS[level])


class _Voice(logging.StreamHandler["TextIO"]):
    """Our own output, told apart from those that others added."""

    def format(self, record: logging.LogRecord) -> str:
        level = _NAMES.get(record.levelno, record.levelname)
        # The standard format adds tracebacks.
        text = super().format(record).replace("\r", "\\r").replace("\n", "\\n")
        return f"{level:>5} {record.name}: {text}"
