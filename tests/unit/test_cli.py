from __future__ import annotations

import gc
import os
import subprocess
import sys
import tomllib
import types
from pathlib import Path

import pytest
from kit.agent import make_environment

import mini_agent
from mini_agent import cli, config_page, twins
from mini_agent.errors import ConfigError, StartError
from mini_agent.listen.bind import bind_tcp

PROJECT = Path(__file__).parents[2]

# What a start must not wait for. `socket` brings selectors, enum and re; `asyncio` everything.
HEAVY = {
    "argparse",
    "asyncio",
    "dataclasses",
    "enum",
    "http",
    "json",
    "logging",
    "re",
    "selectors",
    "socket",
    "ssl",
    "threading",
    "typing",
    "urllib",
}


@pytest.fixture
def agent(monkeypatch):
    """Stands in for the wiring; keeps what it was started with."""
    started = types.ModuleType("mini_agent.agent")
    started.calls = []

    def run(config, host, doors):
        doors.close()
        started.calls.append((config, host, doors))
        return 3

    started.run = run
    monkeypatch.setitem(sys.modules, "mini_agent.agent", started)
    monkeypatch.setattr(mini_agent, "agent", started, raising=False)
    monkeypatch.setenv("DD_APM_RECEIVER_PORT", "0")
    return started


def run_command(*arguments: str, folder: Path, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "mini_agent", *arguments],
        env=make_environment(environment, folder),
        capture_output=True,
        text=True,
        check=False,
    )


def test_run_binds_and_hands_everything_to_the_agent(agent):
    assert cli.main(["run"]) == 3
    ((config, host, doors),) = agent.calls
    (bound,) = doors.sockets
    assert doors.troubles == {}
    assert config.receiver_port == 0
    assert host.environment == "local"
    assert (bound.host, bound.port > 0) == ("127.0.0.1", True)


def test_run_listens_before_anything_heavy_is_loaded():
    code = f"""
import sys, types
bare = set(sys.modules)
sys.path.insert(0, {str(PROJECT / "src")!r})
import mini_agent
agent = mini_agent.agent = types.SimpleNamespace()
def run(config, host, doors):
    print(*sorted(set(sys.modules) - bare))
    return 0
agent.run = run
sys.modules["mini_agent.agent"] = agent
from mini_agent.cli import main
sys.exit(main(["run"]))
"""
    done = subprocess.run(
        # Without the site module: what it loads is not ours to promise.
        [sys.executable, "-I", "-S", "-c", code],
        env={**os.environ, "DD_APM_RECEIVER_PORT": "0"},
        capture_output=True,
        text=True,
        check=True,
    )
    loaded = done.stdout.split()
    assert "mini_agent.listen.bind" in loaded
    assert not {name.partition(".")[0] for name in loaded} & HEAVY


def test_options_of_run_go_before_the_environment(agent, monkeypatch):
    monkeypatch.setenv("DD_LOG_LEVEL", "error")
    monkeypatch.setenv("DD_APM_RECEIVER_PORT", "1")
    assert cli.main(["run", "--port", "0", "--log-level", "debug"]) == 3
    ((config, *_),) = agent.calls
    assert (config.receiver_port, config.log_level) == (0, "debug")


@pytest.mark.parametrize(
    ("error", "status"),
    [(ConfigError("DD_X is odd"), 2), (StartError("no folder"), 1)],
)
def test_an_error_is_one_line_and_a_status(agent, monkeypatch, capsys, error, status):
    def run(config, host, doors):
        raise error

    monkeypatch.setattr(agent, "run", run)
    assert cli.main(["run"]) == status
    assert capsys.readouterr().err == f"mini-agent: {error}\n"


def test_a_wrong_setting_stops_the_start_and_names_the_variable(agent, monkeypatch, capsys):
    monkeypatch.setenv("DD_SITE", "https://datadoghq.eu")
    assert cli.main(["run"]) == 2
    assert capsys.readouterr().err.startswith("mini-agent: DD_SITE=")
    assert agent.calls == []


