"""The express lane, and in the plain twin msgspec's, give for whatever comes what the lenient
decoder gives: the same bytes kept, the same answer, the same books, the same stats."""

from __future__ import annotations

import gc
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kit.chunks import drain
from kit.payloads import (
    BROKEN_TEXT,
    MISSING,
    as_array,
    encode,
    make_payload,
    make_span,
    make_traces,
    raw,
)
from kit.twins import SETTINGS, Side, assert_same, lenient_decoder, plain_decoder

from mini_agent import twins
from mini_agent.traces import decode
from mini_agent.traces.lenient import Findings

only_compiled = pytest.mark.skipif(
    twins.running() == twins.PLAIN, reason="nothing is compiled here: there is one twin"
)

CORPUS = Path(__file__).resolve().parents[2] / "corpus"


def is_express(body: bytes) -> bool:
    """Whether all traces of a body are in order."""
    return all(
        not isinstance(chunk, decode.TraceChunk)
        for chunk in drain(decode.decode_v04(body, Findings()))
    )


ODD_TEXTS = (
    *("", "a", "Upper Case", "é", "日本語" * 40, "\U0001f600", "x" * 31, "x" * 32, "x" * 255),
    *("x" * 256, "x" * 5001, "y" * 25_001, "z" * 65_536, "4111111111111111", "4111 1111 1111 1111"),
    *("--", "1a", "http://u:p@h/x?y=1#z", "https://h:80/a/b?c=d", "http://h:x/", "http:///"),
    *("HTTP://H/", "/path/1?q", "200", "600", "+200", "GET a\nSET b c", "health", "\x00\x7f"),
    *("select * from t where a = 'x' and b in (1, 2)", "prod", "_dd.x", "synthetics-browser"),
)
KEYS = (
    *("env", "version", "_dd.hostname", "runtime-id", "http.status_code", "http.url", "db.type"),
    *("sql.query", "db.statement", "db.query.text", "span.kind", "http.method", "http.route"),
    *("http.endpoint", "_dd.origin", "_dd.base_service", "out.host", "peer.service", "grpc.code"),
    *("redis.raw_command", "error.stack", "origin", "aas.site.name", "k" * 200, "k" * 201, "é"),
    *("", "a", "card", "_dd.json" * 3, "_dd.a.json"),
)
METRICS = (
    *("_sampling_priority_v1", "_dd.top_level", "_top_level", "_dd.measured", "a", "é"),
    *("_dd.partial_version", "http.status_code", "grpc.code", "m" * 201),
)
NUMBERS = (0, 1, -1, 127, 128, 255, 256, 65_535, 65_536, 2**31, 2**32, 2**63 - 1, 2**63, 2**64 - 1)
NUMBERS = (*NUMBERS, -32, -33, -128, -129, -(2**15) - 1, -(2**31), -(2**63))

texts = st.sampled_from(ODD_TEXTS) | st.text(max_size=20)
numbers = st.sampled_from(NUMBERS) | st.integers(-(2**63), 2**64 - 1)
floats = st.floats() | st.integers(-5, 700) | numbers
meta = st.dictionaries(st.sampled_from(KEYS) | st.text(max_size=6), texts, max_size=20)
metrics = st.dictionaries(st.sampled_from(METRICS) | st.text(max_size=6), floats, max_size=8)
types = st.sampled_from(
    ("web", "http", "sql", "cassandra", "redis", "valkey", "memcached", "mongodb", "", "é" * 30)
)
small_ids = st.integers(0, 4)
event = st.fixed_dictionaries(
    {"name": texts, "time_unix_nano": numbers, "attributes": st.dictionaries(texts, texts)}
)
link = st.fixed_dictionaries({"trace_id": numbers, "span_id": numbers, "tracestate": texts})
sound = st.fixed_dictionaries(
    {},
    optional={
        "service": texts,
        "name": texts,
        "resource": texts,
        "type": types,
        "trace_id": st.integers(0, 2),
        "span_id": small_ids,
        "parent_id": small_ids,
        "start": numbers,
        "duration": numbers,
        "error": st.integers(-(2**31), 2**31 - 1),
        "meta": meta,
        "metrics": metrics,
        "meta_struct": st.dictionaries(texts, st.binary(max_size=5), max_size=2),
        "span_links": st.lists(link, max_size=2),
        "span_events": st.lists(event, max_size=2),
        "unknown": texts,
    },
)
odd = st.recursive(
    st.none()
    | st.booleans()
    | numbers
    | st.floats()
    | texts
    | st.binary(max_size=5)
    # A text of our own for a value that msgspec would not write.
    | st.just(BROKEN_TEXT)
    | st.just(raw(b"\xc1"))
    | st.just(raw(b"\xd9\x01")),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=6,
)


