from __future__ import annotations

import io
import logging

import pytest

from mini_agent import narration


@pytest.fixture
def out():
    """What is said; everything is as before afterwards."""
    root, ours = logging.getLogger(), logging.getLogger("mini_agent")
    before = list(root.handlers), root.level, ours.level
    stream = io.StringIO()
    yield stream
    root.handlers[:] = before[0]
    root.setLevel(before[1])
    ours.setLevel(before[2])


def test_a_record_is_one_line_with_level_part_and_message(out):
    narration.set_up("trace", out)
    log = logging.getLogger("mini_agent.listen.http")
    log.info("took %d", 3)
    log.warning("full")
    log.critical("out")
    log.log(5, "byte")
    assert out.getvalue().splitlines() == [
        " INFO mini_agent.listen.http: took 3",
        " WARN mini_agent.listen.http: full",
        " CRIT mini_agent.listen.http: out",
        "TRACE mini_agent.listen.http: byte",
    ]


def test_nothing_can_start_a_line_of_its_own(out):
    narration.set_up("info", out)
    logging.getLogger("mini_agent.x").error("bad\r\n INFO forged: line")
    try:
        raise ValueError("broken")
    except ValueError:
        logging.getLogger("mini_agent.x").exception("failed")
    first, second = out.getvalue().splitlines()
    assert first == r"ERROR mini_agent.x: bad\r\n INFO forged: line"
    assert second.startswith(r"ERROR mini_agent.x: failed\nTraceback")
    assert second.endswith("ValueError: broken")


@pytest.mark.parametrize(
    ("level", "said"),
    [
        ("off", []),
        ("critical", ["CRIT"]),
        ("error", ["ERROR", "CRIT"]),
        ("warn", ["WARN", "ERROR", "CRIT"]),
        ("info", ["INFO", "WARN", "ERROR", "CRIT"]),
        ("debug", ["DEBUG", "INFO", "WARN", "ERROR", "CRIT"]),
    ],
)
def test_only_records_of_the_level_and_above_are_printed(out, level, said):
    narration.set_up(level, out)
    log = logging.getLogger("mini_agent.x")
    for number in (5, 10, 20, 30, 40, 50):
        log.log(number, "line")
    assert [line.split()[0] for line in out.getvalue().splitlines()] == said


def test_libraries_are_heard_from_warnings_upward(out):
    narration.set_up("debug", out)
    logging.getLogger("library.connection").debug("sent with a key")
    logging.getLogger("library.connection").warning("odd")
    assert out.getvalue() == " WARN library.connection: odd\n"


def test_setting_up_again_does_not_print_twice(out):
    narration.set_up("info", io.StringIO())
    narration.set_up("info", out)
    logging.getLogger("mini_agent.x").info("once")
    assert out.getvalue() == " INFO mini_agent.x: once\n"
