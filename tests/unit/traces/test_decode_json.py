from __future__ import annotations

import contextlib
import json
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kit.payloads import encode, make_span, make_traces

from mini_agent.errors import DecodeError, ProtocolError
from mini_agent.traces import decode_json as module
from mini_agent.traces.decode import decode_v04
from mini_agent.traces.decode_json import JSON_BYTES_MAX, decode_json, is_json
from mini_agent.traces.lenient import I64_MIN, U64_MAX, Findings
from mini_agent.traces.span import Span, TraceChunk

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Decode = Callable[[bytes, Findings], Iterator[TraceChunk | None]]


def decode(document: Any) -> tuple[list[TraceChunk], Findings]:
    findings = Findings()
    body = document if isinstance(document, bytes) else json.dumps(document).encode()
    return [chunk for chunk in decode_json(body, findings) if chunk is not None], findings


def fields(span: Span) -> dict[str, Any]:
    plain = set(Span.__slots__) - {"meta", "metrics"}
    tags = {"meta": dict(span.meta_items()), "metrics": dict(span.metric_items())}
    return {**tags, **{name: getattr(span, name) for name in plain}}


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b"[]", True),
        (b" \r\n\t[[", True),
        (b"{}", True),
        (b"", False),
        (b"\x90", False),
        (encode(make_traces(1, 1)), False),
        (b"\xdc\x00\x10[", False),
        (b"null", False),
    ],
)
def test_json_is_known_by_its_first_byte(body: bytes, expected: bool) -> None:
    assert is_json(body) is expected


def test_a_payload_says_the_same_as_in_messagepack() -> None:
    traces = make_traces(3, 2, error=1)
    written, _ = decode(traces)
    plain = [chunk for chunk in decode_v04(encode(traces), Findings()) if chunk is not None]
    assert [list(map(fields, trace)) for trace in written] == [
        list(map(fields, trace)) for trace in plain
    ]


def test_ids_have_64_bits() -> None:
    [[span]], _ = decode([[make_span(trace_id=2**64 - 1, start=-(2**63))]])
    assert (span.trace_id, span.start) == (2**64 - 1, -(2**63))


@pytest.mark.parametrize("number", [2**64, -(2**63) - 1, "long", 1.5, "7", True])
def test_a_span_that_cannot_be_read_is_dropped_alone(number: Any) -> None:
    # More digits than Python writes by itself.
    trace_id = "1" + "0" * 5000 if number == "long" else json.dumps(number)
    odd = '{"trace_id": ' + trace_id + "}"
    [[span]], findings = decode(f"[[{odd}, {json.dumps(make_span())}]]".encode())
    assert span.service == "checkout-api"
    assert findings.dropped == 1


def test_text_that_is_not_utf8_is_mended() -> None:
    [[span]], findings = decode(b'[[{"service": "a\xff"}]]')
    assert span.service == "a\ufffd"
    assert findings.request_repairs == {"invalid_utf8"}


@pytest.mark.parametrize(
    "body",
    [
        b"[",
        b"{}",
        b"[{}]",
        b"[[7]]",
        b"[NaN]",
        b"[[]] more",
        b'[["\\ud800"]]',
        b"[" * 100_000,
        b"[" * 900 + b"]" * 900,
    ],
)
def test_what_is_no_payload_is_refused(body: bytes) -> None:
    with pytest.raises(DecodeError) as caught:
        decode(body)
    assert caught.value.status == 400


def test_json_has_a_limit_of_its_own() -> None:
    with pytest.raises(ProtocolError) as caught:
        decode(b"[" + b" " * JSON_BYTES_MAX + b"]")
    assert (caught.value.status, caught.value.reason) == (413, "json_too_large")


@settings(deadline=None)
@given(st.text(alphabet='[]{}",:0123456789eE+-.ntfaulrse\\u ', max_size=60))
def test_any_text_is_read_or_refused(text: str) -> None:
    with contextlib.suppress(DecodeError):
        decode(text.encode())


# In steps, and as if in one


def read_whole(body: bytes, findings: Findings) -> Iterator[TraceChunk | None]:
    """What `decode_json` says, from a document that is read in one go."""

    def read_int(digits: str) -> int | float:
        number = int(digits) if len(digits) <= 20 else float(digits)
        return number if I64_MIN <= number <= U64_MAX else float(digits)

    def refuse(constant: str) -> None:
        raise ValueError

    try:
        text = body.decode()
    except UnicodeDecodeError:
        findings.request_repairs.add("invalid_utf8")
        text = body.decode("utf-8", "replace")
    try:
        document = json.loads(text, parse_int=read_int, parse_constant=refuse)
        packed = msgspec.msgpack.encode(document)
    except json.JSONDecodeError as fault:
        raise DecodeError("this is not JSON", fault.pos) from None
    except UnicodeEncodeError:
        raise DecodeError("half a surrogate pair is no character", 0) from None
    except ValueError:
        raise DecodeError("NaN and Infinity are not JSON", 0) from None
    yield from decode_v04(packed, findings)


def outcome(decode: Decode, body: bytes) -> Any:
    """Everything that decoding a body says."""
    findings = Findings()
    traces: list[Any] = []
    refusal = None
    try:
        traces = [list(map(fields, chunk)) for chunk in decode(body, findings) if chunk is not None]
    except ProtocolError as fault:
        refusal = type(fault), str(fault), fault.status, fault.reason
    found = {name: getattr(findings, name) for name in Findings.__slots__}
    found["first_fault"] = str(found["first_fault"])
    return repr(traces), refusal, found


