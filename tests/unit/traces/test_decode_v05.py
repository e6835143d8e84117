from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kit.chunks import drain
from kit.payloads import BROKEN_TEXT, MENDED_TEXT, encode, make_traces, raw

from mini_agent.errors import DecodeError, ProtocolError
from mini_agent.traces.decode import decode_v04
from mini_agent.traces.decode_v05 import TEXTS_MAX, decode_v05
from mini_agent.traces.lenient import TEXT_BYTES_MAX, Findings
from mini_agent.traces.span import Span

CORPUS = Path(__file__).resolve().parents[2] / "corpus"
TEXTS = ["", "web", "request", "GET /", "custom", "env", "prod", "size"]
SLOTS: list[Any] = [1, 2, 3, 11, 12, 13, 14, 15, 1, {5: 6}, {7: 2.5}, 4]


def decode(body: bytes) -> tuple[list[list[Span]], Findings]:
    findings = Findings()
    return drain(decode_v05(body, findings)), findings


def body_of(*spans: Any, texts: Any = TEXTS) -> bytes:
    return encode([texts, [list(spans)]])


def slots(**changed: Any) -> list[Any]:
    """A span with other values in some slots, named `s` and the number."""
    return [changed.get(f"s{index}", value) for index, value in enumerate(SLOTS)]


def pack(traces: list[list[dict[str, Any]]]) -> bytes:
    """A v0.4 payload of plain spans as v0.5."""
    table: dict[str, int] = {"": 0}

    def at(text: str) -> int:
        return table.setdefault(text, len(table))

    packed = [
        [
            [
                *(at(span[key]) for key in ("service", "name", "resource")),
                *(span[key] for key in ("trace_id", "span_id", "parent_id")),
                *(span[key] for key in ("start", "duration", "error")),
                {at(key): at(value) for key, value in span["meta"].items()},
                {at(key): value for key, value in span["metrics"].items()},
                at(span["type"]),
            ]
            for span in trace
        ]
        for trace in traces
    ]
    return encode([list(table), packed])


def fields(span: Span) -> dict[str, Any]:
    plain = set(Span.__slots__) - {"meta", "metrics"}
    tags = {"meta": dict(span.meta_items()), "metrics": dict(span.metric_items())}
    return {**tags, **{name: getattr(span, name) for name in plain}}


def test_a_payload_says_the_same_as_in_v04() -> None:
    # Enough texts that indices have every width up to two bytes.
    traces = make_traces(200, 3)
    packed, _ = decode(pack(traces))
    plain = drain(decode_v04(encode(traces), Findings()))
    assert [list(map(fields, trace)) for trace in packed] == [
        list(map(fields, trace)) for trace in plain
    ]


def test_every_slot_has_its_place() -> None:
    [[span]], findings = decode(body_of(SLOTS))
    assert (span.service, span.name, span.resource, span.type) == (
        "web",
        "request",
        "GET /",
        "custom",
    )
    assert (span.trace_id, span.span_id, span.parent_id) == (11, 12, 13)
    assert (span.start, span.duration, span.error) == (14, 15, 1)
    assert dict(span.meta_items()) == {"env": "prod"}
    assert dict(span.metric_items()) == {"size": 2.5}
    assert (findings.spans, findings.dropped, findings.repairs) == (1, 0, {})


def test_further_slots_are_passed_over() -> None:
    [[first, second]], _ = decode(body_of([*SLOTS, {"a": [1]}, "b"], slots(s3=99)))
    assert (first.trace_id, second.trace_id) == (11, 99)


@pytest.mark.parametrize(
    "odd",
    [
        slots(s0=len(TEXTS)),
        slots(s0=1 << 40),
        slots(s0=-1),
        slots(s0="web"),
        slots(s3=-1),
        slots(s3="id"),
        slots(s6=1.5),
        slots(s8=True),
        slots(s9={5: 99}),
        slots(s9={"env": "prod"}),
        slots(s9=[5, 6]),
        slots(s10={99: 1}),
        slots(s11=None, s10=7),
        SLOTS[:11],
        [],
        None,
        7,
        {"service": 1},
    ],
)
def test_a_span_that_cannot_be_read_is_dropped_alone(odd: Any) -> None:
    [[kept]], findings = decode(body_of(odd, SLOTS))
    assert kept.service == "web"
    assert (findings.spans, findings.dropped) == (2, 1)
    assert "trace 0, span 0" in str(findings.first_fault)


