"""Both ways of reading an ordinary URL, run from the source in either twin."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mini_agent.traces import ordinary_url
from mini_agent.traces.obfuscate.url import obfuscate_url
from mini_agent.traces.ordinary_url import rewrite_ordinary

SOURCE = Path(ordinary_url.__file__).with_name("ordinary_url.py")


def load(compiled: bool) -> ModuleType:
    """The source, which goes the way of one of the twins."""
    spec = importlib.util.spec_from_file_location("ordinary_url_of_a_test", SOURCE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module._COMPILED = compiled  # type: ignore[attr-defined]
    return module


BY_EXPRESSION, BY_BYTES = load(compiled=False), load(compiled=True)
WAYS = [rewrite_ordinary, BY_EXPRESSION.rewrite_ordinary, BY_BYTES.rewrite_ordinary]

PARTS = (
    *("http:", "https://", "http://", "//", "/", "host", ":80", ":", "1", "a1"),
    *("-._~!$&'()*+,;=", "?", "?q=1"),
)
ODD_PARTS = ("user@", "[::1]", "%31", "\u00e9", " ", "#", "\n", "\x7f", "\u2003", "[", "HTTP://")
URLS = st.lists(st.sampled_from([*PARTS, *PARTS, *ODD_PARTS]), max_size=9).map("".join)


@pytest.mark.parametrize("rewrite", WAYS)
@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("https://a.b:8080/v3/quotes/82/lines?c=1", "https://a.b:8080/?/quotes/?/lines?"),
        ("http://10.0.0.1:80/a//b2/", "http://10.0.0.1:80/a//?/"),
        ("http://10.0.0.1", "http://10.0.0.1"),
        ("http://h1?1", "http://h1?"),
        ("//h/1/2/3", "//h/?/?/?"),
        ("///1", "///?"),
        ("/a:1b", "/?"),
        ("/?/1?/", "/?"),
        ("?", "?"),
        ("", ""),
    ],
)
def test_queries_and_segments_with_digits_go(rewrite, url, expected):
    assert rewrite(url, True, True) == expected
    assert rewrite(url, False, False) == url


@pytest.mark.parametrize("rewrite", WAYS)
@pytest.mark.parametrize(
    "url",
    [
        *("a", "http:/a", "HTTP://a", "http://a:b", "http://a:1:", "http://u@h", "/%31", "/#"),
        *("//[::1]", "/ ", "/\u00e9", "http", "http:/", "https:/", "/a\x00", "/?\n"),
    ],
)
def test_other_urls_are_left_to_the_rules(rewrite, url):
    assert rewrite(url, True, True) is None


@given(URLS, st.booleans(), st.booleans())
def test_all_ways_say_what_the_rules_say(url, remove_query, remove_digits):
    expected = obfuscate_url(url, remove_query, remove_digits)
    for rewrite in WAYS:
        assert rewrite(url, remove_query, remove_digits) in (None, expected)


@given(st.binary(max_size=40).map(lambda url: b"http://" + url))
def test_what_is_written_is_never_longer_than_what_is_kept(url):
    digit, end = BY_BYTES.measure_ordinary(url, len(url))
    if end < 0:
        return
    assert 0 <= digit <= end <= len(url)
    out = bytearray(len(url))
    assert BY_BYTES.replace_segments(url, digit, end, len(url), out) <= len(url)
