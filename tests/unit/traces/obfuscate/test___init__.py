from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kit import tables

from mini_agent.traces.obfuscate import Obfuscator
from mini_agent.traces.obfuscate.documents import DocumentRules
from mini_agent.traces.obfuscate.replace import ReplaceRule
from mini_agent.traces.span import ARRAY, BOOL, DOUBLE, INT, STRING, AttributeValue, Span, SpanEvent

CARD = "4111111111111111"
ALL_DOCUMENTS = {type: DocumentRules() for type in ("elasticsearch", "mongodb", "opensearch")}


def make_span(type: str = "custom", resource: str = "r", **tags: str) -> Span:
    span = Span()
    span.type = type
    span.resource = resource
    for key, value in tags.items():
        span.set_meta(key.replace("__", "."), value)
    return span


def obfuscated(span: Span, **settings: object) -> Span:
    obfuscator = Obfuscator(documents=ALL_DOCUMENTS, **settings)  # type: ignore[arg-type]
    obfuscator.obfuscate_span(span)
    return span


@pytest.mark.parametrize("type", ["sql", "cassandra"])
def test_sql_is_hidden_wherever_it_stands(type):
    query = "SELECT a FROM t WHERE b = 'x'"
    span = obfuscated(make_span(type, query, db__statement=query, db__query__text=query))
    assert {span.resource, *(value for _, value in span.meta_items())} == {
        "SELECT a FROM t WHERE b = ?"
    }
    assert span.get_meta("sql.query") == span.resource


def test_without_a_resource_the_query_in_the_tags_is_hidden_too():
    span = obfuscated(make_span("sql", "", sql__query="SELECT 1"))
    assert (span.resource, span.get_meta("sql.query")) == ("", "SELECT ?")
    span = obfuscated(make_span("sql", ""))
    assert span.get_meta("sql.query") is None


def test_the_dialect_follows_the_database():
    assert obfuscated(make_span("sql", "SELECT [a]")).resource == "SELECT [ a ]"
    span = obfuscated(make_span("sql", "SELECT [a]", db__type="MsSQL"))
    assert span.resource == "SELECT a"


def test_a_query_that_comes_again_is_looked_up():
    obfuscator = Obfuscator(documents={}, cache_characters_max=10_000)
    first = obfuscator.obfuscate_query("SELECT 1", "")
    assert obfuscator.obfuscate_query("SELECT 1", "") is first
    assert obfuscator.obfuscate_query("SELECT [1]", "mssql") == "SELECT 1"
    assert obfuscator.obfuscate_query("SELECT [1]", "") == "SELECT [ ? ]"


@pytest.mark.parametrize("type", ["web", "http"])
def test_urls_lose_their_user(type):
    span = obfuscated(make_span(type, http__url="http://u:p@host/1?q=2"))
    assert span.get_meta("http.url") == "http://host/1?q=2"
    span = obfuscated(
        make_span(type, http__url="http://u:p@host/1?q=2"),
        url_query_removed=True,
        url_digits_removed=True,
    )
    assert span.get_meta("http.url") == "http://host/??"


def test_urls_of_other_spans_are_let_be():
    span = obfuscated(make_span("rpc", http__url="http://u:p@host/1"), url_query_removed=True)
    assert span.get_meta("http.url") == "http://u:p@host/1"


@pytest.mark.parametrize("type", ["redis", "valkey"])
def test_redis_resources_become_commands_and_raw_ones_what_was_asked_for(type):
    def raw(change: str) -> str | None:
        span = make_span(type, "SET k v")
        span.set_meta(f"{type}.raw_command", "SET k v")
        obfuscated(span, redis_commands=change, valkey_commands=change)
        assert span.resource == "SET"
        return span.get_meta(f"{type}.raw_command")

    assert raw("") == "SET k v"
    assert raw("values") == "SET k ?"
    assert raw("arguments") == "SET ?"


def test_memcached_commands_lose_what_was_asked_for():
    def left(change: str) -> str | None:
        span = make_span("memcached", memcached__command="set k 0 0 1\r\nv")
        return obfuscated(span, memcached_commands=change).get_meta("memcached.command")

    assert left("") == "set k 0 0 1\r\nv"
    assert left("values") == "set k 0 0 1"
    assert left("all") == ""


