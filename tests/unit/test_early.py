from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from kit.loopback import WAIT_S_MAX

from mini_agent import early
from mini_agent.early import bind_plain

SOURCE = str(Path(__file__).parents[2] / "src")

posix = pytest.mark.skipif(
    hasattr(socket, "SO_EXCLUSIVEADDRUSE"), reason="on Windows nothing is bound early"
)


@posix
@pytest.mark.parametrize("text", ["0", " 0 ", "00000"])
def test_the_port_of_plain_settings_accepts_at_once(text):
    with contextlib.closing(bind_plain({"DD_APM_RECEIVER_PORT": text})) as bound:
        host, port = bound.getsockname()
        assert host == "127.0.0.1"
        socket.create_connection((host, port), WAIT_S_MAX).close()


@posix
def test_without_a_setting_it_is_the_port_that_tracers_know(monkeypatch):
    with contextlib.closing(bind_plain({"DD_APM_RECEIVER_PORT": "0"})) as free:
        port = free.getsockname()[1]
    monkeypatch.setattr(early, "TRACES_PORT", port)
    with contextlib.closing(bind_plain({})) as bound:
        assert bound.getsockname() == ("127.0.0.1", port)


@posix
def test_a_port_that_the_system_chose_before_is_taken_again():
    with contextlib.closing(bind_plain({"DD_APM_RECEIVER_PORT": "0"})) as before:
        port = before.getsockname()[1]
    with contextlib.closing(bind_plain({"DD_APM_RECEIVER_PORT": "0"}, port)) as bound:
        assert bound.getsockname()[1] == port


@pytest.mark.parametrize(
    "settings",
    [
        {"DD_APM_RECEIVER_PORT": "0", "DD_BIND_HOST": "127.0.0.1"},
        {"DD_APM_RECEIVER_PORT": "0", "DD_APM_NON_LOCAL_TRAFFIC": "true"},
        {"DD_APM_RECEIVER_PORT": "0", "DD_APM_NET_RECEIVER_FD": "3"},
        {"DD_APM_RECEIVER_PORT": "70000"},
        {"DD_APM_RECEIVER_PORT": "9" * 5000},
        {"DD_APM_RECEIVER_PORT": "-1"},
        {"DD_APM_RECEIVER_PORT": "eight"},
        {"DD_APM_RECEIVER_PORT": "\u0661"},
    ],
)
def test_whatever_is_not_plain_is_left_to_those_who_come_later(settings):
    assert bind_plain(settings) is None


@posix
def test_a_port_that_is_taken_is_left_to_them_too():
    with contextlib.closing(bind_plain({"DD_APM_RECEIVER_PORT": "0"})) as held:
        assert bind_plain({"DD_APM_RECEIVER_PORT": str(held.getsockname()[1])}) is None


def test_it_loads_one_module_of_the_standard_library():
    code = (
        f"import sys; sys.path.insert(0, {SOURCE!r}); import mini_agent; "
        "before = set(sys.modules); import mini_agent.early; "
        "print(*sorted(set(sys.modules) - before))"
    )
    words = [sys.executable, "-I", "-S", "-c", code]
    done = subprocess.run(words, capture_output=True, text=True, check=True, timeout=WAIT_S_MAX)
    assert done.stdout.split() == ["_socket", "mini_agent.early"]
