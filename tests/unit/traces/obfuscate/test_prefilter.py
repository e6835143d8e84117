from __future__ import annotations

import pytest

from mini_agent.traces.obfuscate.pattern import Program
from mini_agent.traces.obfuscate.prefilter import find_beginnings, find_needed


@pytest.mark.parametrize(
    ("pattern", "needed"),
    [
        ("abc", "a"),
        (r"\w+@\w+\.\w+", "."),
        ("a=|b=", "="),
        ("a|b", ""),
        ("(?:a=)?b", "b"),
        ("(?i)token=", "="),
        ("(?i)token", ""),
        ("[=]", ""),
        ("", ""),
        ("(?:-a)*-", "-"),
        ("abcdefghi!", "!"),
    ],
)
def test_what_every_match_has_is_known(pattern, needed):
    assert find_needed(Program(pattern)) == needed


@pytest.mark.parametrize(
    ("pattern", "begin", "elsewhere"),
    [
        ("token=", "xtoken=", "to ken"),
        ("(?i)token|password", "xPASsword", "top pat"),
        (r"\d{4}", "a1234", "12 34"),
        ("ab?", "ca", "b"),
        (r"\bab*c", "-abb", "ba"),
        ("[ab]*c", "xc", "xyz"),
        ("|".join(letter * 5 for letter in "abcdefgh"), "zbbb", "zbbab"),
        ("|".join(f"{first}{second}" for first in "abc" for second in "123456"), "xb", "456"),
    ],
)
def test_where_a_match_could_begin_is_found(pattern, begin, elsewhere):
    beginnings = find_beginnings(Program(pattern))
    assert beginnings is not None
    found = beginnings.search(begin)
    assert found is not None
    assert found.start() == 1
    assert beginnings.search(elsewhere) is None


@pytest.mark.parametrize("pattern", ["", "a*", "a|", "^", r"(\b)?", "|".join("abcdefghijklmnopq")])
def test_what_may_be_empty_or_begins_in_many_ways_is_not_looked_for(pattern):
    assert find_beginnings(Program(pattern)) is None
