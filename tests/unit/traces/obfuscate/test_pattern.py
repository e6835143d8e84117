from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mini_agent.traces.obfuscate.automaton import Automaton
from mini_agent.traces.obfuscate.pattern import DEPTH_MAX, GROUPS_MAX, PROGRAM_SIZE_MAX, Program


def found(pattern: str, text: str) -> list[str]:
    matches = Automaton(pattern).find_all(text)
    assert matches is not None
    return [text[slots[0] : slots[1]] for slots in matches]


@pytest.mark.parametrize(
    ("pattern", "text", "expected"),
    [
        ("abc", "xabcabc", ["abc", "abc"]),
        (r"a\.b\d+", "a.b12 axb1", ["a.b12"]),
        (r"\$5", "$5", ["$5"]),
        ("[$]", "a$", ["$"]),
        ("end$", "end\n", []),
        (r"end\z", "end", ["end"]),
        ("(?m)end$", "end\nend", ["end", "end"]),
        ("(?m)^a", "a\na", ["a", "a"]),
        (r"\Aa", "a\na", ["a"]),
        (r"\bcat\b", "cat concat cat_", ["cat"]),
        (r"\Bcat", "cat concat", ["cat"]),
        ("[[:digit:]_]+", "a1_2", ["1_2"]),
        ("[^[:space:]]+", "a b", ["a", "b"]),
        ("[]a]+", "b]a", ["]a"]),
        ("[^]a]", "]ab", ["b"]),
        (r"[\]\d-]+", "]1-", ["]1-"]),
        ("[a-c-]+", "abc-d", ["abc-"]),
        ("[a^b]+", "^a", ["^a"]),
        (".", "\n\u00e9", ["\u00e9"]),
        ("(?s).", "\n", ["\n"]),
        ("(?i)K", "k\u212aK", ["k", "\u212a", "K"]),
        ("(?i:a)b", "AbAB", ["Ab"]),
        ("a(?i)b|c", "aBC", ["aB", "C"]),
        ("(?i)a(?-i)b", "AbAB", ["Ab"]),
        ("(?x) a b # both\n c", "abc", ["abc"]),
        (r"\x41\x{1F989}\u00e9", "A\U0001f989\xe9", ["A\U0001f989\xe9"]),
        (r"\U0001F989+", "\U0001f989\U0001f989", ["\U0001f989\U0001f989"]),
        (r"[\x41-\x43\t]+", "AB\tD", ["AB\t"]),
        ("a{2}", "aaaaa", ["aa", "aa"]),
        ("a{2,}", "aaaaa", ["aaaaa"]),
        ("a{2,3}", "aaaaa", ["aaa", "aa"]),
        ("a{2,3}?", "aaaaa", ["aa", "aa"]),
        ("a{,3}", "a{,3}", ["a{,3}"]),
        ("a{x}", "a{x}", ["a{x}"]),
        ("(?U)a+", "aa", ["a", "a"]),
        ("(?U)a+?", "aa", ["aa"]),
        ("<.*?>", "<a><b>", ["<a>", "<b>"]),
        ("sam|samwise", "samwise", ["sam"]),
        ("(?:a|ab)(?:c|bcd)", "abcd", ["abcd"]),
        (r"\w+", "stra\u00dfe 5\u0665", ["stra\u00dfe", "5\u0665"]),
        ("", "ab", ["", "", ""]),
        ("a**", "aa", ["aa"]),
        (r"\]\}\/\-", "]}/-", ["]}/-"]),
        ("}]", "}]", ["}]"]),
    ],
)  # fmt: skip
def test_a_pattern_finds_what_it_says(pattern, text, expected):
    assert found(pattern, text) == expected


def test_groups_have_numbers_and_names():
    program = Program("(?<user>a)(?:b)(?P<host>c)(d)")
    assert program.groups == {"user": 1, "host": 2}
    assert program.slots == 8


@pytest.mark.parametrize(
    "pattern",
    [
        *(r"\pL", r"\P{Greek}", "[a", "[[a]]", "[a&&b]", "[a--b]", "[[:nothing:]]", "[[:alpha"),
        *("(a", "a)", "*a", "a|*", "(?=a)", "(?!a)", "(?<=a)b", "(?<!a)b", r"(a)\1", r"\Z", r"\y"),
        *("a\\", "(?", "(?q)", "(?-u)a", "(?<a>b)(?<a>c)", "(?<1>b)", "(?P<a", r"\x{110000}"),
        *(r"\x4", r"\xzz", "[z-a]", "a{3,2}", "(?P=a)", "[", "[^"),
    ],
)
def test_what_cannot_be_run_is_refused(pattern):
    with pytest.raises(ValueError, match=r"it |bracket|class|a |there |more "):
        Program(pattern)


@pytest.mark.parametrize(
    "pattern",
    [
        "a" * PROGRAM_SIZE_MAX,
        "(?:a{100}){100}",
        "a{1000000000000}",
        "((a*)*){99,}{99}",
        # Written out there is nothing of it.
        "(?:(?:(?:){1000}){1000}){1000}",
    ],
)
def test_a_pattern_that_is_too_large_is_refused(pattern):
    with pytest.raises(ValueError, match="too large"):
        Program(pattern)


def test_a_pattern_is_only_so_deep():
    deep = DEPTH_MAX - 1
    deepest = "(" * deep + "a" + ")**{1}" * deep
    assert found(deepest, "a") == ["a"]
    with pytest.raises(ValueError, match="in each other"):
        Program("(" * 5000 + ")" * 5000)
    with pytest.raises(ValueError, match="behind each other"):
        Program("a" + "{1}" * 5000)
    assert Program("()" * GROUPS_MAX).slots == 2 * GROUPS_MAX + 2
    with pytest.raises(ValueError, match="to be noted"):
        Program("()" * (GROUPS_MAX + 1))


@given(st.text("ab()[]{}\\^$*+?|<P>=!:,09mpzxisU-&~#. \n", max_size=30))
def test_any_text_is_a_pattern_or_refused(text):
    with contextlib.suppress(ValueError):
        Program(text)
