from __future__ import annotations

import logging
import os
import re
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from kit.loopback import WAIT_S_MAX

from mini_agent import __version__
from mini_agent.errors import StartError
from mini_agent.launcher import (
    Launcher,
    PipeNames,
    child_environ,
    choose_pipe_names,
    tell_own_process,
)

PREFIX = "\\\\.\\pipe\\"

posix = pytest.mark.skipif(not hasattr(os, "fork"), reason="descriptors are handed over on POSIX")


def copy_of(descriptor):
    held = socket.socket(fileno=descriptor)
    try:
        return held.dup()
    finally:
        held.detach()


class FakeChild:
    """A child that does as it is told; keeps copies of the sockets, as a real one does."""

    def __init__(self, environ, descriptors):
        self.pid = 4711
        self.environ = environ
        self.sockets = [copy_of(each) for each in descriptors]
        self.exit_status = None
        self.stopped = False
        self.waited_s = None

    def ended(self):
        return self.exit_status

    def stop(self):
        self.stopped = True

    def wait(self, timeout_s):
        self.waited_s = timeout_s
        return self.exit_status is not None

    def die(self, exit_status):
        self.exit_status = exit_status
        for each in self.sockets:
            each.close()


class Spawner:
    """Starts fake children and keeps them."""

    def __init__(self):
        self.children = []

    def __call__(self, environ, descriptors):
        self.children.append(FakeChild(environ, descriptors))
        return self.children[-1]

    @property
    def child(self):
        (child,) = self.children
        return child


@pytest.fixture
def spawner():
    spawner = Spawner()
    yield spawner
    for child in spawner.children:
        child.die(0)


@pytest.fixture
def said(caplog):
    """Levels and messages, from debug upward."""
    caplog.set_level(logging.DEBUG, "mini_agent.launcher")
    return lambda: [(record.levelname, record.message) for record in caplog.records]


def make(spawner, windows=False, **environ):
    return Launcher({"DD_APM_RECEIVER_PORT": "0", **environ}, spawner, windows)


# Starting


def test_importing_the_package_loads_nothing_else():
    source = str(Path(__file__).parents[2] / "src")
    code = (
        f"import os, sys; sys.path.insert(0, {source!r}); before = set(sys.modules); "
        "import mini_agent; print(*sorted(set(sys.modules) - before))"
    )
    words = [sys.executable, "-I", "-S", "-c", code]
    # What chooses the plain twin is a module too.
    environ = {key: text for key, text in os.environ.items() if key != "MINI_AGENT_PLAIN"}
    done = subprocess.run(
        words, env=environ, capture_output=True, text=True, check=True, timeout=WAIT_S_MAX
    )
    assert done.stdout.split() == ["__future__", "mini_agent"]


@posix
def test_the_port_accepts_when_start_returns(spawner):
    launcher = make(spawner)
    launcher.start()
    status = launcher.status()
    assert (status.running, status.pid, status.reason) == (True, 4711, None)
    socket.create_connection(("127.0.0.1", status.port), WAIT_S_MAX).close()
    (handed,) = spawner.child.sockets
    assert handed.getsockname() == ("127.0.0.1", status.port)


def test_our_own_copy_of_the_socket_is_closed(spawner):
    launcher = make(spawner)
    launcher.start()
    spawner.child.die(1)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", launcher.status().port), WAIT_S_MAX)


@posix
def test_the_unix_socket_is_handed_over_too(spawner, tmp_path):
    path = str(tmp_path / "apm.socket")
    launcher = make(spawner, DD_APM_RECEIVER_SOCKET=path)
    launcher.start()
    assert launcher.status().socket_path == path
    tcp, unix = spawner.child.sockets
    assert (tcp.family, unix.family) == (socket.AF_INET, socket.AF_UNIX)
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(path)


@posix
def test_of_localhost_the_side_is_bound_that_can_be_handed_over(spawner):
    launcher = make(spawner, DD_BIND_HOST="localhost")
    launcher.start()
    (handed,) = spawner.child.sockets
    assert handed.getsockname()[0] == "127.0.0.1"


