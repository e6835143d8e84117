from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kit import tables
from kit.growth import growing

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
        "https://",
        "//",
        "/",
        "user:pw@",
        "host",
        "[::1]",
        ":80",
        ":",
        "1",
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
        "\x7f",
        "\u2003",
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


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("https://a.b:8080/v3/quotes/82/lines?c=1", "https://a.b:8080/?/quotes/?/lines?"),
        ("http://10.0.0.1/a//b2/", "http://10.0.0.1/a//?/"),
        ("http://10.0.0.1:80", "http://10.0.0.1:80"),
        ("http://10.0.0.1:80?1", "http://10.0.0.1:80?"),
        ("//host1:80/1", "//host1:80/?"),
        ("///1", "///?"),
        ("/a:1/b", "/?/b"),
        # No ports, so that these are no URLs.
        ("http://host:80x/1", "?"),
        ("//host:80:/1", "?"),
        # Behind a scheme without slashes nothing is a segment.
        ("https:/x1", "https:/x1"),
        ("http:1", "http:1"),
        ("?1", "?"),
    ],
)
def test_digits_go_from_the_path_and_from_nowhere_else(url, expected):
    assert obfuscate_url(url, remove_query=True, remove_digits=True) == expected


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


def hostile_shapes(length):
    """URLs on which the same might be looked at again and again."""
    return {
        "one long segment": "/" + "a" * length,
        "one long segment with a digit": "/" + "a" * length + "1",
        "segments": "http://h" + "/a" * (length // 2),
        "segments with digits": "http://h" + "/1" * (length // 2),
        "slashes": "/" * length,
        "colons": "http://" + ":" * length,
        "a port": "http://h:" + "1" * length + "x",
        "users": "http://" + "u@" * (length // 2),
        "escapes": "/" + "%31" * (length // 3),
        "a query": "/?" + "?&" * (length // 2),
        "a query with an end of line": "/?" + "a" * length + "\n",
        "questions behind a fragment": "/#" + "?" * length,
    }


@pytest.mark.slow
def test_time_grows_with_the_length_whatever_the_url_holds():
    def change(url):
        return obfuscate_url(url, remove_query=True, remove_digits=True)

    assert growing(change, hostile_shapes) == {}
