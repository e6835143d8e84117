from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kit.chunks import chunk_of
from kit.clock import HandClock

from mini_agent.traces.lenient import Findings
from mini_agent.traces.normalize import (
    REMEMBERED_MAX,
    Normalizer,
    normalize_metric_name,
    normalize_tag,
    truncate,
)
from mini_agent.traces.span import Span

NOW_NS = 1_790_000_000_000_000_000
I64_MAX = (1 << 63) - 1
YEAR_2000_NS = 946_684_800_000_000_000


def make_span(**fields: Any) -> Span:
    span = Span()
    span.trace_id, span.span_id = 1, 2
    span.service, span.name, span.resource = "web", "request", "GET /"
    span.start, span.duration = NOW_NS, 10
    for key, value in fields.pop("meta", {}).items():
        span.set_meta(key, value)
    for name, value in fields.items():
        setattr(span, name, value)
    return span


def normalize(*spans: Span) -> tuple[list[Span], Findings]:
    findings = Findings()
    normalizer = Normalizer(HandClock(NOW_NS).wall_ns)
    chunks = normalizer.normalize(chunk_of(*spans), findings)
    return [span for chunk in chunks for span in chunk], findings


def normal(**fields: Any) -> tuple[Span, dict[str, int]]:
    """One span that is kept, and what was counted."""
    [span], findings = normalize(make_span(**fields))
    return span, findings.repairs


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("web-store", "web-store"),
        ("a:b.c/d_e", "a:b.c/d_e"),
        ("MyService", "myservice"),
        ("A  B", "a_b"),
        ("1a", "a"),
        ("a1", "a1"),
        ("a\N{OWL}b", "a_b"),
        (".", ""),
        ("-a", "a"),
        ("_a", "a"),
        ("ab___", "ab"),
        ("a_-b", "a_-b"),
        ("a--b", "a--b"),
        ("\N{LATIN CAPITAL LETTER I WITH DOT ABOVE}", "i"),
        ("\N{LATIN CAPITAL LETTER A WITH STROKE}b", "\N{LATIN CAPITAL LETTER A WITH STROKE}b"),
        ("\N{GREEK CAPITAL LETTER SIGMA}", "\N{GREEK SMALL LETTER SIGMA}"),
        ("\N{CIRCLED DIGIT ONE}a", "a"),
        ("a\N{CIRCLED DIGIT ONE}", "a\N{CIRCLED DIGIT ONE}"),
        ("\N{ROMAN NUMERAL ONE}x", "\N{SMALL ROMAN NUMERAL ONE}x"),
        ("日本", "日本"),
        ("\u0939\u093f\u0928\u094d\u0926\u0940", "\u0939\u093f\u0928_\u0926\u0940"),
        ("", ""),
    ],
)
def test_a_tag_becomes_one_the_intake_can_index(text: str, normal: str) -> None:
    assert normalize_tag(text) == normal


def test_a_tag_ends_after_200_characters_or_400_bytes() -> None:
    assert normalize_tag("a" * 300) == "a" * 200
    assert normalize_tag("日" * 300) == "日" * 134  # the one that passes 400 bytes is the last
    assert normalize_tag("a" * 199 + " b") == "a" * 199


@given(st.text())
def test_a_normal_tag_stays_as_it_is(text: str) -> None:
    once = normalize_tag(text)
    assert normalize_tag(once) == once


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("flask.request", "flask.request"),
        ("bad-name", "bad_name"),
        ("a_.b", "a.b"),
        ("&&&_test-name-", "test_name"),
        ("9a", "a"),
        ("Mixed.Case9", "Mixed.Case9"),
        ("a--b", "a_b"),
        ("a__b", "a_b"),
        ("a___", "a"),
        ("a..b", "a..b"),
        ("a  b", "a_b"),
        ("__a..--b__c.", "a..b_c."),
        ("x.__.y", "x..y"),
        ("__main__.show_order", "main.show_order"),
        ("日本", ""),
        ("caf\u00e9\u00e9 au lait", "caf_au_lait"),
        ("123", ""),
    ],
)
def test_a_name_becomes_a_metrics_name(text: str, normal: str) -> None:
    assert normalize_metric_name(text) == normal