@pytest.mark.parametrize(
    ("type", "tag"),
    [
        ("mongodb", "mongodb.query"),
        ("elasticsearch", "elasticsearch.body"),
        ("opensearch", "opensearch.body"),
    ],
)
def test_documents_lose_their_values(type, tag):
    span = make_span(type)
    span.set_meta(tag, '{"a":"b"}')
    assert obfuscated(span).get_meta(tag) == '{"a":"?"}'
    span.set_meta(tag, '{"a":"b"}')
    Obfuscator(documents={}).obfuscate_span(span)
    assert span.get_meta(tag) == '{"a":"b"}'


def test_card_numbers_are_hidden_in_every_tag_that_may_hold_one():
    tags = {"card.number": CARD, "note": CARD, "_dd.p.tid": CARD, "version": CARD, "kept": CARD}
    span = Span()
    for key, value in tags.items():
        span.set_meta(key, value)
    obfuscated(span, cards_kept=["kept"])
    assert dict(span.meta_items()) == {**tags, "card.number": "?", "note": "?"}


def test_card_numbers_stay_when_nobody_looks_for_them():
    span = obfuscated(make_span(card__number=CARD), cards=False)
    assert span.get_meta("card.number") == CARD


def test_the_checksum_decides_only_when_asked():
    wrong = "4111111111111112"
    assert obfuscated(make_span(note=wrong)).get_meta("note") == wrong
    assert obfuscated(make_span(note=wrong), cards_luhn=False).get_meta("note") == "?"


def test_card_numbers_in_events_leave_nothing_behind():
    event = SpanEvent()
    event.attributes = {
        "text": AttributeValue(string_value=CARD),
        "number": AttributeValue(INT, int_value=int(CARD)),
        "float": AttributeValue(DOUBLE, double_value=float(CARD)),
        "list": AttributeValue(ARRAY, array_value=[AttributeValue(INT, int_value=int(CARD))]),
        "empty": AttributeValue(ARRAY),
        "bool": AttributeValue(BOOL, bool_value=True),
        "other": AttributeValue(DOUBLE, double_value=float("inf")),
        "version": AttributeValue(string_value=CARD),
    }
    span = Span()
    span.events = [event]
    obfuscated(span)
    [item] = event.attributes["list"].array_value or []
    for attribute in (*(event.attributes[key] for key in ("text", "number", "float")), item):
        assert (attribute.type, attribute.string_value) == (STRING, "?")
        assert (attribute.int_value, attribute.double_value) == (0, 0.0)
    assert event.attributes["version"].string_value == CARD
    assert event.attributes["other"].type == DOUBLE


def test_stack_traces_go_when_asked():
    event = SpanEvent()
    event.attributes = {"exception.stacktrace": AttributeValue(string_value="at line 1")}
    span = make_span(error__stack="at line 1", error__message="no")
    span.events = [event]
    obfuscated(span)
    assert span.get_meta("error.stack") == "at line 1"
    obfuscated(span, stacks_removed=True)
    assert dict(span.meta_items()) == {"error.stack": "?", "error.message": "no"}
    assert event.attributes["exception.stacktrace"].string_value == "?"


def test_own_rules_see_what_the_others_left():
    span = make_span("sql", "SELECT 'a' FROM t")
    obfuscated(span, replace_rules=[ReplaceRule("*", r"\?", "!")])
    assert (span.resource, span.get_meta("sql.query")) == ("SELECT ! FROM t", "SELECT ! FROM t")


TEXT = st.text(max_size=40)
TYPES = st.sampled_from(
    ["sql", "cassandra", "web", "http", "redis", "valkey", "memcached", "mongodb", "opensearch", ""]
)
TAG_WORDS = (
    "db.type sql.query db.statement http.url redis.raw_command valkey.raw_command "
    "memcached.command mongodb.query opensearch.body card.number error.stack x"
)
TAGS = st.sampled_from(TAG_WORDS.split())


@given(TYPES, TEXT, st.dictionaries(TAGS, TEXT, max_size=6))
def test_any_span_is_taken(type, resource, tags):
    span = make_span(type, resource)
    for key, value in tags.items():
        span.set_meta(key, value)
    obfuscated(
        span,
        redis_commands="values",
        valkey_commands="arguments",
        memcached_commands="values",
        url_query_removed=True,
        stacks_removed=True,
        replace_rules=[ReplaceRule("*", "a(b)?", "$1")],
        cache_characters_max=1000,
    )


def test_every_case_of_the_differences_is_still_one():
    for case in tables.load("obfuscate/differences"):
        assert case["ours"] != case["reference"], case["reason"]
