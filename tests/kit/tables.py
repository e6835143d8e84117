"""The tables of tests/tables: one case a line, as JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parents[1] / "tables"


def load(name: str) -> list[dict[str, Any]]:
    """The cases of a table, such as `obfuscate/sql`."""
    text = (FOLDER / f"{name}.jsonl").read_text(encoding="utf-8")
    # Not splitlines: some cases hold other line ends.
    return [json.loads(line) for line in text.split("\n") if line]
