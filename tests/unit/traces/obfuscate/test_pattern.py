from __future__ import annotations

import contextlib
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mini_agent.traces.obfuscate.pattern import Translation


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("abc", "abc"),
        (r"a\.b\d+", r"a\.b\d+"),
        (r"end$", r"end\Z"),
        (r"end\z", r"end\Z"),
        (r"(?m)end$", r"(?m)end$"),
        (r"(?im-s:x)$", r"(?im-s:x)$"),
        (r"\$5", r"\$5"),
        ("[$]", "[$]"),
        ("(?<user>a)", "(?P<user>a)"),
        ("(?P<user>a)", "(?P<user>a)"),
        ("(?<=a)b(?<!c)", "(?<=a)b(?<!c)"),
        ("[[:digit:]_]+", "[0-9_]+"),
        ("[^[:space:]]", r"[^\t\n\v\f\r ]"),
        ("[]a]", "[]a]"),
        ("[^]a]", "[^]a]"),
        (r"[\]]", r"[\]]"),
    ],
)
def test_a_pattern_is_written_as_python_reads_it(pattern, expected):
    assert Translation(pattern).text == expected
    re.compile(expected)


@pytest.mark.parametrize(
    "pattern",
    [r"\pL", r"\P{Greek}", "[a", "[[a]]", "[a&&b]", "[a--b]", "[[:nothing:]]", "[[:alpha"],
)
def test_what_python_cannot_say_is_refused(pattern):
    with pytest.raises(ValueError, match=r"it|bracket|class"):
        Translation(pattern)


@pytest.mark.parametrize(
    ("pattern", "repeats"),
    [
        ("a+b*", False),
        ("(ab)+", False),
        ("(a+)b", False),
        ("(a+)+", True),
        ("(?:a*b)*", True),
        ("((a+)b){2,}", True),
        ("(a+){2,5}", False),
        ("(a{2,5})+", False),
        (r"(\+)+", False),
        ("([+])+", False),
        ("(a+", False),
        ("a)+", False),
    ],
)
def test_a_repetition_that_repeats_is_seen(pattern, repeats):
    assert Translation(pattern).repeats_repetition == repeats


@given(st.text("ab()[]{}\\^$*+?|<P>=!:,09mpz-&~", max_size=30))
def test_any_text_is_a_pattern_or_refused(text):
    with contextlib.suppress(ValueError):
        Translation(text)
