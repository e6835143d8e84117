from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mini_agent.traces.obfuscate.collapse import collapse


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("", ""),
        ("SELECT a", "SELECT a"),
        ("( ?, ?, ? )", "( ? )"),
        ("( ? ? )", "( ? )"),
        ("(?,?)", "( ? )"),
        ("(??)", "( ? )"),
        ("[ ?, ? ]", "[ ? ]"),
        ("( ?, a )", "( ?, a )"),
        ("( ( ?, ? ), ? )", "( ( ? ), ? )"),
        ("( ?", "( ?"),
        ("( ? ]", "( ? ]"),
        ("()", "()"),
        ("VALUES ( ? ), ( ?, ? ), ( ? )", "VALUES ( ? )"),
        ("values ( ? ) ( ? ) () x", "values ( ? ) x"),
        ("( VALUES ( ? ), ( ? )", "( VALUES ( ? )"),
        ("a\nVALUES ( ? ), ( ? )", "a\nVALUES ( ? )"),
        ("MYVALUES ( ? ), ( ? )", "MYVALUES ( ? ), ( ? )"),
        ("VALUE\u017f ( ? ), ( ? )", "VALUE\u017f ( ? ), ( ? )"),
        ("LIMIT ?, ?", "LIMIT ?"),
        ("limit ? ?", "limit ?"),
        ("LIMIT ?, ?, ?", "LIMIT ?, ?"),
        ("NOLIMIT ?, ?", "NOLIMIT ?, ?"),
        ("LIMIT ? OFFSET ?", "LIMIT ? OFFSET ?"),
        ("a LIMIT ? ? b LIMIT ?, ?", "a LIMIT ? b LIMIT ?"),
    ],
)
def test_lists_rows_and_limits_become_short(query, expected):
    assert collapse(query) == expected


@given(st.text("()[]?, VALUESlimit\n", max_size=80))
def test_what_is_short_is_never_longer_than_lists_written_with_blanks(query):
    # `(?)` becomes `( ? )`: two more characters for each list.
    assert len(collapse(query)) <= len(query) + 2 * (query.count("(") + query.count("["))