@given(st.text())
def test_a_normal_name_stays_as_it_is(text: str) -> None:
    once = normalize_metric_name(text)
    assert normalize_metric_name(once) == once


def test_a_span_that_is_normal_is_not_touched() -> None:
    meta = {"env": "prod", "http.status_code": "200"}
    span, repairs = normal(type="web", meta=meta)
    assert (span.service, span.name, span.resource, span.type) == ("web", "request", "GET /", "web")
    assert dict(span.meta_items()) == meta
    assert (span.start, span.duration) == (NOW_NS, 10)
    assert repairs == {}


@pytest.mark.parametrize(
    ("field", "text", "normal_text", "reasons"),
    [
        ("service", "", "unnamed-service", {"service_empty": 1}),
        ("service", "--", "unnamed-service", {"service_invalid": 1}),
        ("service", "Web", "web", {"service_normalized": 1}),
        ("service", "s" * 101, "s" * 100, {"service_truncate": 1}),
        ("service", "s" * 99 + "é", "s" * 99, {"service_truncate": 1}),
        ("service", "S" * 101, "s" * 100, {"service_truncate": 1, "service_normalized": 1}),
        ("name", "", "unnamed_operation", {"name_empty": 1}),
        ("name", "123", "unnamed_operation", {"name_invalid": 1}),
        ("name", "a b", "a_b", {"name_normalized": 1}),
        ("name", "n" * 101, "n" * 100, {"name_truncate": 1}),
        ("resource", "", "request", {"resource_empty": 1}),
        ("type", "t" * 101, "t" * 100, {"type_truncate": 1}),
        ("type", "t" * 99 + "é", "t" * 99, {"type_truncate": 1}),
        ("type", "é" * 50, "é" * 50, {}),
    ],
)
def test_texts_are_mended_and_counted(
    field: str, text: str, normal_text: str, reasons: dict[str, int]
) -> None:
    span, repairs = normal(**{field: text})
    assert getattr(span, field) == normal_text
    assert repairs == reasons


def test_a_resource_that_is_missing_is_the_normal_name() -> None:
    span, _ = normal(resource="", name="a b")
    assert span.resource == "a_b"


@pytest.mark.parametrize(
    ("start", "duration", "normal_times", "reason"),
    [
        (YEAR_2000_NS, 5, (YEAR_2000_NS, 5), None),
        (YEAR_2000_NS - 1, 5, (NOW_NS - 5, 5), "invalid_start_date"),
        (0, 0, (NOW_NS, 0), "invalid_start_date"),
        (-5, NOW_NS + 1, (NOW_NS, NOW_NS + 1), "invalid_start_date"),
        (I64_MAX - 5, 5, (I64_MAX - 5, 5), None),
        (I64_MAX - 5, 6, (I64_MAX - 5, 0), "invalid_duration"),
    ],
)
def test_times_are_made_possible(
    start: int, duration: int, normal_times: tuple[int, int], reason: str | None
) -> None:
    span, repairs = normal(start=start, duration=duration)
    assert (span.start, span.duration) == normal_times
    assert repairs == ({reason: 1} if reason else {})


def test_a_span_that_is_its_own_parent_and_trace_is_a_root() -> None:
    span, repairs = normal(trace_id=7, span_id=7, parent_id=7)
    assert span.parent_id == 0
    assert repairs == {"parent_id": 1}


@pytest.mark.parametrize(
    ("env", "normal_env"), [("Prod EU", "prod_eu"), ("--", ""), ("prod", "prod"), ("", "")]
)
def test_an_env_is_a_tag(env: str, normal_env: str) -> None:
    span, repairs = normal(meta={"env": env})
    assert span.get_meta("env") == normal_env
    assert repairs == ({} if env == normal_env else {"env_normalized": 1})


@pytest.mark.parametrize("code", ["100", "599", "+200", "0200"])
def test_a_status_code_stays(code: str) -> None:
    span, repairs = normal(meta={"http.status_code": code})
    assert span.get_meta("http.status_code") == code
    assert repairs == {}


