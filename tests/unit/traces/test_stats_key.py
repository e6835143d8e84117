"""traces.stats_key: which spans are counted, and what tells their groups apart."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import pytest

from mini_agent.traces import stats_key as keys
from mini_agent.traces.span import Span
from mini_agent.traces.stats_key import is_counted, is_top_level, stats_key

if TYPE_CHECKING:
    from mini_agent.traces.stats_key import StatsKey


def make_span(meta: dict[str, str] | None = None, metrics: dict[str, float] | None = None) -> Span:
    span = Span()
    span.service, span.name, span.resource, span.type = "shop", "web.request", "GET /", "web"
    span.parent_id = 7
    for key, value in (meta or {}).items():
        span.set_meta(key, value)
    for name, number in (metrics or {}).items():
        span.set_metric(name, number)
    return span


def key_of_span(span: Span) -> StatsKey:
    return stats_key(span, span.meta, span.metrics)


def key_of(meta: dict[str, str] | None = None, **metrics: float) -> StatsKey:
    numbers = {name.replace("__", "."): number for name, number in metrics.items()}
    return key_of_span(make_span(meta, numbers))


@pytest.mark.parametrize(
    ("metrics", "expected"),
    [
        ({}, False),
        ({"_top_level": 1.0}, True),
        ({"_dd.top_level": 1.0}, True),
        ({"_dd.top_level": 2.0, "_top_level": 0.0}, False),
    ],
)
def test_top_level_is_one_and_nothing_else(metrics: dict[str, float], expected: bool) -> None:
    assert is_top_level(metrics) is expected


@pytest.mark.parametrize(
    ("meta", "metrics", "counted"),
    [
        ({}, {}, False),
        ({}, {"_dd.measured": 1.0}, True),
        ({}, {"_dd.measured": 0.0}, False),
        ({"span.kind": "client"}, {}, True),
        ({"span.kind": "SERVER"}, {}, True),
        ({"span.kind": "Producer"}, {}, True),
        ({"span.kind": "internal"}, {"_dd.measured": 1.0, "_dd.partial_version": 1.0}, False),
        ({"span.kind": "consumer"}, {"_dd.partial_version": -1.0}, True),
        ({"span.kind": "consumer"}, {"_dd.partial_version": 0.0}, False),
        ({"span.kind": "internal"}, {}, False),
        ({"span.kind": "ürgend"}, {}, False),
    ],
)
def test_only_spans_that_say_something_are_counted(
    meta: dict[str, str], metrics: dict[str, float], counted: bool
) -> None:
    assert is_counted(meta, metrics, top_level=False) is counted


@pytest.mark.parametrize(("version", "counted"), [(-1.0, True), (0.0, False), (2.0, False)])
def test_entries_are_counted_unless_they_go_on(version: float, counted: bool) -> None:
    assert is_counted({}, {"_dd.partial_version": version}, top_level=True) is counted


def test_a_key_holds_the_texts_as_sent() -> None:
    key = key_of({"span.kind": "Server", "http.method": "GET", "_dd.svc_src": "m"})
    assert key[: keys.HTTP_STATUS] == (
        b"GET /",
        b"shop",
        b"web.request",
        b"web",
        b"Server",
        b"GET",
        b"",
        b"m",
    )
    assert key[keys.IS_ROOT] == keys.ROOT_FALSE
    assert key[keys.SYNTHETICS] is False


def test_the_root_of_a_trace_is_told_apart() -> None:
    span = make_span()
    span.parent_id = 0
    key = key_of_span(span)
    assert key[keys.IS_ROOT] == keys.ROOT_TRUE


def test_the_endpoint_comes_before_the_route_even_when_empty() -> None:
    assert key_of({"http.route": "/r"})[keys.HTTP_ENDPOINT] == b"/r"
    assert key_of({"http.route": "/r", "http.endpoint": "/e"})[keys.HTTP_ENDPOINT] == b"/e"
    assert key_of({"http.route": "/r", "http.endpoint": ""})[keys.HTTP_ENDPOINT] == b""


@pytest.mark.parametrize(
    ("text", "status"),
    [("200", 200), ("+404", 404), ("00200", 200), ("4294967295", 4294967295)],
)
def test_a_status_in_text_is_read(text: str, status: int) -> None:
    assert key_of({"http.status_code": text})[keys.HTTP_STATUS] == status


@pytest.mark.parametrize(
    "text", ["", "4294967296", "-1", "2xx", " 200", "2_00", "9" * 5000, "²", "٢٠٠"]
)
def test_a_status_that_is_none_counts_as_zero(text: str) -> None:
    assert key_of({"http.status_code": text})[keys.HTTP_STATUS] == 0


@pytest.mark.parametrize(
    ("number", "status"),
    [(404.0, 404), (200.9, 200), (-5.0, 0), (math.nan, 0), (math.inf, 4294967295), (0.0, 0)],
)
def test_a_numeric_status_comes_first(number: float, status: int) -> None:
    assert key_of({"http.status_code": "500"}, http__status_code=number)[keys.HTTP_STATUS] == status


@pytest.mark.parametrize(
    ("meta", "metrics", "code"),
    [
        ({}, {}, b""),
        ({"rpc.grpc.status_code": "13"}, {}, b"13"),
        ({"grpc.code": "StatusCode.StatusCode.NotFound"}, {}, b"5"),
        ({"rpc.grpc.status.code": "DEADLINE_EXCEEDED"}, {}, b"4"),
        ({"grpc.status.code": "cancelled"}, {}, b"1"),
        ({"grpc.status.code": "CANCELED"}, {}, b"1"),
        ({"grpc.code": "ok"}, {}, b"0"),
        ({"grpc.code": "unauthenticated"}, {}, b"16"),
        ({"grpc.code": "256", "grpc.status.code": "7"}, {}, b"7"),
        ({"grpc.code": "data_lo\u017f\u017f"}, {}, b""),
        ({"grpc.code": "nonsense"}, {"rpc.grpc.status_code": 3.0}, b"3"),
        ({}, {"grpc.code": 2.5, "grpc.status.code": 8.0}, b"8"),
        ({}, {"grpc.code": -1.0}, b""),
        ({}, {"grpc.code": math.nan}, b""),
        ({}, {"grpc.code": 0.0}, b"0"),
    ],
)
def test_a_grpc_status_is_read_however_it_is_said(
    meta: dict[str, str], metrics: dict[str, float], code: bytes
) -> None:
    key = key_of_span(make_span(meta, metrics))
    assert key[keys.GRPC_STATUS] == code


def test_synthetics_are_told_apart() -> None:
    assert key_of({"_dd.origin": "synthetics-browser"})[keys.SYNTHETICS] is True
    assert key_of({"_dd.origin": "lambda"})[keys.SYNTHETICS] is False


PEERS = {"peer.service": "db,10.0.0.1", "_dd.base_service": "shop", "out.host": "", "x": "y"}


@pytest.mark.parametrize("kind", ["client", "Producer", "CONSUMER"])
def test_who_calls_has_peer_tags_in_order_without_addresses(kind: str) -> None:
    assert key_of({**PEERS, "span.kind": kind})[keys.PEER] == (
        b"_dd.base_service:shop",
        b"out.host",
        b"peer.service:db,blocked-ip-address",
    )


@pytest.mark.parametrize("kind", ["server", "internal", ""])
def test_others_have_their_base_service_alone_and_as_it_is(kind: str) -> None:
    meta = {**PEERS, "span.kind": kind, "_dd.base_service": "10.0.0.1"}
    assert key_of(meta)[keys.PEER] == (b"_dd.base_service:10.0.0.1",)
    assert key_of({"span.kind": kind, "peer.service": "db"})[keys.PEER] == ()


def test_more_hosts_than_are_remembered_are_still_quantized() -> None:
    for number in range(3000):
        meta = {"span.kind": "client", "out.host": f"10.{number >> 8}.{number & 255}.1:{number}"}
        assert key_of(meta)[keys.PEER] == (b"out.host:blocked-ip-address:%d" % number,)


class Watched(dict[str, Any]):
    """Tags that note which of them are looked at by name."""

    def __init__(self, tags: dict[str, Any]) -> None:
        super().__init__(tags)
        self.asked: set[str] = set()

    def get(self, key: str, default: Any = None) -> Any:
        self.asked.add(key)
        return super().get(key, default)

    def __contains__(self, key: object) -> bool:
        assert isinstance(key, str)
        self.asked.add(key)
        return super().__contains__(key)

    def __getitem__(self, key: str) -> Any:
        self.asked.add(key)
        return super().__getitem__(key)


@pytest.mark.parametrize("kind", ["client", "internal"])
def test_no_tag_is_looked_at_that_is_not_named(kind: str) -> None:
    """Answers are remembered by the tags that are named, so a tag beside them would be ignored."""
    tags = {"span.kind": kind, "peer.service": "p", "_dd.base_service": "b", "x": "y"}
    meta, metrics = Watched(tags), Watched({})
    for top_level in (is_top_level(metrics), True):
        is_counted(meta, metrics, top_level)
    assert meta.asked == set(keys.COUNTED_BY_META)
    assert metrics.asked == set(keys.COUNTED_BY_METRICS)
    meta, metrics = Watched(tags), Watched({})
    stats_key(make_span(), meta, metrics)
    assert {"http.route"} <= meta.asked <= set(keys.KEY_META)
    assert metrics.asked == set(keys.KEY_METRICS)


def test_a_key_is_known_again_and_no_other_is_given_for_it() -> None:
    known = keys.KnownKeys()
    spans = [
        make_span(meta, metrics)
        for meta in ({}, {"http.route": "/a"}, {"http.endpoint": "/a"}, {"x": "/a"}, {"y": ""})
        for metrics in ({}, {"http.status_code": 200.0}, {"grpc.code": 2.0}, {"x": 1.0})
    ]
    for field in ("service", "name", "resource", "type", "parent_id"):
        spans.append(make_span())
        setattr(spans[-1], field, 0 if field == "parent_id" else "another")
    for span in (*spans, *spans):
        assert known.key_of(span, span.meta, span.metrics) == key_of_span(span)
    span = make_span()
    assert known.key_of(span, {}, {}) is known.key_of(span, {"y": ""}, {})


def test_more_shapes_and_keys_than_are_remembered_have_keys() -> None:
    known = keys.KnownKeys()
    span = make_span()
    for number in range(25_000):
        meta = {f"tag {number // 9}": "", "http.route": f"/{number}"}
        assert known.key_of(span, meta, {})[keys.HTTP_ENDPOINT] == b"/%d" % number
    long = {"http.route": "/" * 9000}
    assert known.key_of(span, long, {}) == known.key_of(span, long, {})
    assert known.key_of(span, long, {}) is not known.key_of(span, long, {})