def test_indices_may_have_any_width() -> None:
    wide = [
        raw(b"\xcd\x00\x01"),
        raw(b"\xce\x00\x00\x00\x02"),
        raw(b"\xcf\x00\x00\x00\x00\x00\x00\x00\x03"),
    ]
    odd = [*wide, *SLOTS[3:9], {}, {}, raw(b"\xd0\x04")]
    [[span]], _ = decode(body_of(odd))
    assert (span.service, span.name, span.resource) == ("web", "request", "GET /")
    assert span.type == "custom"


def test_metrics_of_a_wrong_type_are_left_out() -> None:
    [[span]], findings = decode(body_of(slots(s10={7: "x", 5: 1, 6: None})))
    assert dict(span.metric_items()) == {"env": 1.0}
    assert findings.repairs == {"metric_type": 1}


def test_a_duration_of_a_wrong_type_is_zero() -> None:
    [[span]], findings = decode(body_of(slots(s7="long")))
    assert (span.duration, span.error) == (0, 1)
    assert findings.repairs == {"duration": 1}


def test_texts_are_mended_and_what_is_no_text_is_empty() -> None:
    texts = ["", BROKEN_TEXT, 7, None, *TEXTS[4:]]
    [[span]], findings = decode(body_of(SLOTS, texts=texts))
    assert (span.service, span.name, span.resource) == (MENDED_TEXT, "", "")
    assert findings.request_repairs == {"invalid_utf8", "text_type"}
    assert findings.repairs == {}


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xc0",
        b"\x90",
        b"\x80",
        encode([TEXTS]),
        encode([TEXTS, [], []]),
        encode([TEXTS, None]),
        encode([TEXTS, [None]]),
        encode(["texts", []]),
        encode([TEXTS, [[7]]]),
        body_of(SLOTS)[:-1],
    ],
)
def test_what_is_no_payload_is_refused(body: bytes) -> None:
    with pytest.raises(DecodeError):
        decode(body)


def test_nothing_is_a_payload() -> None:
    assert decode(encode([[], []]))[0] == []
    assert decode(encode([None, [[], []]]))[1].empty_traces == 2


def test_a_table_has_a_limit() -> None:
    with pytest.raises(ProtocolError) as caught:
        decode(encode([[""] * (TEXTS_MAX + 1), []]))
    assert (caught.value.status, caught.value.reason) == (413, "too_many_texts")


def test_a_small_body_cannot_mean_an_endless_one() -> None:
    long = "x" * 1_000_000
    span = slots(s9=dict.fromkeys(range(2, 8), 1))
    with pytest.raises(ProtocolError) as caught:
        decode(body_of(*[span] * (TEXT_BYTES_MAX // 6_000_000 + 1), texts=["", long, *TEXTS[2:]]))
    assert (caught.value.status, caught.value.reason) == (413, "too_much_text")


EXAMPLE = pack(make_traces(2, 2, meta={"a": "b", "c": "d"}))


@settings(deadline=None, max_examples=300)
@given(
    st.lists(st.tuples(st.integers(0, len(EXAMPLE) - 1), st.integers(0, 255)), max_size=4),
    st.integers(0, len(EXAMPLE)),
    st.booleans(),
)
def test_a_damaged_body_is_read_or_refused(
    damage: list[tuple[int, int]], size: int, whole: bool
) -> None:
    body = bytearray(EXAMPLE)
    for index, value in damage:
        body[index] = value
    try:
        traces, findings = decode(bytes(body) if whole else bytes(body[:size]))
    except ProtocolError:
        return
    assert sum(map(len, traces)) + findings.dropped == findings.spans


@pytest.mark.parametrize("path", sorted(CORPUS.glob("v05-*.msgpack")), ids=lambda path: path.stem)
def test_what_real_tracers_sent_is_read_as_it_is(path: Path) -> None:
    traces, findings = decode(path.read_bytes())
    assert sum(map(len, traces)) == findings.spans > 10
    assert (findings.dropped, findings.repairs, findings.request_repairs) == (0, {}, set())
    for span in (span for trace in traces for span in trace):
        assert span.trace_id
        assert span.span_id
        assert span.service
        assert span.duration > 0