@contextlib.contextmanager
def shortest_steps() -> Iterator[None]:
    """A small document is read as a large one is; pieces are as short as a character can be."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_CHARACTERS_A_STEP", 1)
        patch.setattr(module, "_BYTES_A_STEP", 4)
        patch.setattr(module, "_FEW_BLANKS", 1)
        yield


def joined(*parts: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.tuples(*parts).map("".join)


def arrays(items: st.SearchStrategy[str], most: int = 3) -> st.SearchStrategy[str]:
    row = st.lists(joined(BLANKS, items, BLANKS), max_size=most).map(",".join)
    return joined(st.just("["), BLANKS, row, st.just("]"))


def objects(items: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    member = joined(BLANKS, st.sampled_from(KEYS), BLANKS, st.just(":"), BLANKS, items, BLANKS)
    return st.lists(member, max_size=3).map(lambda members: "{" + ",".join(members) + "}")


BLANKS = st.text(" \t\n\r", max_size=3)
KEYS = ['"name"', '"service"', '"meta"', '"metrics"', '"trace_id"', '"\\u0061"', '"span_links"']
WORDS = st.sampled_from(
    [
        *(
            '""',
            '"a, ]["',
            '"\\"\\\\"',
            '"\u00e9"',
            '"\U0001f600"',
            '"\\ud83d\\ude00"',
            '"\\ud800"',
        ),
        *("0", "-0", "12", "-1.5e3", "1e999", "18446744073709551616", "1" * 30),
        *("true", "null", "NaN", "-Infinity"),
    ]
)
SPANS = st.builds(lambda: json.dumps(make_span(trace_id=1, span_id=2, resource="GET /")))
ANYTHING = st.recursive(WORDS, lambda inner: arrays(inner) | objects(inner), max_leaves=6)
DOCUMENTS = joined(
    BLANKS, arrays(arrays(SPANS | objects(ANYTHING), 20), 20) | arrays(ANYTHING) | ANYTHING, BLANKS
)
# Where, how many bytes are taken out, and what comes there.
ODD_BYTES = [
    *(bytes([byte]) for byte in b'[]{}",:0-.e\\ \n\xff\xc3\xf0'),
    b",]",
    b"\xef\xbb\xbf",
    b"",
]
CHANGES = st.lists(
    st.tuples(st.integers(0, 2000), st.integers(0, 3), st.sampled_from(ODD_BYTES)), max_size=3
)


@settings(deadline=None)
@given(DOCUMENTS, CHANGES)
def test_a_document_in_steps_says_what_it_says_whole(
    text: str, changes: list[tuple[int, int, bytes]]
) -> None:
    body = text.encode()
    for place, removed, added in changes:
        at = place % (len(body) + 1)
        body = body[:at] + added + body[at + removed :]
    expected = outcome(read_whole, body)
    assert outcome(decode_json, body) == expected
    with shortest_steps():
        assert outcome(decode_json, body) == expected


@pytest.mark.parametrize(
    "body",
    [
        *(
            b"",
            b" ",
            b"[",
            b"[[",
            b"[[]",
            b"[[],",
            b"[[] ,]",
            b"[[1 , ]]",
            b"[,]",
            b"[[,]]",
            b"[]]",
        ),
        *(b"[[] []]", b"[[1 2]]", b"[[] x]", b"[]  x", b'{"a": 1}', b'{"a": 1,}', b"[{}, []]"),
        *(b"[[1}]", b"[[1]}", b"[[1,\xff]]", b"\xef\xbb\xbf[]", b"[[\x0b]]", b"[[\xc2\xa0]]"),
        # What is no JSON comes before what cannot be packed, wherever it stands.
        *(b'[["\\ud800"], x]', b'[["\\ud800"], NaN]', b'[[NaN], "\\ud800"]', b"[[NaN], x]"),
        *(b"[" + b"[]," * count + b"[]]" for count in (14, 15, 65534, 65535)),
        *(b"[[" + b"0," * count + b"{}]]" for count in (14, 15, 65534, 65535)),
    ],
)
def test_a_fault_in_steps_is_the_one_of_the_whole(body: bytes) -> None:
    expected = outcome(read_whole, body)
    with shortest_steps():
        assert outcome(decode_json, body) == expected


@pytest.mark.parametrize(
    ("body", "least"),
    [
        (json.dumps(make_traces(1, 1500)), 20),
        (json.dumps(make_traces(1500, 1)), 20),
        (json.dumps(make_traces(1, 1500), indent=2), 20),
        ("[" + "[]," * 50_000 + "[]]", 100),
        ("[[" + "1," * 50_000 + "1]]", 100),
        # What is only put into characters and passed over goes on faster.
        ("[[" + " " * 1_000_000 + "]]", 6),
        ("[[" + "\ufffd" * 1_000_000 + "]]", 10),
    ],
    ids=["one trace", "many traces", "indented", "no spans", "numbers", "blanks", "no JSON"],
)
def test_a_long_document_is_put_into_messagepack_in_many_steps(
    body: str, least: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "decode_v04", lambda body, findings: iter(()))
    steps = 0
    with contextlib.suppress(DecodeError):
        for chunk in decode_json(body.encode(), Findings()):
            assert chunk is None
            steps += 1
    assert steps >= least


def test_a_short_document_is_read_in_one_step() -> None:
    [[_span]] = decode_json(json.dumps([[make_span()]]).encode(), Findings())
