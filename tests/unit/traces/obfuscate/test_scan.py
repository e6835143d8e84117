from __future__ import annotations

import pytest

from mini_agent.traces.obfuscate.scan import Scan


@pytest.mark.parametrize(
    ("text", "end"),
    [
        ("'a'", 3),
        ("'a''b' c", 6),
        ("'a'b'", 3),
        (r"'a\' c", 4),
        (r"'a\'b' c", 6),
        (r"'a\'b", 4),
        ("'a", -1),
        ("'", -1),
        ("''", 2),
        ("'''", -1),
        (r"'a\''b'c'", 5),
    ],
)
def test_a_string_ends_where_the_word_behind_it_lets_it(text, end):
    assert Scan(text, "").string_end(0) == end


@pytest.mark.parametrize(
    ("text", "end"),
    [
        ("$$a$$", 5),
        ("$a$ $b$ $a$ c", 11),
        ("$a b$x$a b$", 11),
        ("$a$", -1),
        ("$$", -1),
        ("$$$", -1),
        ("$$$$", 4),
        ("$a\n$x$a\n$", -1),
        ("$a", -1),
    ],
)
def test_a_dollar_quote_ends_with_its_tag(text, end):
    assert Scan(text, "").dollar_quote_end(0) == end


def test_blanks_divide_but_not_behind_the_dot_of_a_name():
    scan = Scan("", "")
    for token in ("a", ".", "b"):
        scan.emit(token)
    assert scan.written() == "a . b"
    scan = Scan("", "")
    scan.emit("a")
    scan.out.append(".")
    scan.emit("b")
    scan.emit("c")
    assert scan.written() == "a.b c"


def test_placeholders_that_follow_each_other_are_one():
    scan = Scan("", "")
    scan.placeholder()
    scan.placeholder()
    scan.emit("a")
    scan.placeholder()
    assert scan.written() == "? a ?"


def test_long_blanks_are_known_after_a_cut():
    scan = Scan("", "")
    scan.emit("?" + " " * 50)
    scan.placeholder()
    scan.grouped = True
    scan.cut(40)
    scan.space()
    assert scan.grouped, "the placeholder in front of the blanks was not seen"
    scan.cut(1)
    scan.out.extend("a" + " " * 20)
    scan.space()
    assert not scan.grouped
