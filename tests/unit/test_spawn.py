from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

import mini_agent
from mini_agent import spawn
from mini_agent.errors import StartError


def test_the_interpreter_is_the_one_that_runs_us():
    assert spawn.interpreter() == sys.executable


@pytest.mark.parametrize("place", [f"bin/python3.{sys.version_info[1]}", "python.exe"])
@pytest.mark.parametrize("claimed", ["/usr/bin/uwsgi", "", None])
def test_inside_another_program_the_interpreter_of_its_prefix_is_found(
    monkeypatch, tmp_path, place, claimed
):
    path = tmp_path / place
    path.parent.mkdir(exist_ok=True)
    path.touch(0o755)
    monkeypatch.setattr(sys, "executable", claimed)
    monkeypatch.setattr(sys, "exec_prefix", str(tmp_path))
    assert Path(spawn.interpreter()) == path


def test_without_an_interpreter_the_message_says_where_it_was_looked_for(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "executable", "/usr/bin/uwsgi")
    monkeypatch.setattr(sys, "exec_prefix", str(tmp_path))
    with pytest.raises(StartError, match=r"/usr/bin/uwsgi") as raised:
        spawn.command()
    assert str(tmp_path) in str(raised.value)


def test_a_frozen_program_is_no_interpreter(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "frozen", True, raising=False)
    monkeypatch.setattr(sys, "exec_prefix", str(tmp_path))
    with pytest.raises(StartError):
        spawn.interpreter()


def test_the_child_looks_for_this_package_first_and_then_where_we_do(monkeypatch):
    monkeypatch.setattr(sys, "path", ["", "some/folder", "/else", "/else", object()])
    own = str(Path(mini_agent.__file__).parents[1])
    ours = [os.getcwd(), os.path.abspath("some/folder"), os.path.abspath("/else")]
    assert spawn.import_path() == [own, *ours]


def test_the_child_is_isolated_and_keeps_our_choices_about_compiled_files(monkeypatch):
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    monkeypatch.setattr(sys, "pycache_prefix", None)
    words = spawn.command()
    assert words[:-1] == [sys.executable, "-I", "-S", "-c"]
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.setattr(sys, "pycache_prefix", "/caches")
    words = spawn.command()
    assert words[1:-2] == ["-I", "-S", "-B", "-X", "pycache_prefix=/caches"]


def test_a_system_that_starts_no_process_is_a_start_error(monkeypatch, tmp_path):
    broken = tmp_path / "python-broken"
    broken.write_text("not a program")
    monkeypatch.setattr(sys, "executable", str(broken))
    monkeypatch.setattr(sys, "_base_executable", str(broken), raising=False)
    with pytest.raises(StartError, match="python-broken"):
        spawn.Child({})
