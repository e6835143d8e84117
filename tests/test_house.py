"""The rules of the house that a test can hold: who may import whom, and what stands where.

The ladder is drawn in ARCHITECTURE.md. Each check is a function over a parsed module, so that a
planted offence can show that it is caught.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "src" / "mini_agent"
MODULES = sorted(
    str(path.relative_to(PACKAGE).with_suffix("")).replace("\\", "/")
    for path in PACKAGE.rglob("*.py")
)

# Anyone may import these; they import nothing of ours but each other.
OPEN_TO_ALL = {"errors", "ledger", "__init__"}

# Room -> what it may import besides itself and the modules above.
LADDER = {
    "wire": set(),
    "flow": set(),
    "listen": {"wire", "flow"},
    "forward": {"wire", "flow"},
    "traces": {"wire", "flow", "forward/payload"},
    "viewer": {"wire", "flow", "listen/http", "traces/fields"},
    # Not rooms: single modules at the top.
    "early": set(),
    "config": {"values", "early"},
    "config_page": {"config", "values"},
    "values": set(),
    "identity": {"metadata"},
    "metadata": set(),
    "narration": set(),
    "entity": set(),
    "places": {"config", "identity"},
    "spawn": set(),
    # The application's door, which opens the launcher when it is used.
    "__init__": {"launcher", "twins"},
    "twins": {"traces/_express"},
}
# These see everything.
WIRING = {
    "agent",
    "cli",
    "__main__",
    "compat",
    "launcher",
    "entrances",
    "endings",
    "assembly",
    "doors",
}

# Rooms of meaning and of bytes: no sockets, no tasks, no clock of their own, no environment.
PURE = {"wire", "traces"}
IMPURE_MODULES = {"asyncio", "socket", "_socket", "os", "time", "threading", "subprocess", "signal"}

# Where tasks may be started.
TASK_PLACES = {
    "flow",
    "listen",
    "agent",
    # Looking a name up has no time limit; a thread that is left behind gives it one.
    "metadata",
    # What it waits for may never come.
    "endings",
}

# Where the platform may be asked about.
PLATFORM_PLACES = {
    "agent",
    "compat",
    "launcher",
    "doors",
    "endings",
    "listen/pipe",
    "listen/bind_pipe",
    "listen/share",
    "spawn",
    "forward/folder",
    # What the host calls itself, and where its users' files lie, are facts about the platform.
    "identity",
    "places",
}

# A broad handler stands at the edge of a request, a datagram, a delivery attempt and in the
# supervisor; the worker only hands an error on to whoever awaits it. The launcher works inside
# somebody's application, which must not fall over whatever is wrong with us.
BROAD_PLACES = {
    "listen/http",
    "listen/datagram",
    "forward/forwarder",
    "flow/supervise",
    "launcher",
}
BROAD_HANDED_ON = {"flow/worker"}


def room_of(module: str) -> str:
    return module.split("/")[0]


def imports_of(tree: ast.Module) -> Iterator[str]:
    """Modules a module imports, as written; those of ours without the package's name."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute here"
            name = node.module or ""
            if name == "mini_agent" or name.startswith("mini_agent."):
                for alias in node.names:
                    full = f"{name}.{alias.name}".split(".", 1)[1].replace(".", "/")
                    yield "mini_agent:" + (full if full in MODULES else own(name))
            else:
                yield name


def own(name: str) -> str:
    return name.partition(".")[2].replace(".", "/") or "__init__"


def check_ladder(module: str, tree: ast.Module) -> list[str]:
    room = room_of(module)
    if room in WIRING:
        return []
    allowed = LADDER.get(room, set()) | OPEN_TO_ALL
    offences = []
    for name in imports_of(tree):
        if not name.startswith("mini_agent:"):
            continue
        target = name.partition(":")[2]
        if target in allowed or room_of(target) in allowed:
            continue
        if room_of(target) == room and room not in OPEN_TO_ALL:
            continue
        offences.append(f"{module} imports {target}")
    return offences


def check_purity(module: str, tree: ast.Module) -> list[str]:
    if room_of(module) not in PURE:
        return []
    return [f"{module} imports {name}" for name in imports_of(tree) if name in IMPURE_MODULES]


def check_tasks(module: str, tree: ast.Module) -> list[str]:
    if room_of(module) in TASK_PLACES or module == "forward/forwarder":
        return []
    return [
        f"{module}:{node.lineno} starts work of its own"
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and node.attr in {"create_task", "ensure_future", "Thread", "run_in_executor"}
    ]


def check_platform(module: str, tree: ast.Module) -> list[str]:
    if module in PLATFORM_PLACES:
        return []
    return [
        f"{module}:{node.lineno} asks for the platform"
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and (node.value.id, node.attr) in {("sys", "platform"), ("os", "name")}
    ]


def check_broad_handlers(module: str, tree: ast.Module) -> list[str]:
    offences = []
    for node in ast.walk(tree):
        if not isinstance(node, ast.ExceptHandler):
            continue
        caught = "" if node.type is None else ast.unparse(node.type)
        if caught not in {"", "Exception", "BaseException"}:
            continue
        raises_on = isinstance(node.body[-1], ast.Raise) and node.body[-1].exc is None
        if module not in BROAD_PLACES | BROAD_HANDED_ON and not raises_on:
            offences.append(f"{module}:{node.lineno} catches everything")
    return offences


