from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mini_agent import values
from mini_agent.values import GIB, KIB, MIB, Amended

FORMS = {name: form for name, form in vars(values).items() if isinstance(form, values.Form)}


@pytest.mark.parametrize("word", ["1", "t", "T", "TRUE", "true", "True", "yes", "Y", "on"])
def test_every_spelling_of_yes_is_taken(word):
    assert values.YES_NO.read(word) is True


@pytest.mark.parametrize("word", ["0", "f", "F", "FALSE", "false", "False", "no", "N", "OFF"])
def test_every_spelling_of_no_is_taken(word):
    assert values.YES_NO.read(word) is False


@pytest.mark.parametrize(
    ("text", "level"),
    [
        ("INFO", "info"),
        ("Warning", "warn"),
        ("warn", "warn"),
        ("critical", "critical"),
        ("off", "off"),
        ("trace", "trace"),
        ("0", "off"),
        ("1", "error"),
        ("2", "warn"),
        ("3", "info"),
        ("4", "debug"),
        ("5", "trace"),
    ],
)
def test_log_levels_have_words_and_digits(text, level):
    assert values.LEVEL.read(text) == level


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("0", 0),
        ("1000", 1000),
        ("10 MiB", 10 * MIB),
        ("64KiB", 64 * KIB),
        ("2gib", 2 * GIB),
        ("20MB", 20_000_000),
        ("3kB", 3000),
        ("1GB", 10**9),
        ("512 B", 512),
    ],
)
def test_sizes_take_a_unit(text, count):
    assert values.size(0, 4 * GIB).read(text) == count


@pytest.mark.parametrize(
    "text", ["", "MiB", "-1", "1.5MiB", "1_000", "+5", "10 XiB", "10MiBi", "٣", "1e6", "5GiB"]
)
def test_what_is_not_a_size_in_range_is_refused(text):
    with pytest.raises(ValueError, match=r"^$"):
        values.size(0, 4 * GIB).read(text)


def test_a_size_that_is_too_small_is_raised_and_zero_is_off():
    form = values.size_or_off(16 * MIB, GIB)
    assert form.read("0") == 0
    assert form.read("16MiB") == 16 * MIB
    with pytest.raises(Amended, match="using 16 MiB") as raised:
        form.read("1")
    assert raised.value.value == 16 * MIB


@pytest.mark.parametrize("text", ["nan", "inf", "-inf", "0.09", "61", "", "s", "3 m", "x"])
def test_what_is_not_a_duration_in_range_is_refused(text):
    with pytest.raises(ValueError, match=r"^$|could not convert"):
        values.seconds(0.1, 60).read(text)


@pytest.mark.parametrize(("text", "number"), [("3", 3.0), ("0.5", 0.5), ("2.5s", 2.5), ("4 s", 4)])
def test_durations_take_fractions(text, number):
    assert values.seconds(0.1, 60).read(text) == number


@pytest.mark.parametrize(
    ("text", "tags"),
    [
        ("env:prod", "env:prod"),
        ("b:2,a:1 c:3\td:4", "a:1,b:2,c:3,d:4"),
        (" ,, a:1 ,", "a:1"),
        ("a:1,a:2", "a:2"),
        ("key:,:value", ":value,key:"),
        ("url:http://host:80/x", "url:http://host:80/x"),
    ],
)
def test_tags_are_sorted_pairs_and_a_value_may_hold_colons(text, tags):
    assert values.TAGS.read(text) == tags


def test_tags_without_a_colon_are_left_out_and_said():
    with pytest.raises(Amended, match=r"left out \(2\)") as raised:
        values.TAGS.read("lonely a:1 other")
    assert raised.value.value == "a:1"


@pytest.mark.parametrize("text", ["datadoghq.com", "us3.datadoghq.com", "ddog-gov.com", "a_b:8443"])
def test_a_site_is_a_domain_with_or_without_a_port(text):
    assert values.SITE.read(text) == text


@pytest.mark.parametrize(
    "text",
    ["https://datadoghq.eu", "datadoghq.eu/", "a b", "a@b", "é.com", ".", ":80", "a:", "a:x"],
)
def test_what_would_spoil_an_intake_address_is_no_site(text):
    with pytest.raises(ValueError, match=r"^$"):
        values.SITE.read(text)


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("https://intake.example", "https://intake.example"),
        ("HTTP://127.0.0.1:8080/", "http://127.0.0.1:8080"),
        ("http://[::1]:8080//", "http://[::1]:8080"),
        ("https://host/prefix/", "https://host/prefix"),
    ],
)
def test_a_url_loses_its_trailing_slashes(text, url):
    assert values.URL.read(text) == url


