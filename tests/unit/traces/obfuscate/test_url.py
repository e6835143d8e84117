from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kit import tables

from mini_agent.traces.obfuscate.url import obfuscate_url

CASES = tables.load("obfuscate/url")


@pytest.mark.parametrize("case", CASES, ids=lambda case: ascii(case["input"]))
def test_a_url_becomes_what_the_table_says(case):
    url = case["input"]
    assert obfuscate_url(url) == case["expected"]
    assert obfuscate_url(url, remove_query=True) == case["query_removed"]
    assert obfuscate_url(url, remove_digits=True) == case["digits_removed"]
    assert obfuscate_url(url, remove_query=True, remove_digits=True) == case["both_removed"]


PARTS = st.sampled_from(
    [
        "http:",
        "//",
        "/",
        "user:pw@",
        "host",
        "[::1]",
        ":80",
        "a1",
        "%31",
        "%zz",
        "é",
        " ",
        "?",
        "q=1",
        "#",
        "f",
        "\n",
        "(",
        "[",
        "'",
    ]
)


@given(st.lists(PARTS, max_size=9).map("".join), st.booleans(), st.booleans())
def test_rewriting_twice_changes_nothing_but_question_marks(url, remove_query, remove_digits):
    once = obfuscate_url(url, remove_query, remove_digits)
    if "?" in once:
        # Replaced segments look like queries.
        return
    assert obfuscate_url(once, remove_query, remove_digits) == once


@given(st.from_regex(r"\A[a-z]{1,8}:[a-z0-9]{1,8}\Z"), st.from_regex(r"\A(/[a-z0-9]{1,5}){0,3}\Z"))
def test_no_password_survives(user, path):
    assert obfuscate_url(f"https://{user}@example.com{path}") == f"https://example.com{path}"


@given(st.text(max_size=60), st.booleans(), st.booleans())
def test_any_text_is_taken(text, remove_query, remove_digits):
    obfuscate_url(text, remove_query, remove_digits)


@given(st.lists(PARTS, max_size=9).map("".join), st.booleans(), st.booleans())
def test_the_short_way_leads_where_the_long_one_does(url, remove_query, remove_digits):
    # A fragment is not for the short way.
    url = url.replace("#", "")
    result = obfuscate_url(url, remove_query, remove_digits)
    long = obfuscate_url(url + "#f", remove_query, remove_digits)
    assert long in (result + "#f", "?")
    assert long != "?" or result == "?"
