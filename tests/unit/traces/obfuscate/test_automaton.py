from __future__ import annotations

import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mini_agent.traces.obfuscate import automaton
from mini_agent.traces.obfuscate.automaton import Automaton

# Far beyond what any of the texts below takes; a pattern that runs away takes for ever.
CPU_S_MAX = 10.0

HOSTILE = {
    "nested repetition": ("(a+)+$", "a" * 25_000 + "b"),
    "short nested repetition": ("(a+)+$", "a" * 5000 + "b"),
    "alternatives": ("(a|aa)+$", "a" * 25_000 + "b"),
    "same alternatives": ("(a|a)*$", "a" * 25_000 + "b"),
    "optional ones": ("(a?){500}a{500}", "a" * 25_000),
    "blanks before the end": (r"\s+$", " " * 25_000 + "x"),
    "several anythings": ("(.*)(.*)(.*)(.*)x", "a" * 25_000),
    "many sets": ("[ab]*a[ab]{200}c", "abaab" * 5000),
    "looks far for every match": ("a.*z|a", "a" * 25_000),
    "matches everywhere": ("", "a" * 25_000),
    "empty in a repetition": ("(a*)*b", "a" * 25_000),
    "every character another": (r"(\w|x)+!", "".join(map(chr, range(0x4E00, 0x4E00 + 20_000)))),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_no_pattern_takes_long_on_any_text(name):
    pattern, text = HOSTILE[name]
    started_s = time.process_time()
    pattern = Automaton(pattern)
    pattern.find_all(text)
    pattern.matches(text)
    assert time.process_time() - started_s < CPU_S_MAX


def test_a_text_that_takes_too_much_work_has_no_answer(monkeypatch):
    monkeypatch.setattr(automaton, "STEPS_MAX", 2000)
    pattern = Automaton("a.*z|a")
    assert pattern.find_all("a" * 1000) is None
    assert pattern.find_all("a") == [(0, 1)]
    assert pattern.matches("a" * 1000)
    many = Automaton("[ab]*a[ab]{200}c")
    assert not many.matches("abaab" * 100 + "c" * 10)


def test_what_is_remembered_is_bounded(monkeypatch):
    monkeypatch.setattr(automaton, "REMEMBERED_MAX", 5)
    pattern = Automaton("(?:a|b|c)d(e)?")
    for _ in range(3):
        assert pattern.find_all("adbdecd") == [(0, 2, -1, -1), (2, 5, 4, 5), (5, 7, -1, -1)]


@pytest.mark.parametrize(
    ("pattern", "text", "expected"),
    [
        ("(a)|b", "ab", [(0, 1, 0, 1), (1, 2, -1, -1)]),
        ("(a+)(b+)?", "aab", [(0, 3, 0, 2, 2, 3)]),
        ("(?:(a)|(b))*", "abx", [(0, 2, 0, 1, 1, 2), (3, 3, -1, -1, -1, -1)]),
        ("(a*?)(a*)", "aa", [(0, 2, 0, 0, 0, 2)]),
        ("x*", "axb", [(0, 0), (1, 2), (3, 3)]),
        ("|x", "xx", [(0, 0), (1, 1), (2, 2)]),
        # What may be empty in a repetition: as the reference finds it.
        (r"(?:(?:.\w)*?(?:\wa)?)+", "aAa.a1abAa", [(0, 0), (1, 9), (10, 10)]),
        ("(?:a|)*b", "aab", [(0, 3)]),
    ],
)
def test_a_match_has_a_place_and_so_have_its_groups(pattern, text, expected):
    assert Automaton(pattern).find_all(text) == expected


@pytest.mark.parametrize(
    ("pattern", "text", "expected"),
    [
        ("^GET /health$", "GET /health", True),
        ("b+", "aac", False),
        ("", "", True),
        ("$", "a", True),
    ],
)
def test_a_pattern_matches_anywhere(pattern, text, expected):
    assert Automaton(pattern).matches(text) is expected


# Patterns that both engines know, without repetitions of what may be empty: on those Python tries
# again where Rust, and so we, do not.
ATOMS = st.sampled_from(["a", "b", "ab", ".", "[ab]", "[^a]", r"\w", r"\d", "1", " ", r"\b"])
QUANTIFIERS = st.sampled_from(["", "", "", "+", "+?", "{2}", "{1,2}", "{1,2}?"])
ENDS = st.sampled_from(["", "", "?", "??", "*", "*?"])


def joined(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    repeated = st.builds(lambda part, how: f"(?:{part}){how}", inner, QUANTIFIERS)
    group = st.builds("({})".format, inner)
    choice = st.builds("(?:{}|{})".format, inner, inner)
    return repeated | group | choice | st.builds("{}{}".format, inner, inner)


PATTERNS = st.builds(
    lambda before, part, last, how, after: f"{before}{part}(?:{last}){how}{after}",
    st.sampled_from(["", "", "^"]),
    st.recursive(ATOMS, joined, max_leaves=6),
    ATOMS,
    ENDS,
    st.sampled_from(["", "", "$"]),
)


@given(PATTERNS, st.text("ab1 \n", max_size=12))
def test_matches_are_those_of_another_engine(pattern, text):
    ours = Automaton(pattern).find_all(text)
    assert ours is not None
    # Python's dollar also matches before a last line break.
    theirs = [
        tuple(place for group in range(match.re.groups + 1) for place in match.span(group))
        for match in re.finditer(pattern.replace("$", r"\Z"), text)
    ]
    # Behind an empty match it looks for another one at the same place; tests/differential compares
    # with the engine whose rules are ours.
    if any(slots[0] == slots[1] for slots in theirs):
        ours, theirs = ours[:1], theirs[:1]
    assert ours == theirs
    assert Automaton(pattern).matches(text) == bool(theirs)
