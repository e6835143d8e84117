from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mini_agent.traces.obfuscate import automaton
from mini_agent.traces.obfuscate.replace import (
    VALUE_LENGTH_MAX,
    ReplaceRule,
    read_rules,
    replace_group,
    replace_tags,
)
from mini_agent.traces.span import ARRAY, INT, AttributeValue, Span, SpanEvent


@pytest.mark.parametrize(
    ("pattern", "replacement", "text", "expected"),
    [
        ("a", "b", "banana", "bbnbnb"),
        ("(a)(n)", "$2$1", "banana", "bnanaa"),
        ("(?<x>a)", "<${x}>", "ba", "b<a>"),
        ("(?P<x>a)", "<$x>", "ba", "b<a>"),
        ("(a)", "$1x", "ba", "b"),
        ("(a)", "${1}x", "ba", "bax"),
        ("(a)", "$2", "ba", "b"),
        ("(a)", "$0$0", "ba", "baa"),
        ("(a)|b", "[$1]", "ab", "[a][]"),
        ("a", "$$", "a", "$"),
        ("a", "$$1", "a", "$1"),
        ("a", "$", "a", "$"),
        ("a", "5 $ x", "a", "5 $ x"),
        ("a", "${x", "a", "${x"),
        ("a", "${}", "ba", "b"),
        ("x*", "-", "abxd", "-a-b-d-"),
        ("$", "!", "a\n", "a\n!"),
        ("^", ">", "a\nb", ">a\nb"),
        ("(?m)^", ">", "a\nb", ">a\n>b"),
        ("(?i)TOKEN=\\w+", "token=?", "x Token=abc y", "x token=? y"),
        (".", "?", "\u00e9\U0001f600", "??"),
        ("a", "b", "", ""),
    ],
)
def test_every_match_is_replaced(pattern, replacement, text, expected):
    assert ReplaceRule("*", pattern, replacement).replace(text) == expected


def make_span() -> Span:
    span = Span()
    span.resource = "GET /secret"
    span.set_meta("a", "secret")
    span.set_meta("_b", "secret")
    span.set_meta("c", "other")
    span.set_metric("a", 1.0)
    event = SpanEvent()
    event.attributes = {
        "a": AttributeValue(string_value="secret"),
        "d": AttributeValue(
            ARRAY, array_value=[AttributeValue(string_value="secret"), AttributeValue(INT)]
        ),
        "n": AttributeValue(INT, int_value=7),
    }
    span.events = [event]
    return span


def texts_of(span: Span) -> dict[str, str]:
    [event] = span.events
    items = event.attributes["d"].array_value
    assert items is not None
    return {
        "resource": span.resource,
        **dict(span.meta_items()),
        "event a": event.attributes["a"].string_value,
        "event d": items[0].string_value,
    }


def test_a_rule_with_a_star_is_for_the_resource_and_all_text_of_tags_and_events():
    span = make_span()
    replace_tags(span, [ReplaceRule("*", "secret", "?")])
    assert texts_of(span) == {
        "resource": "GET /?",
        "a": "?",
        "_b": "?",
        "c": "other",
        "event a": "?",
        "event d": "?",
    }


def test_a_rule_with_a_name_is_for_that_tag_and_attribute():
    span = make_span()
    before = texts_of(span)
    replace_tags(span, [ReplaceRule("a", "secret", "?"), ReplaceRule("missing", "^", "x")])
    assert texts_of(span) == {**before, "a": "?", "event a": "?"}
    assert span.get_meta("missing") is None


def test_a_rule_for_the_resource_is_for_nothing_else():
    span = make_span()
    before = texts_of(span)
    replace_tags(span, [ReplaceRule("resource.name", "GET (.*)", "$1")])
    assert texts_of(span) == {**before, "resource": "/secret"}


@pytest.mark.parametrize(
    ("name", "pattern", "replacement", "resource", "code"),
    [
        ("resource.name", "[0-9]+", "?", "GET /?", 404),
        ("*", "4", "5", "GET /1", 505),
        ("*", "[0-9]+", "?", "GET /?", 404),
        ("http.status_code", "^4..$", "400", "GET /1", 400),
        ("http.status_code", "$", "99999999", "GET /1", 404),
        ("http.url", "[0-9]", "?", "GET /1", 404),
    ],
)
def test_rules_hold_for_what_a_group_of_stats_has(name, pattern, replacement, resource, code):
    group = {"Resource": "GET /1", "HTTPStatusCode": 404}
    replace_group(group, [ReplaceRule(name, pattern, replacement)])
    assert group == {"Resource": resource, "HTTPStatusCode": code}


def test_rules_hold_in_their_order():
    span = make_span()
    replace_tags(span, [ReplaceRule("a", "secret", "one"), ReplaceRule("a", "one", "two")])
    assert span.get_meta("a") == "two"


@pytest.mark.parametrize("length", [5000, VALUE_LENGTH_MAX])
def test_a_pattern_that_repeats_repetitions_is_answered(length):
    rule = ReplaceRule("*", "(a+)+$", "-")
    assert rule.replace("a" * length + "b") == ("a" * length + "b")[:VALUE_LENGTH_MAX].replace(
        "a" * VALUE_LENGTH_MAX, "-"
    )


def test_of_a_text_that_takes_too_much_work_nothing_gets_through(monkeypatch):
    monkeypatch.setattr(automaton, "STEPS_MAX", 2000)
    rule = ReplaceRule("*", "a.*z|a", "-")
    assert rule.replace("a" * 10) == "-" * 10
    assert rule.replace("a" * 1000) == "?"


def test_no_text_longer_than_the_limit_is_searched():
    text = "a" * (VALUE_LENGTH_MAX + 100)
    assert ReplaceRule("*", "b", "c").replace(text) == "a" * VALUE_LENGTH_MAX


def test_a_bad_rule_is_named_and_the_others_hold():
    rules, complaints = read_rules(
        json.dumps(
            [
                {"name": "a", "pattern": "x", "repl": "y"},
                {"name": "bad", "pattern": "sec(ret", "repl": ""},
                {"name": "unicode", "pattern": r"\p{L}", "repl": ""},
                {"name": "half", "pattern": "x"},
                {"name": 5, "pattern": "x", "repl": "y"},
                "text",
                {"name": "more", "pattern": "(a+)+$", "repl": "y", "more": 1},
            ]
        )
    )
    assert [rule.name for rule in rules] == ["a", "more"]
    assert len(complaints) == 5
    assert "rule 2 for 'bad'" in complaints[0]
    assert "rule 3 for 'unicode'" in complaints[1]
    assert all("rule 4" in complaints[2] or "sec" not in each for each in complaints)


@pytest.mark.parametrize("text", ["", "{", '{"name":"a"}', '"x"', "null", "[" * 100_000])
def test_what_is_no_list_makes_no_rule_and_one_complaint(text):
    rules, complaints = read_rules(text)
    assert rules == []
    assert len(complaints) == 1


@given(st.text("$a1{}x_", max_size=12), st.text("ab", max_size=8))
def test_any_replacement_is_taken(replacement, text):
    ReplaceRule("*", "(a)(?P<x>b)?", replacement).replace(text)


@given(st.text("ab(|)[]*+?\\d.^${}1,", max_size=12))
def test_any_pattern_is_a_rule_or_a_complaint(pattern):
    rules, complaints = read_rules(json.dumps([{"name": "a", "pattern": pattern, "repl": ""}]))
    assert len(rules) == 1 or len(complaints) == 1
