"""The three ways to build: with a compiler, without one, and not at all without one."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
BUILD_S_MAX = 300

pytestmark = [pytest.mark.slow, pytest.mark.timeout(2 * BUILD_S_MAX)]


def build(folder: Path, mode: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """A wheel of this tree, built in a folder of its own with what is installed here."""
    source = folder / "source"
    if not source.exists():
        source.mkdir()
        for name in ("setup.py", "pyproject.toml", "README.md", "MANIFEST.in"):
            shutil.copy(ROOT / name, source)
        built = shutil.ignore_patterns("*.so", "*.pyd", "__pycache__", "*.egg-info")
        shutil.copytree(ROOT / "src", source / "src", ignore=built)
    arguments = ("wheel", "-q", "--no-build-isolation", "--no-deps", "-w", str(folder), str(source))
    return subprocess.run(
        [sys.executable, "-m", "pip", *arguments],
        env={**os.environ, **variables, "MINI_AGENT_EXTENSIONS": mode},
        capture_output=True,
        text=True,
        timeout=BUILD_S_MAX,
        check=False,
    )


def wheel_in(folder: Path) -> tuple[str, list[str]]:
    """The wheel's name, and which extension modules are in it."""
    [wheel] = folder.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    return wheel.name, [name for name in names if name.endswith((".so", ".pyd"))]


def version_of(folder: Path) -> str:
    """What the wheel says when it runs, unpacked, without this tree."""
    [wheel] = folder.glob("*.whl")
    place = folder / "unpacked"
    zipfile.ZipFile(wheel).extractall(place)
    environment = {key: text for key, text in os.environ.items() if key != "MINI_AGENT_PLAIN"}
    return subprocess.run(
        [sys.executable, "-m", "mini_agent", "--version"],
        env={**environment, "PYTHONPATH": str(place)},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    ).stdout


def test_a_build_without_extensions_runs_everywhere(tmp_path: Path) -> None:
    outcome = build(tmp_path, "disable")
    assert outcome.returncode == 0, outcome.stderr
    name, extensions = wheel_in(tmp_path)
    assert name.endswith("-py3-none-any.whl")
    assert extensions == []
    assert "plain" in version_of(tmp_path)


def test_without_a_compiler_nothing_is_compiled_unless_it_is_required(tmp_path: Path) -> None:
    outcome = build(tmp_path, "try", CC="no-such-compiler")
    assert outcome.returncode == 0, outcome.stderr
    assert wheel_in(tmp_path)[1] == []
    assert "plain" in version_of(tmp_path)
    assert build(tmp_path, "require", CC="no-such-compiler").returncode != 0


@pytest.mark.skipif(shutil.which("gcc") is None, reason="no compiler on this machine")
def test_with_a_compiler_everything_is_compiled(tmp_path: Path) -> None:
    outcome = build(tmp_path, "require")
    assert outcome.returncode == 0, outcome.stderr
    name, extensions = wheel_in(tmp_path)
    assert "none-any" not in name
    assert any("_express" in each for each in extensions)
    assert "compiled" in version_of(tmp_path)


def test_a_word_that_is_none_is_refused(tmp_path: Path) -> None:
    outcome = build(tmp_path, "perhaps")
    assert outcome.returncode != 0
    assert "MINI_AGENT_EXTENSIONS is 'perhaps'" in outcome.stdout + outcome.stderr