def check_settings(module: str, tree: ast.Module) -> list[str]:
    """Only the wiring reads settings; rooms take values."""
    if room_of(module) in WIRING or module in {"config_page", "places"}:
        return []
    return [
        f"{module} reads settings"
        for name in imports_of(tree)
        if name in {"mini_agent:config", "mini_agent:values"} and module != "config"
    ]


CHECKS: list[Callable[[str, ast.Module], list[str]]] = [
    check_ladder,
    check_purity,
    check_tasks,
    check_platform,
    check_broad_handlers,
    check_settings,
]


def parse(module: str) -> ast.Module:
    return ast.parse((PACKAGE / f"{module}.py").read_text(encoding="utf-8"))


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_the_house_keeps_its_rules(check: Callable[[str, ast.Module], list[str]]) -> None:
    assert [offence for module in MODULES for offence in check(module, parse(module))] == []


@pytest.mark.parametrize(
    ("check", "module", "offence"),
    [
        (check_ladder, "wire/msgpack", "from mini_agent.forward import journal"),
        (check_ladder, "traces/decode", "from mini_agent.forward.journal import Journal"),
        (check_ladder, "traces/decode", "import json\nfrom mini_agent.viewer import store"),
        (check_ladder, "flow/clock", "from mini_agent.wire import msgpack"),
        (check_ladder, "errors", "from mini_agent.flow import clock"),
        (check_ladder, "listen/http", "from mini_agent.traces.receiver import TraceReceiver"),
        (check_purity, "wire/msgpack", "import asyncio"),
        (check_purity, "traces/enrich", "def f():\n    import os"),
        (check_tasks, "viewer/store", "import asyncio\nasyncio.create_task(x)"),
        (check_platform, "forward/journal", "import sys\nif sys.platform == 'win32': pass"),
        (check_broad_handlers, "traces/decode", "try: x\nexcept Exception: pass"),
        (check_broad_handlers, "traces/decode", "try: x\nexcept: pass"),
        (check_settings, "listen/http", "from mini_agent.config import Config"),
    ],
)
def test_an_offence_is_caught(
    check: Callable[[str, ast.Module], list[str]], module: str, offence: str
) -> None:
    assert check(module, ast.parse(offence))


def test_every_module_is_reached_from_the_command_line() -> None:
    reached: set[str] = set()
    waiting = ["cli", "__main__", "__init__", "compat"]
    while waiting:
        module = waiting.pop()
        if module in reached or module not in MODULES:
            continue
        reached.add(module)
        package = f"{module.rpartition('/')[0]}/__init__" if "/" in module else "__init__"
        waiting.append(package)
        waiting += [
            name.partition(":")[2]
            for name in imports_of(parse(module))
            if name.startswith("mini_agent:")
        ]
    assert sorted(set(MODULES) - reached) == []


def test_every_unit_test_stands_where_its_module_does() -> None:
    """A test of a module has the module's path; tests of single names may be called otherwise."""
    strays = []
    for path in (ROOT / "tests" / "unit").rglob("test_*.py"):
        relative = path.relative_to(ROOT / "tests" / "unit")
        if relative.parts[0] == "kit":
            continue
        module = str(relative.with_name(relative.name.removeprefix("test_")).with_suffix(""))
        if module.replace("\\", "/") not in MODULES:
            strays.append(str(relative))
    assert strays == []


def test_modules_are_of_a_size_to_be_read() -> None:
    long = {
        module: len((PACKAGE / f"{module}.py").read_text(encoding="utf-8").splitlines())
        for module in MODULES
    }
    assert {module: lines for module, lines in long.items() if lines > 700} == {}


def test_nothing_sleeps_in_tests() -> None:
    sleep = re.compile(r"\btime\.sleep\(|\basyncio\.sleep\((?!0\))")
    sleepers = [
        f"{path.relative_to(ROOT)}:{number}"
        for path in (ROOT / "tests").rglob("*.py")
        if path != Path(__file__) and "programs" not in path.parts
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if sleep.search(line)
    ]
    assert sleepers == []


def test_dependencies_have_a_decision_record() -> None:
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    record = (ROOT / "docs" / "decisions" / "0002-dependencies.md").read_text(encoding="utf-8")
    names = [re.split(r"[<>=;! \[]", each)[0] for each in project["dependencies"]]
    assert [name for name in names if name not in record] == []


def test_a_start_loads_nothing_heavy_before_the_port_is_bound() -> None:
    """The modules loaded before `bind_tcp` import nothing but light ones."""
    light = {"sys", "os", "stat", "_socket", "_winapi", "errno"}
    early = ["__main__", "__init__", "cli", "early", "errors"]
    early += ["config", "values", "identity", "doors"]
    early += ["listen/bind", "listen/bind_pipe"]
    heavy = []
    for module in early:
        tree = parse(module)
        for node in tree.body:
            if isinstance(node, ast.Import):
                heavy += [f"{module}: {a.name}" for a in node.names if a.name not in light]
            elif isinstance(node, ast.ImportFrom) and node.module not in {"__future__", None}:
                name = node.module or ""
                if not name.startswith("mini_agent") and name not in light:
                    heavy.append(f"{module}: {name}")
    assert heavy == []
    assert sys.version_info >= (3, 11)
