"""Promises 1 and 2: yes means kept, and the books balance, whatever goes wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from stress.scenarios import SCENARIOS, faults, play


@pytest.mark.slow
@pytest.mark.parametrize("name", SCENARIOS)
def test_nothing_acknowledged_is_lost(name: str, tmp_path: Path) -> None:
    figures = play(name, tmp_path)
    print(f"{name}: {figures}")
    assert faults(name, figures) == []
