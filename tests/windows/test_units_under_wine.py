"""The tests that are Windows' own, and those of every listener, run by Wine's Python.

On Windows itself they are run as any other test is.
"""

from __future__ import annotations

import sys

import pytest
from kit.wine import ROOT, run_windows

FOLDERS = [
    "tests/unit/listen",
    "tests/unit/forward/test_folder.py",
    "tests/unit/test_endings.py",
    "tests/unit/test_narration.py",
    "tests/unit/test_places.py",
    "tests/integration/test_listeners.py",
]


@pytest.mark.skipif(sys.platform == "win32", reason="run directly here")
@pytest.mark.slow
def test_what_is_tested_on_windows_passes_under_wine(windows_python: str) -> None:
    words = ["-m", "pytest", "-p", "no:cacheprovider", "--rootdir", str(ROOT)]
    files = [str(ROOT / folder) for folder in FOLDERS]
    said = run_windows([windows_python, *words, *files], timeout_s=110)
    assert " passed" in said
