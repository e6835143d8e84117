from __future__ import annotations

import os
import sys
import tempfile

import pytest

from mini_agent import places
from mini_agent.config import Config

USER = f"-{os.getuid()}" if hasattr(os, "getuid") else ""
TEMPORARY = os.path.join(tempfile.gettempdir(), f"mini-agent{USER}")


@pytest.mark.parametrize(
    ("platform", "environ", "folder"),
    [
        ("linux", {"HOME": "/home/ann"}, "/home/ann/.local/share/mini-agent"),
        ("linux", {"HOME": "/home/ann", "XDG_DATA_HOME": "/s"}, "/s/mini-agent"),
        ("linux", {}, TEMPORARY),
        ("darwin", {"HOME": "/Users/ann"}, "/Users/ann/Library/Application Support/mini-agent"),
        ("win32", {"LOCALAPPDATA": "/local"}, "/local/mini-agent"),
        ("win32", {"HOME": "/home/ann"}, TEMPORARY),
    ],
)
@pytest.mark.skipif(os.sep != "/", reason="the expected paths are written with slashes")
def test_state_lies_where_the_system_keeps_it(monkeypatch, platform, environ, folder):
    monkeypatch.setattr(sys, "platform", platform)
    assert places.state_dir(environ, "local") == folder


def test_on_a_function_host_state_lies_with_the_temporary_files():
    assert places.state_dir({"HOME": "/home/ann"}, "azure_function") == TEMPORARY


def test_the_store_is_where_it_was_said_or_in_the_state_folder():
    chosen = Config.read({"MINI_AGENT_STORE_PATH": "/elsewhere/t.db"})
    assert places.store_path(chosen, {}, "lambda") == "/elsewhere/t.db"
    default = places.store_path(Config.read({}), {}, "lambda")
    assert default == os.path.join(TEMPORARY, places.STORE_NAME)


def test_the_journal_is_where_it_was_said_or_in_the_state_folder():
    chosen = Config.read({"MINI_AGENT_JOURNAL_DIR": "/elsewhere/j"})
    assert places.journal_dir(chosen, {}, "lambda") == "/elsewhere/j"
    default = places.journal_dir(Config.read({}), {}, "lambda")
    assert default == os.path.join(TEMPORARY, places.JOURNAL_NAME)
