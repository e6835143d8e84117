from __future__ import annotations

import math
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kit import protos

from mini_agent.errors import DecodeError
from mini_agent.wire import protobuf
from mini_agent.wire.protobuf import (
    FIXED32,
    FIXED64,
    LENGTH,
    VARINT,
    bytes_field,
    double_field,
    encode_text,
    integer_field,
    read_fields,
    read_varint,
    signed,
    tag,
    text_field,
    text_map_field,
    varint,
    varint_bytes,
    varints,
)

U64 = st.integers(0, 2**64 - 1) | st.sampled_from(
    [number for shift in range(0, 64, 7) for number in (2**shift - 1, 2**shift, 2**shift + 1)]
)


@given(U64)
def test_a_varint_reads_back(value: int) -> None:
    encoded = varint(value)
    assert len(encoded) == varint_bytes(value)
    assert read_varint(b"\xff" + encoded + b"\xff", 1) == (value, 1 + len(encoded))


@given(st.lists(U64 | st.integers(2**56, 2**64 - 1) | st.integers(-(2**63), -1), max_size=70))
def test_several_varints_are_what_each_is(values: list[int]) -> None:
    assert varints(values) == [varint(value) for value in values]


@given(st.lists(st.integers(2**56, 2**64 - 1), min_size=1, max_size=70))
def test_several_large_varints_are_what_each_is(values: list[int]) -> None:
    assert varints(values) == [varint(value) for value in values]


@settings(deadline=None)
@given(st.integers(-(2**63), 2**63 - 1))
def test_a_signed_varint_is_what_the_official_runtime_reads(value: int) -> None:
    span = protos.load().Span.FromString(tag(7, VARINT) + varint(value))
    assert span.start == value
    assert signed(read_varint(varint(value), 0)[0]) == value


@pytest.mark.parametrize("value", [-128, -1, -(2**31)])
def test_a_negative_int32_takes_ten_bytes(value: int) -> None:
    assert len(varint(value)) == 10
    assert protos.load().TraceChunk.FromString(integer_field(1, value)).priority == value


def test_a_varint_of_more_than_64_bits_is_refused_or_cut_to_them() -> None:
    assert read_varint(b"\xff" * 9 + b"\x7f", 0) == (2**64 - 1, 10)
    with pytest.raises(DecodeError, match="more than 10 bytes"):
        read_varint(b"\x80" * 10 + b"\x01", 0)
    for size in range(10):
        with pytest.raises(DecodeError, match="middle of a number"):
            read_varint(b"\x80" * size, 0)


def test_defaults_are_left_out_as_proto3_has_it() -> None:
    assert integer_field(1, 0) == b""
    assert text_field(2, "") == b""
    assert double_field(3, 0.0) == b""
    assert double_field(3, -0.0) != b""
    assert bytes_field(4, b"") == b"\x22\x00"


@settings(deadline=None)
@given(
    st.text(),
    st.floats(),
    st.dictionaries(st.text(), st.text()),
    st.binary(),
    st.integers(-(2**63), 2**63 - 1),
)
def test_fields_are_what_the_official_runtime_reads(
    text: str, number: float, texts: dict[str, str], octets: bytes, integer: int
) -> None:
    messages = protos.load()
    payload = messages.AgentPayload.FromString(double_field(8, number) + text_field(1, text))
    assert payload.hostName == text
    assert payload.targetTPS == number or math.isnan(number)
    tracer = messages.TracerPayload.FromString(text_map_field(7, texts))
    assert dict(tracer.tags) == texts
    structure = bytes_field(1, b"key") + bytes_field(2, octets)
    span = messages.Span.FromString(bytes_field(13, structure) + integer_field(8, integer))
    assert dict(span.meta_struct) == {"key": octets}
    assert span.duration == integer


def test_text_from_a_broken_environment_still_encodes() -> None:
    assert encode_text("a\udcffb") == b"a?b"
    assert text_map_field(7, {"k\udcff": "\udcff"})


@settings(deadline=None)
@given(st.text(max_size=20), st.integers(1, 2**64 - 1), st.floats(allow_nan=False))
def test_the_reader_reads_what_the_official_runtime_writes(
    text: str, number: int, real: float
) -> None:
    messages = protos.load()
    written = messages.Span(name=text, traceID=number, start=-5, metrics={"m": real})
    found = {
        field: (wire, value) for field, wire, value in read_fields(written.SerializeToString())
    }
    assert found.get(2, (LENGTH, b""))[1] == text.encode()
    assert found[4] == (VARINT, number)
    assert signed(found[7][1]) == -5
    entry = {field: value for field, _, value in read_fields(found[11][1])}
    assert protobuf.double(entry.get(2, 0)) == real
    assert entry[1] == b"m"


def test_the_reader_gives_fixed_numbers_as_integers() -> None:
    message = tag(1, FIXED64) + struct.pack("<Q", 7) + tag(2, FIXED32) + struct.pack("<I", 9)
    assert list(read_fields(message)) == [(1, FIXED64, 7), (2, FIXED32, 9)]


@pytest.mark.parametrize(
    "message",
    [
        b"\x03",  # a group
        b"\x04",
        b"\x06",
        b"\x07",
        b"\x00\x01",  # field number zero
        varint(1 << 32) + b"\x01",
        b"\x0a\x05abcd",
        b"\x0a",
        b"\x09" + b"x" * 7,
        b"\x0d" + b"x" * 3,
        b"\x08",
        b"\x08" + b"\x80" * 10,
        b"\x0a" + varint(2**64 - 1),
    ],
)
def test_a_message_that_is_none_is_refused(message: bytes) -> None:
    with pytest.raises(DecodeError):
        list(read_fields(message))


@given(st.binary(max_size=60))
def test_any_bytes_are_fields_or_refused(message: bytes) -> None:
    try:
        found = list(read_fields(message))
    except DecodeError:
        return
    assert len(found) <= len(message) // 2