def spans_of(traces: list[list[dict[str, Any]]]) -> bytes:
    return encode([[make_span(**{"parent_id": 0, **span}) for span in trace] for trace in traces])


@settings(deadline=None, max_examples=300)
@given(st.lists(st.lists(sound, min_size=1, max_size=5), max_size=4), st.booleans())
def test_spans_with_odd_values_become_the_same(
    traces: list[list[dict[str, Any]]], computed_top_level: bool
) -> None:
    headers = {"datadog_client_computed_top_level": "1"} if computed_top_level else {}
    assert_same(spans_of(traces), **headers)


@settings(deadline=None, max_examples=300)
@given(
    st.dictionaries(st.sampled_from(["service", "meta", "metrics", "start", "meta_struct"]), odd),
    st.dictionaries(st.sampled_from(["span_links", "span_events", "error", "duration"]), odd),
    st.dictionaries(st.text(max_size=4), odd, max_size=3),
)
def test_fields_of_wrong_types_become_the_same(
    fields: dict[str, Any], more: dict[str, Any], tags: dict[str, Any]
) -> None:
    odd_span = {**make_span(), **fields, **more}
    tagged = make_span(meta={"a": "b", **tags}, metrics={"a": 1, **tags})
    assert_same(encode([[make_span(), odd_span], [tagged], [make_span()]]))


@settings(deadline=None, max_examples=400)
@given(st.integers(0, 10_000), st.integers(0, 255), st.integers(0, 10_000), st.booleans())
def test_damaged_bodies_become_the_same(place: int, octet: int, size: int, cuts: bool) -> None:
    body = bytearray(EXAMPLE)
    body[place % len(body)] = octet
    if cuts:
        del body[size % len(body) :]
    assert_same(bytes(body))


EXAMPLE = encode(
    [
        [
            make_span(
                meta_struct={"appsec": b"\x81\x01\x02"},
                span_links=[{"trace_id": 1, "span_id": 2, "attributes": {"a": "b"}, "flags": 1}],
                span_events=[{"time_unix_nano": 1, "name": "e", "attributes": {"a": 1}}],
            ),
            make_span(type="sql", resource="select 1", meta={"db.type": "MSSQL"}),
        ],
        [make_span(error=-1, metrics={"a": 0.5, "b": 2**40, "c": -3})],
    ]
)


def as_v05(traces: list[list[dict[str, Any]]]) -> tuple[list[str], list[list[list[Any]]]]:
    """Spans as v0.5 sends them."""
    texts: dict[str, int] = {"": 0}

    def place(text: str) -> int:
        return texts.setdefault(text, len(texts))

    spans = [
        [
            [
                *(place(span[key]) for key in ("service", "name", "resource")),
                *(span[key] for key in ("trace_id", "span_id", "parent_id", "start")),
                *(span[key] for key in ("duration", "error")),
                {place(key): place(text) for key, text in span["meta"].items()},
                {place(key): number for key, number in span["metrics"].items()},
                place(span["type"]),
            ]
            for span in trace
        ]
        for trace in traces
    ]
    return list(texts), spans


@settings(deadline=None, max_examples=200)
@given(st.lists(st.lists(sound, min_size=1, max_size=5), max_size=4))
def test_v05_becomes_the_same(traces: list[list[dict[str, Any]]]) -> None:
    whole = [[make_span(**{"parent_id": 0, **span}) for span in trace] for trace in traces]
    assert_same(encode(as_v05(whole)), "v05")


@settings(deadline=None, max_examples=200)
@given(
    st.lists(odd, max_size=3),
    st.lists(odd | st.integers(0, 40), min_size=8, max_size=15),
    st.integers(0, 10_000),
    st.integers(0, 255),
)
def test_odd_v05_becomes_the_same(
    texts: list[Any], values: list[Any], place: int, octet: int
) -> None:
    sound_texts, spans = as_v05(make_traces(2, 2))
    assert_same(encode([sound_texts + texts, [*spans, [values], spans[0]]]), "v05")
    body = bytearray(encode([sound_texts, spans]))
    body[place % len(body)] = octet
    assert_same(bytes(body), "v05")