@posix
def test_a_second_start_does_nothing(spawner, said):
    launcher = make(spawner)
    launcher.start()
    port = launcher.status().port
    launcher.start()
    assert launcher.status().port == port
    assert len(spawner.children) == 1
    assert said()[-1] == ("DEBUG", "the agent runs already (process 4711)")


@posix
def test_many_threads_start_one_agent(spawner):
    launcher = make(spawner)
    gate = threading.Barrier(8)

    def start():
        gate.wait(WAIT_S_MAX)
        launcher.start()
        assert launcher.status().running

    threads = [threading.Thread(target=start) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WAIT_S_MAX)
    assert len(spawner.children) == 1


@posix
def test_after_its_death_the_agent_is_started_again_on_the_same_port(spawner):
    launcher = make(spawner)
    launcher.start()
    port = launcher.status().port
    spawner.child.die(-9)
    dead = launcher.status()
    assert (dead.running, dead.pid) == (False, None)
    assert dead.reason == "the agent ended with status -9"
    launcher.start()
    assert len(spawner.children) == 2
    alive = launcher.status()
    assert (alive.running, alive.port, alive.reason) == (True, port, None)


# What is in the way


@posix
def test_a_taken_port_means_another_agent_and_is_no_error(spawner, said):
    with socket.create_server(("127.0.0.1", 0)) as holder:
        port = holder.getsockname()[1]
        launcher = make(spawner, DD_APM_RECEIVER_PORT=str(port))
        launcher.start()
    assert spawner.children == []
    status = launcher.status()
    assert not status.running
    assert str(port) in status.reason
    assert "runs already" in status.reason
    ((level, message),) = said()
    assert level == "INFO"
    assert str(port) in message


@posix
def test_a_taken_port_is_a_warning_where_a_socket_serves(spawner, said, tmp_path):
    path = str(tmp_path / "apm.socket")
    with socket.create_server(("127.0.0.1", 0)) as holder:
        port = str(holder.getsockname()[1])
        launcher = make(spawner, DD_APM_RECEIVER_PORT=port, DD_APM_RECEIVER_SOCKET=path)
        launcher.start()
    status = launcher.status()
    assert (status.running, status.port, status.socket_path) == (True, None, path)
    assert "DD_APM_NET_RECEIVER_FD" not in spawner.child.environ
    assert said()[0][0] == "WARNING"


@posix
def test_an_address_this_machine_has_not_is_an_error_in_the_log(spawner, said):
    launcher = make(spawner, DD_BIND_HOST="192.0.2.1")
    launcher.start()
    assert spawner.children == []
    ((level, message),) = said()
    assert level == "ERROR"
    assert "192.0.2.1" in message


@posix
@pytest.mark.parametrize("error", [StartError("no Python here"), RuntimeError("a bug of ours")])
def test_a_start_never_raises_and_gives_everything_back(spawner, said, tmp_path, error):
    path = tmp_path / "apm.socket"

    def fail(environ, descriptors):
        fail.descriptors = descriptors
        raise error

    launcher = make(fail, DD_APM_RECEIVER_SOCKET=str(path))
    launcher.start()
    assert str(error) in launcher.status().reason
    assert [level for level, _ in said()] == ["ERROR"]
    for descriptor in fail.descriptors:
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(descriptor)
    assert not path.exists()


def test_a_setting_nothing_can_replace_is_named(spawner, said):
    launcher = make(spawner, DD_SITE="not a site")
    launcher.start()
    assert spawner.children == []
    assert "DD_SITE" in launcher.status().reason
    assert [level for level, _ in said()] == ["ERROR"]


