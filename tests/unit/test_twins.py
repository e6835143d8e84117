from __future__ import annotations

import subprocess
import sys
import types

import pytest
from kit.agent import make_environment
from kit.loopback import WAIT_S_MAX

from mini_agent import twins

EXTENSION = "mini_agent.traces._express"


def test_compiled_runs_where_the_extension_can_be_imported(monkeypatch):
    monkeypatch.setitem(sys.modules, EXTENSION, types.ModuleType(EXTENSION))
    assert twins.running() == "compiled"


def test_plain_runs_where_it_cannot(monkeypatch):
    monkeypatch.setitem(sys.modules, EXTENSION, None)
    assert twins.running() == "plain"


def test_an_extension_is_passed_over_and_its_plain_source_found(tmp_path):
    (tmp_path / "both.py").write_text("")
    (tmp_path / "both.so").write_bytes(b"")
    spec = twins.PlainFinder.find_spec("mini_agent.both", [str(tmp_path)])
    assert spec is not None
    assert spec.origin == str(tmp_path / "both.py")


def test_what_has_no_plain_source_is_not_there(tmp_path):
    (tmp_path / "only.so").write_bytes(b"")
    with pytest.raises(ModuleNotFoundError, match=r"mini_agent\.only has no plain source"):
        twins.PlainFinder.find_spec("mini_agent.only", [str(tmp_path)])


@pytest.mark.parametrize("name", ["json.decoder", "mini_agents.cli", "mini_agent"])
def test_other_packages_are_left_to_the_other_finders(name):
    assert twins.PlainFinder.find_spec(name, ["/nowhere"] if "." in name else None) is None


def test_the_variable_makes_a_whole_process_plain(tmp_path):
    code = "from mini_agent import twins; print(twins.running())"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=make_environment({twins.VARIABLE: "1"}, tmp_path),
        capture_output=True,
        text=True,
        check=True,
        timeout=WAIT_S_MAX,
    )
    assert done.stdout == "plain\n"
