"""A new interpreter, for what importing a module brings along."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from kit.loopback import WAIT_S_MAX

SOURCE = str(Path(__file__).parents[2] / "src")


def run_alone(code: str) -> str:
    """What a new interpreter prints, in which every warning is an error."""
    words = [
        sys.executable,
        "-I",
        "-W",
        "error",
        "-c",
        f"import sys; sys.path += [{SOURCE!r}]; {code}",
    ]
    return subprocess.run(
        words, capture_output=True, text=True, check=True, timeout=WAIT_S_MAX
    ).stdout.strip()