def test_a_flex_consumption_plan_must_say_its_group(spawner, said):
    flex = {
        "FUNCTIONS_EXTENSION_VERSION": "~4",
        "FUNCTIONS_WORKER_RUNTIME": "python",
        "WEBSITE_SITE_NAME": "site",
        "WEBSITE_SKU": "FlexConsumption",
    }
    launcher = make(spawner, windows=True, **flex)
    launcher.start()
    assert spawner.children == []
    assert "DD_AZURE_RESOURCE_GROUP" in launcher.status().reason
    assert [level for level, _ in said()] == ["ERROR"]
    make(spawner, windows=True, **flex, DD_AZURE_RESOURCE_GROUP="group").start()
    assert len(spawner.children) == 1


def test_a_host_nobody_knows_is_served_and_that_is_said(spawner, said):
    make(spawner, windows=True).start()
    assert len(spawner.children) == 1
    assert ("INFO", "no known function host; taken for a machine of your own") in said()


# Stopping


def test_without_an_agent_there_is_nothing_to_stop(spawner):
    launcher = make(spawner)
    assert launcher.stop(1) is True
    assert launcher.status().reason == "start() was not called"


@pytest.mark.parametrize("exit_status", [None, 0])
def test_stop_says_whether_the_agent_ended_in_time(spawner, exit_status):
    launcher = make(spawner, windows=True)
    launcher.start()
    spawner.child.exit_status = exit_status
    assert launcher.stop(0.25) is (exit_status is not None)
    assert (spawner.child.stopped, spawner.child.waited_s) == (True, 0.25)


def test_a_fork_owns_no_agent(spawner):
    launcher = make(spawner, windows=True)
    launcher.start()
    launcher.forked()
    status = launcher.status()
    assert not status.running
    assert str(os.getppid()) in status.reason
    assert launcher.stop(0) is True
    assert spawner.child.waited_s is None


# What the child is told


@posix
def test_the_child_learns_of_its_sockets_and_its_parent(spawner):
    make(spawner, DD_API_KEY="key").start()
    told = spawner.child.environ
    assert told["DD_API_KEY"] == "key"
    assert told["DD_APM_NET_RECEIVER_FD"].isdigit()
    assert "DD_APM_UNIX_RECEIVER_FD" not in told
    assert told["MINI_AGENT_CONTROL_STDIN"] == "true"
    assert told["MINI_AGENT_EXIT_WITH_PARENT"] == "true"
    assert told["MINI_AGENT_PARENT_PID"] == str(os.getpid())
    assert told["DD_SERVERLESS_COMPAT_VERSION"] == __version__


def test_sockets_handed_to_us_are_not_announced_to_the_child():
    ours = {"DD_APM_NET_RECEIVER_FD": "3", "DD_APM_UNIX_RECEIVER_FD": "4", "A": "b"}
    told = child_environ(ours, {"DD_APM_UNIX_RECEIVER_FD": 7}, None)
    assert "DD_APM_NET_RECEIVER_FD" not in told
    assert (told["DD_APM_UNIX_RECEIVER_FD"], told["A"]) == ("7", "b")


def test_a_version_the_user_set_stays():
    told = child_environ({"DD_SERVERLESS_COMPAT_VERSION": "9"}, {}, None)
    assert told["DD_SERVERLESS_COMPAT_VERSION"] == "9"


# Names of pipes


def test_generated_names_are_a_pair_nobody_else_has():
    first, second = choose_pipe_names({}), choose_pipe_names({})
    names = {first.trace, first.dogstatsd, second.trace, second.dogstatsd}
    parts = {name.removeprefix("dd_trace_").removeprefix("dd_dogstatsd_") for name in names}
    assert len(parts) == 4
    assert re.fullmatch("dd_trace_[0-9a-f]{32}", first.trace)
    assert re.fullmatch("dd_dogstatsd_[0-9a-f]{32}", first.dogstatsd)
    assert first.warnings == ()