def test_a_taken_port_stops_the_start(agent, monkeypatch, capsys):
    held = bind_tcp("127.0.0.1", 0)
    monkeypatch.setenv("DD_APM_RECEIVER_PORT", str(held.port))
    try:
        assert cli.main(["run"]) == 1
    finally:
        held.close()
    assert str(held.port) in capsys.readouterr().err
    assert agent.calls == []


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["fly"],
        ["run", "fast"],
        ["run", "--port", "70000"],
        ["run", "--log-level", "loud"],
        ["traces", "--limit", "0"],
    ],
)
def test_a_wrong_command_line_is_status_2(arguments, capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(arguments)
    assert ended.value.code == 2
    assert "usage: mini-agent" in capsys.readouterr().err


def test_help_says_what_there_is(capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(["--help"])
    assert ended.value.code == 0
    said = capsys.readouterr().out
    for word in ("run", "config", "traces", "DD_API_KEY", "exit status"):
        assert word in said
    assert max(map(len, said.splitlines())) <= 100


def test_the_version_is_the_distribution_s_and_says_which_twin_runs(capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(["--version"])
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert ended.value.code == 0
    assert capsys.readouterr().out == f"mini-agent {project['version']} ({twins.running()})\n"


def test_the_plain_twin_is_named_where_it_was_asked_for(tmp_path):
    done = run_command("--version", folder=tmp_path, MINI_AGENT_PLAIN="1")
    assert done.stdout == f"mini-agent {mini_agent.__version__} (plain)\n"
    assert (done.returncode, done.stderr) == (0, "")


def test_a_port_that_was_bound_early_is_given_back_when_a_setting_is_wrong(agent, monkeypatch):
    held = bind_tcp("127.0.0.1", 0)
    port = held.port
    held.close()
    monkeypatch.setenv("DD_APM_RECEIVER_PORT", str(port))
    monkeypatch.setenv("DD_SITE", "https://datadoghq.eu")
    assert cli.main(["run"]) == 2
    bind_tcp("127.0.0.1", port).close()


def test_collecting_garbage_is_on_again_when_the_agent_runs(agent, monkeypatch):
    collects = []
    monkeypatch.setattr(agent, "run", lambda *_: collects.append(gc.isenabled()) or 0)
    assert cli.main(["run"]) == 0
    monkeypatch.setenv("DD_SITE", "https://datadoghq.eu")
    assert cli.main(["run"]) == 2
    assert [*collects, gc.isenabled()] == [True, True]


def test_config_prints_the_settings_of_this_environment(tmp_path):
    done = run_command("config", folder=tmp_path, DD_SITE="datadoghq.eu", DD_API_KEY="k" * 32)
    assert (done.returncode, done.stderr) == (0, "")
    assert "datadoghq.eu" in done.stdout
    assert "k" * 10 not in done.stdout


def test_config_prints_the_documentation(capsys):
    assert cli.main(["config", "--markdown"]) == 0
    assert capsys.readouterr().out == config_page.markdown()


def test_config_refuses_as_run_does(tmp_path):
    done = run_command("config", folder=tmp_path, DD_APM_DD_URL="nowhere")
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("mini-agent: DD_APM_DD_URL=")


def test_a_reader_that_has_enough_is_no_error(tmp_path):
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "wb") as closed:
        done = subprocess.run(
            [sys.executable, "-m", "mini_agent", "config"],
            env=make_environment({}, tmp_path),
            stdout=closed,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.fixture
def show(monkeypatch):
    """Stands in for the printing of traces; keeps what it was asked."""
    asked = []
    module = types.ModuleType("mini_agent.viewer.show")
    module.list_traces = lambda path, limit, service, out: asked.append((path, limit, service)) or 0
    module.print_trace = lambda path, trace_id, out: asked.append((path, trace_id)) or 1
    monkeypatch.setitem(sys.modules, "mini_agent.viewer.show", module)
    return asked


def test_traces_lists_the_store_and_prints_one(show, monkeypatch):
    monkeypatch.setenv("MINI_AGENT_STORE_PATH", "said.sqlite")
    assert cli.main(["traces"]) == 0
    assert cli.main(["traces", "--limit", "5", "--service", "web", "--store", "x.sqlite"]) == 0
    assert cli.main(["traces", "12ab"]) == 1
    assert show == [
        ("said.sqlite", 20, None),
        ("x.sqlite", 5, "web"),
        ("said.sqlite", "12ab"),
    ]
