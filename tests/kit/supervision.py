"""The supervision table of agent.py, as its docstring has it: what is expected of a death."""

from __future__ import annotations

import re
from typing import NamedTuple

from mini_agent import agent

# What the name of a part begins with, in the table and in the log.
LISTENER = "listener"


class Row(NamedTuple):
    """One line of the table."""

    part: str
    restarted: bool
    exit_status: int
    stops_in: str


def read_table() -> dict[str, Row]:
    """The rows by what the names of their parts begin with."""
    assert agent.__doc__ is not None
    _, found, rest = agent.__doc__.partition("    part  ")
    assert found, "agent.py has no table of parts"
    lines = rest.partition("\n\n")[0].splitlines()[1:]
    return {row.part: row for row in map(_read_row, lines)}


def _read_row(line: str) -> Row:
    part, restarted, given_up, stops_in, _ = re.split(r"\s{2,}", line.strip(), maxsplit=4)
    assert restarted in ("yes", "no"), line
    status = re.fullmatch(r"drain and exit (\d)", given_up)
    assert status is not None, line
    # "listener, each" is several parts, with an address behind that word.
    return Row(part.partition(",")[0], restarted == "yes", int(status[1]), stops_in)