@pytest.mark.parametrize("code", ["", "99", "600", "-200", " 200", "2e2", "٢٠٠", "++200", "0"])
def test_what_is_no_status_code_is_removed(code: str) -> None:
    span, repairs = normal(meta={"http.status_code": code})
    assert not span.has_meta("http.status_code")
    assert repairs == {"invalid_http_status_code": 1}


def test_spans_that_cannot_be_used_are_left_out_alone() -> None:
    kept, findings = normalize(
        make_span(trace_id=0), make_span(span_id=3), make_span(span_id=0), make_span(span_id=4)
    )
    assert [span.span_id for span in kept] == [3, 4]
    assert findings.left_out == {"trace_id_zero": 1, "span_id_zero": 1}
    assert findings.repairs == {}


def test_spans_of_another_trace_become_a_chunk_of_their_own() -> None:
    findings = Findings()
    arrived = chunk_of(
        *(make_span(trace_id=trace, span_id=span) for trace, span in ((1, 2), (9, 3), (1, 4)))
    )
    arrived.priority, arrived.origin, arrived.tags = 2, "rum", {"a": "b"}
    chunks = Normalizer(HandClock(NOW_NS).wall_ns).normalize(arrived, findings)
    assert [[span.span_id for span in chunk] for chunk in chunks] == [[2, 4], [3]]
    assert all((each.priority, each.origin, each.tags) == (2, "rum", {"a": "b"}) for each in chunks)
    assert (findings.left_out, findings.repairs) == ({}, {"foreign_span": 1})


def test_a_trace_of_nothing_usable_is_nothing() -> None:
    kept, findings = normalize(make_span(trace_id=0))
    assert kept == []
    assert findings.left_out == {"trace_id_zero": 1}


def test_more_names_than_are_remembered_are_normalized_too() -> None:
    findings = Findings()
    normalizer = Normalizer(HandClock(NOW_NS).wall_ns)
    for number in range(2 * REMEMBERED_MAX + 10):
        [[span]] = normalizer.normalize(chunk_of(make_span(service=f"Web {number}")), findings)
        assert span.service == f"web_{number}"
    assert findings.repairs == {"service_normalized": 2 * REMEMBERED_MAX + 10}


def cut(span: Span) -> tuple[Span, dict[str, int]]:
    """The span when it was cut, and what was counted."""
    findings = Findings()
    chunk = chunk_of(span)
    truncate(chunk, findings)
    return chunk.root, findings.repairs


def test_a_span_of_a_size_is_not_cut() -> None:
    span = make_span(resource="r" * 5000, meta={"k" * 200: "v" * 25_000})
    span.set_metric("m" * 200, 1.0)
    span, repairs = cut(span)
    assert repairs == {}
    assert span.resource == "r" * 5000


def test_a_long_resource_is_cut_between_characters() -> None:
    span = make_span(resource="r" * 4999 + "é")
    span, repairs = cut(span)
    assert repairs == {"resource_truncate": 1}
    assert span.resource == "r" * 4999


def test_long_tags_are_cut_and_marked() -> None:
    span = make_span(meta={"k" * 201: "short", "long": "v" * 25_001, "b" * 201: "w" * 25_001})
    span.set_metric("m" * 201, 2.0)
    span, repairs = cut(span)
    assert repairs == {"meta_key_truncate": 1, "meta_value_truncate": 1, "metric_key_truncate": 1}
    assert dict(span.meta_items()) == {
        "k" * 200 + "...": "short",
        "long": "v" * 25_000 + "...",
        "b" * 200 + "...": "w" * 25_000 + "...",
    }
    assert dict(span.metric_items()) == {"m" * 200 + "...": 2.0}


@pytest.mark.parametrize("key", ["_dd.appsec.json", "_dd.a.msgpack", "_dd.b.protobuf"])
def test_documents_in_tags_are_left_whole(key: str) -> None:
    span = make_span(meta={key: "v" * 30_000})
    span, repairs = cut(span)
    assert repairs == {}
    assert span.get_meta(key) == "v" * 30_000