@pytest.mark.parametrize(
    "text",
    [
        "intake.example",
        "ftp://host",
        "https://",
        "https:///path",
        "https://host:0",
        "https://host:65536",
        "https://host:port",
        "https://[::1",
        "https://[host]",
        "https://user:password@host",
        "https://host/?a=b",
        "https://host/#a",
        "https://ho st",
        "https://host/a b",
    ],
)
def test_what_cannot_be_sent_to_is_no_url(text):
    with pytest.raises(ValueError, match=r"^$"):
        values.URL.read(text)


@pytest.mark.parametrize(
    ("text", "url", "shown"),
    [
        ("http://proxy:3128", "http://proxy:3128", "http://proxy:3128"),
        ("proxy:3128", "http://proxy:3128", "http://proxy:3128"),
        ("https://proxy/", "https://proxy", "https://proxy"),
        ("http://me:pass@proxy:1", "http://me:pass@proxy:1", "http://****@proxy:1"),
        ("me:p@ss@proxy:1", "http://me:p@ss@proxy:1", "http://****@proxy:1"),
    ],
)
def test_a_proxy_is_shown_without_its_account(text, url, shown):
    assert values.PROXY.read(text) == url
    assert values.PROXY.show(url) == shown


@pytest.mark.parametrize("text", ["socks5://proxy:1080", "http://", "http://a/b", "http://me@"])
def test_what_cannot_be_gone_through_is_no_proxy(text):
    with pytest.raises(ValueError, match=r"^$"):
        values.PROXY.read(text)


@pytest.mark.parametrize(
    ("key", "shown"),
    [("", ""), ("abcd", "****"), ("12345678", "********"), ("123456789", "*****6789")],
)
def test_a_key_shows_four_characters_at_most(key, shown):
    assert values.API_KEY.show(key) == shown


@pytest.mark.parametrize("text", ["two words", "caf\u00e9", "line\nbreak", "nul\x00"])
def test_a_key_that_cannot_be_a_header_is_refused(text):
    with pytest.raises(ValueError, match=r"^$"):
        values.API_KEY.read(text)


def test_a_complaint_quotes_a_value_but_never_a_secret():
    assert values.PORT.complaint("80 80") == "='80 80' is not a port number, 0 to 65535"
    assert "hunter2" not in values.PROXY.complaint("socks://me:hunter2@proxy")
    assert "hunter2" not in values.API_KEY.complaint("hunter2 \n")
    assert "hunter2" not in values.TAGS.complaint("hunter2")


def test_a_complaint_quotes_only_the_beginning_of_a_long_value():
    assert len(values.PORT.complaint("9" * 10_000)) < 120


@pytest.mark.parametrize("name", FORMS)
@given(text=st.text(max_size=40))
def test_any_text_is_a_value_or_does_not_fit(name, text):
    form = FORMS[name]
    try:
        value = form.read(text)
    except ValueError:
        assert form.complaint(text)
    else:
        assert isinstance(form.show(value), str)


@pytest.mark.parametrize("name", FORMS)
def test_bytes_that_are_not_unicode_never_fit(name):
    with pytest.raises(ValueError, match=r"^$"):
        FORMS[name].read("\udcff")
    assert FORMS[name].complaint("\udcff") == " is not valid Unicode"


@given(count=st.integers(0, 64 * GIB))
def test_a_size_as_it_is_shown_reads_as_the_same_size(count):
    form = values.size(0, 64 * GIB)
    assert form.read(form.show(count)) == count


@pytest.mark.parametrize(
    ("text", "patterns"),
    [
        ("(GET|POST) /health", ("(GET|POST) /health",)),
        ("^GET /a$, ^GET /b$,", ("^GET /a$", "^GET /b$")),
        ('"a{1,2}",b', ("a{1,2}", "b")),
        ('"say ""hi"", twice"', ('say "hi", twice',)),
        ('"a\rb","c\nd"', ("a\rb", "c\nd")),
        (" , ", ()),
    ],
)
def test_patterns_have_commas_between(text, patterns):
    assert values.PATTERNS.read(text) == patterns
    assert values.PATTERNS.read(values.PATTERNS.show(patterns)) == patterns


@pytest.mark.parametrize(
    ("text", "filters"),
    [
        ("env:prod  debug", ("env:prod", "debug")),
        ('["user:John Doe", "a"]', ("user:John Doe", "a")),
        ("[]", ()),
    ],
)
def test_tag_filters_have_spaces_between_or_are_json(text, filters):
    assert values.TAG_FILTERS.read(text) == filters
    assert values.TAG_FILTERS.read(values.TAG_FILTERS.show(filters)) == filters


@pytest.mark.parametrize("text", ["[1]", "[a]", '[["a"]]'])
def test_what_is_no_list_of_tag_filters_is_refused(text):
    with pytest.raises(ValueError, match=r"^$|Expecting"):
        values.TAG_FILTERS.read(text)