@settings(deadline=None, max_examples=100)
@given(st.lists(sound, min_size=1, max_size=3), st.integers(0, 10_000), st.integers(0, 255))
def test_v07_becomes_the_same(spans: list[dict[str, Any]], place: int, octet: int) -> None:
    whole = [make_span(**{"parent_id": 0, **span}) for span in spans]
    chunk = {"priority": 2, "origin": "rum", "spans": whole, "tags": {"a": "b"}}
    document = {"env": "prod", "chunks": [chunk, {"spans": whole, "dropped_trace": True}]}
    body = bytearray(encode(document))
    assert_same(bytes(body), "v07")
    body[place % len(body)] = octet
    assert_same(bytes(body), "v07")


@pytest.mark.parametrize("path", sorted(CORPUS.glob("*.msgpack")), ids=lambda path: path.stem)
def test_what_real_tracers_sent_becomes_the_same(path: Path) -> None:
    assert_same(path.read_bytes(), path.stem.partition("-")[0])


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\x90",
        b"\x91",
        b"\x91\x90",
        b"\x91\x91\x80",
        b"\x91\x91\xc0",
        b"\xdd\xff\xff\xff\xff",
        b"\x91\xdd\x00\x01\x86\xa1" + b"\x80" * 100_001,
        b"\x91\xdd\x00\x01\x86\xa0" + b"\x80" * 100_000,
        encode([[as_array(make_span())]]),
        encode([[make_span(meta=raw(b"\x82\xa1a\xa1b\xa1a\xa1c"))]]),
        encode([[make_span(meta=raw(b"\xdf\x00\x0f\x42\x41"))]]),
        encode([[make_span(meta_struct=5)]]),
        encode([[make_span(span_links={})]]),
        encode([[make_span(meta=MISSING, metrics=MISSING)]]),
        encode([[raw(b"\x83\xa4meta\x81\xa1a\xa1b\xa4meta\x81\xa1c\xa1d\xa7span_id\x05")]]),
        encode([[raw(b"\x82\xaaspan_links\x90\xaaspan_links\xc0")]]),
        encode([[make_span(**{"a" * 300: {"b": [1, 2.5, None, True, "x" * 300, b"y" * 300]}})]]),
    ],
    ids=lambda body: f"{len(body)}-{body[:6].hex()}",
)
def test_edges_become_the_same(body: bytes) -> None:
    assert_same(body)


def test_a_large_trace_becomes_the_same() -> None:
    random = Random(5)
    spans = [
        make_span(trace_id=7, span_id=random.randrange(1, 900), parent_id=random.randrange(900))
        for _ in range(1000)
    ]
    spans[500]["service"] = "Another Service"
    assert_same(encode([spans]))


# More than are read at a time, and what of the last of them is out of the ordinary.
LONG = 2500
LATE: dict[str, dict[str, Any]] = {
    "nothing": {},
    "a foreign span": {"trace_id": 8},
    "no id": {"span_id": 0},
    "to be mended": {"name": "", "resource": ""},
    "not in order": {"service": None},
    "no number": {"metrics": {"a": "1"}},
    "an event": {"span_events": [{"time_unix_nano": 1, "name": "e", "attributes": {"a": "b"}}]},
    "half an event": {"span_events": [{"name": 1}]},
    "cut off": {"resource": raw(b"\xdb\xff\xff\xff\xff")},
}


