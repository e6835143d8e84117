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


def test_what_stood_in_quotes_leaves_its_blanks_to_be_taken_back():
    scan = Scan("", "")
    scan.emit_quoted("a b  ")
    assert scan.out == ["a b", " ", " "]
    scan.cut(2)
    scan.emit_quoted("")
    scan.emit_quoted("  ")
    assert scan.out == ["a b", " ", " ", " "]
    assert scan.written() == "a b"


@pytest.mark.parametrize(
    ("text", "run"),
    [
        ("a b", "a b"),
        ("a, b.c,d", "a, b.c"),
        ("a  b", "a"),
        ("a b = c", "a b"),
        ("SELECT id, name FROM t AS u", "SELECT id, name FROM t"),
        ("as", ""),
        ("a, True", "a"),
        ("a nulls null", "a nulls"),
        ("a SAVEPOINT b", "a"),
        ("a x'00'", "a"),
        ("a 1", "a"),
        ("a\u00e9 b", ""),
        ("a b\u2003c", "a"),
        ("a$#*@._1 _b", "a$#*@._1 _b"),
        ("a. b", "a. b"),
        ("a \0", "a"),
    ],
)
def test_names_that_come_out_as_they_stand_are_found_in_one_go(text, run):
    assert text[: Scan(text, "").ordinary_end(0)] == run


def test_a_run_of_names_may_be_of_any_length():
    text = "a " * 1000
    scan = Scan(text, "")
    end = 0
    while end < len(text):
        assert scan.ordinary_end(end) > end
        end = scan.ordinary_end(end) + 1
    assert end == len(text)


def test_placeholders_that_follow_each_other_are_one():
    scan = Scan("", "")
    scan.placeholder()
    scan.placeholder()
    scan.emit("a")
    scan.placeholder()
    assert scan.written() == "? a ?"


def test_long_blanks_are_known_after_a_cut():
    scan = Scan("", "")
    scan.emit_quoted("?" + " " * 50)
    scan.placeholder()
    scan.grouped = True
    scan.cut(40)
    scan.space()
    assert scan.grouped, "the placeholder in front of the blanks was not seen"
    scan.cut(1)
    scan.out.extend("a" + " " * 20)
    scan.space()
    assert not scan.grouped