@pytest.mark.parametrize(
    ("environ", "trace", "dogstatsd"),
    [
        ({"DD_TRACE_WINDOWS_PIPE_NAME": "a", "DD_DOGSTATSD_WINDOWS_PIPE_NAME": "b"}, "a", "b"),
        ({"DD_TRACE_PIPE_NAME": "a", "DD_DOGSTATSD_PIPE_NAME": " b "}, "a", "b"),
        ({"DD_APM_WINDOWS_PIPE_NAME": PREFIX + "a", "DD_DOGSTATSD_PIPE_NAME": "b"}, "a", "b"),
        (
            {
                "DD_TRACE_WINDOWS_PIPE_NAME": PREFIX.replace("pipe", "PIPE") + "Same",
                "DD_TRACE_PIPE_NAME": "same",
                "DD_DOGSTATSD_WINDOWS_PIPE_NAME": "  ",
                "DD_DOGSTATSD_PIPE_NAME": "b",
            },
            "Same",
            "b",
        ),
    ],
)
def test_names_the_user_set_win(environ, trace, dogstatsd):
    names = choose_pipe_names(environ)
    assert (names.trace, names.dogstatsd, names.warnings) == (trace, dogstatsd, ())


def test_of_a_pair_that_differs_the_one_with_windows_wins_and_both_are_named():
    names = choose_pipe_names(
        {
            "DD_TRACE_PIPE_NAME": "b",
            "DD_TRACE_WINDOWS_PIPE_NAME": "a",
            "DD_DOGSTATSD_PIPE_NAME": "d",
            "DD_DOGSTATSD_WINDOWS_PIPE_NAME": "c",
        }
    )
    assert (names.trace, names.dogstatsd) == ("a", "c")
    first, second = names.warnings
    assert "DD_TRACE_WINDOWS_PIPE_NAME=a" in first
    assert "DD_TRACE_PIPE_NAME=b" in first
    assert "DD_DOGSTATSD_PIPE_NAME=d" in second


def test_the_own_process_learns_what_it_was_not_told():
    environ = {"DD_TRACE_PIPE_NAME": "mine", "DD_DOGSTATSD_PIPE_NAME": ""}
    tell_own_process(environ, PipeNames("a", "b"))
    assert environ == {"DD_TRACE_PIPE_NAME": "mine", "DD_DOGSTATSD_PIPE_NAME": "b"}


def test_on_windows_parent_and_child_agree_on_one_pair(spawner):
    environ = {"DD_APM_RECEIVER_PORT": "0"}
    launcher = Launcher(environ, spawner, windows=True)
    launcher.start()
    status, told = launcher.status(), spawner.child.environ
    assert environ == {
        "DD_APM_RECEIVER_PORT": "0",
        "DD_TRACE_PIPE_NAME": status.trace_pipe,
        "DD_DOGSTATSD_PIPE_NAME": status.dogstatsd_pipe,
    }
    assert told["DD_APM_WINDOWS_PIPE_NAME"] == status.trace_pipe
    assert told["DD_DOGSTATSD_WINDOWS_PIPE_NAME"] == status.dogstatsd_pipe
    spawner.child.die(1)
    launcher.start()
    assert launcher.status().trace_pipe == status.trace_pipe


def test_on_windows_the_port_is_bound_here_and_comes_by_standard_input(spawner):
    launcher = make(spawner, windows=True)
    launcher.start()
    port = launcher.status().port
    socket.create_connection(("127.0.0.1", port)).close()
    (given,) = spawner.child.sockets
    assert given.getsockname() == ("127.0.0.1", port)
    assert spawner.child.environ["DD_APM_NET_RECEIVER_FD"] == "0"


def test_on_windows_a_taken_port_leaves_the_pipe(spawner, said):
    with socket.create_server(("127.0.0.1", 0)) as holder:
        port = holder.getsockname()[1]
        launcher = make(spawner, windows=True, DD_APM_RECEIVER_PORT=str(port))
        launcher.start()
    assert spawner.child.sockets == []
    assert "DD_APM_NET_RECEIVER_FD" not in spawner.child.environ
    assert launcher.status().running
    assert any(level == "WARNING" and str(port) in text for level, text in said())


@posix
def test_elsewhere_no_pipes_are_named(spawner):
    launcher = make(spawner)
    launcher.start()
    assert launcher.status().trace_pipe is None
    assert not [name for name in spawner.child.environ if "PIPE" in name]