@pytest.mark.parametrize("late", LATE.values(), ids=LATE)
@pytest.mark.parametrize("has_events", [False, True])
def test_a_long_trace_becomes_the_same(late: dict[str, Any], has_events: bool) -> None:
    event = {"time_unix_nano": 1, "name": "e", "attributes": {"a": "4111111111111111"}}
    some = {"span_events": [event]} if has_events else {}
    count = LONG // 10 if has_events else LONG
    spans = [
        make_span(trace_id=7, span_id=n + 1, parent_id=n // 2, service=f"s{n % 3}", **some)
        for n in range(count)
    ]
    spans[-2].update(late)
    body = encode([spans, [make_span()]])
    express = Side().take(body)
    for way in (plain_decoder, lenient_decoder):
        with way():
            assert Side().take(body) == express


@pytest.mark.parametrize("root", [0, 4, 8])
def test_what_the_rules_leave_of_the_root_stands_for_the_trace(root: int) -> None:
    """The host's environment is written over that of the tracer, in every window."""
    spans = [
        make_span(trace_id=7, span_id=n + 1, parent_id=root + 1, meta={"env": f"e{n}"})
        for n in range(9)
    ]
    spans[root].update(parent_id=0, meta={"env": "of-the-root", "version": "2"})
    assert_same(encode([spans]))


def test_a_long_trace_of_v05_becomes_the_same() -> None:
    texts = ["", "web", "op", "GET /"]
    rows = [[1, 2, 3, 7, n + 1, n // 2, 9, 5, 0, {1: 2}, {2: 1.5}, 1] for n in range(LONG)]
    assert_same(encode([texts, [rows]]), "v05")
    rows[-1][0] = 4
    assert_same(encode([texts, [rows]]), "v05")


URL_PARTS = ("http://", "https://", "//", "/", "host", ":80", ":", "1", "a1", "?", "q=1", "é")
urls = st.lists(st.sampled_from((*URL_PARTS, "#", " ", "%31", "\x7f", "u@")), max_size=9)


@settings(deadline=None, max_examples=300)
@given(st.lists(urls.map("".join), max_size=5))
def test_urls_become_the_same(several: list[str]) -> None:
    assert_same(spans_of([[{"type": "web", "meta": {"http.url": url}} for url in several]]))


@settings(deadline=None, max_examples=50)
@given(st.lists(st.text("sé1'? ", max_size=12), min_size=1, max_size=5))
def test_what_comes_again_becomes_the_same_again(resources: list[str]) -> None:
    made = [
        {"type": kind, "resource": resource or "-", "meta": {"db.statement": resource}}
        for kind in ("sql", "redis")
        for resource in resources
    ]
    body = spans_of([made])
    side = Side(**SETTINGS["values hidden"])
    answer, kept, *_ = side.take(body)
    for _ in range(3):
        # The queries are looked up by then.
        assert side.take(body)[:2] == (answer, kept)


@only_compiled
def test_usual_spans_take_the_express_lane() -> None:
    assert is_express(make_payload(3, 5))
    assert is_express(EXAMPLE)
    for path in CORPUS.glob("v04-*.msgpack"):
        assert is_express(path.read_bytes()), path.name


@only_compiled
def test_memory_holds_no_more_texts_than_it_may() -> None:
    side = Side()
    for _ in range(30):
        side.take(encode([[make_span(service=f"s{i}", name=f"n{i}")] for i in range(300)]))
    gc.collect()
    before = len(gc.get_objects())
    for start in range(300, 9300, 300):
        names = range(start, start + 300)
        side.take(encode([[make_span(service=f"s{i}", name=f"n{i}")] for i in names]))
    gc.collect()
    assert len(gc.get_objects()) < before + 1000


@only_compiled
def test_a_view_of_a_span_outlives_its_chunk() -> None:
    [chunk] = drain(decode.decode_v04(encode(make_traces(1, 3)), Findings()))
    spans = chunk.spans
    del chunk
    spans[1].set_meta("a", "b" * 1000)
    spans[1].service = "other"
    assert spans[1].get_meta("a") == "b" * 1000
    assert [span.service for span in spans] == ["checkout-api", "other", "checkout-api"]


@only_compiled
def test_a_span_may_be_given_many_tags() -> None:
    [chunk] = drain(decode.decode_v04(encode(make_traces(1, 2)), Findings()))
    first, second = chunk.spans
    for number in range(300):
        first.set_meta(f"key-{number}", str(number))
        second.set_metric(f"key-{number}", number)
    assert dict(first.meta_items())["key-299"] == "299"
    for number in range(0, 300, 2):
        first.remove_meta(f"key-{number}")
        second.remove_metric(f"key-{number}")
    assert first.get_meta("key-298") is None
    assert first.get_meta("key-299") == "299"
    assert second.get_metric("key-151") == 151.0
    assert first.get_meta("http.method") == "GET"
    assert len(list(second.metric_items())) == 150 + 3


@only_compiled
def test_a_span_of_very_many_tags_is_left_to_the_plain_decoder() -> None:
    """Where keys are looked for one by one, the time for many would grow with their square."""
    tags = {f"key-{number}": "v" for number in range(256)}
    assert is_express(encode([[make_span(meta=tags)]]))
    assert not is_express(encode([[make_span(meta={**tags, "one": "more"})]]))
