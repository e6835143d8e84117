from __future__ import annotations

import contextlib
import struct
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mini_agent.errors import DecodeError
from mini_agent.wire import msgpack
from mini_agent.wire.msgpack import VALUES_A_STEP, VALUES_AT_ONCE, Reader, WrongType


def encode(value: Any) -> bytes:
    return msgspec.msgpack.encode(value)


# Every format of the specification, as (bytes, kind).
FORMATS = [
    (b"\x00", msgpack.INTEGER),
    (b"\x7f", msgpack.INTEGER),
    (b"\x80", msgpack.MAP),
    (b"\x81\x01\x02", msgpack.MAP),
    (b"\x90", msgpack.ARRAY),
    (b"\x92\x01\xa1a", msgpack.ARRAY),
    (b"\xa0", msgpack.STRING),
    (b"\xa2ab", msgpack.STRING),
    (b"\xbf" + b"x" * 31, msgpack.STRING),
    (b"\xc0", msgpack.NIL),
    (b"\xc2", msgpack.BOOLEAN),
    (b"\xc3", msgpack.BOOLEAN),
    (b"\xc4\x02ab", msgpack.BINARY),
    (b"\xc5\x00\x02ab", msgpack.BINARY),
    (b"\xc6\x00\x00\x00\x02ab", msgpack.BINARY),
    (b"\xc7\x02\x05ab", msgpack.EXTENSION),
    (b"\xc8\x00\x02\x05ab", msgpack.EXTENSION),
    (b"\xc9\x00\x00\x00\x02\x05ab", msgpack.EXTENSION),
    (b"\xca" + struct.pack(">f", 1.5), msgpack.FLOAT),
    (b"\xcb" + struct.pack(">d", 1.5), msgpack.FLOAT),
    (b"\xcc\xff", msgpack.INTEGER),
    (b"\xcd\xff\xff", msgpack.INTEGER),
    (b"\xce" + b"\xff" * 4, msgpack.INTEGER),
    (b"\xcf" + b"\xff" * 8, msgpack.INTEGER),
    (b"\xd0\xff", msgpack.INTEGER),
    (b"\xd1\xff\xff", msgpack.INTEGER),
    (b"\xd2" + b"\xff" * 4, msgpack.INTEGER),
    (b"\xd3" + b"\xff" * 8, msgpack.INTEGER),
    (b"\xd4\x01a", msgpack.EXTENSION),
    (b"\xd5\x01ab", msgpack.EXTENSION),
    (b"\xd6\x01" + b"a" * 4, msgpack.EXTENSION),
    (b"\xd7\x01" + b"a" * 8, msgpack.EXTENSION),
    (b"\xd8\x01" + b"a" * 16, msgpack.EXTENSION),
    (b"\xd9\x02ab", msgpack.STRING),
    (b"\xda\x00\x02ab", msgpack.STRING),
    (b"\xdb\x00\x00\x00\x02ab", msgpack.STRING),
    (b"\xdc\x00\x02\x01\xa1a", msgpack.ARRAY),
    (b"\xdd\x00\x00\x00\x02\x01\xa1a", msgpack.ARRAY),
    (b"\xde\x00\x01\x01\x02", msgpack.MAP),
    (b"\xdf\x00\x00\x00\x01\x01\x02", msgpack.MAP),
    (b"\xe0", msgpack.INTEGER),
    (b"\xff", msgpack.INTEGER),
]
NAMES = [encoded[:1].hex() for encoded, _ in FORMATS]


@pytest.mark.parametrize(("encoded", "kind"), FORMATS, ids=NAMES)
def test_every_format_is_recognised_and_skipped_to_its_end(encoded: bytes, kind: int) -> None:
    reader = Reader(encoded + b"\xc3")
    assert reader.kind() == kind
    reader.skip()
    assert reader.offset == len(encoded)


@pytest.mark.parametrize(("encoded", "kind"), FORMATS, ids=NAMES)
def test_every_format_that_is_cut_off_is_an_error(encoded: bytes, kind: int) -> None:
    for size in range(len(encoded)):
        with pytest.raises(DecodeError) as caught:
            Reader(encoded[:size]).skip()
        assert not isinstance(caught.value, WrongType)
        assert caught.value.status == 400
        assert 0 <= caught.value.offset <= size


TAKES = {
    "read_text": {msgpack.STRING, msgpack.BINARY},
    "read_binary": {msgpack.BINARY},
    "read_integer": {msgpack.INTEGER},
    "read_number": {msgpack.INTEGER, msgpack.FLOAT},
    "read_boolean": {msgpack.BOOLEAN},
    "read_array": {msgpack.ARRAY},
    "read_map": {msgpack.MAP},
}


@pytest.mark.parametrize("method", TAKES)
@pytest.mark.parametrize(("encoded", "kind"), FORMATS, ids=NAMES)
def test_a_value_of_another_type_stays_where_it_is(method: str, encoded: bytes, kind: int) -> None:
    reader = Reader(b"\xc3" + encoded, 1)
    read = getattr(reader, method)
    if kind == msgpack.NIL:
        assert read() is None
        assert reader.offset == 2
    elif kind in TAKES[method]:
        assert read() is not None
        assert reader.offset > 1
    else:
        with pytest.raises(WrongType) as caught:
            read()
        assert reader.offset == caught.value.offset == 1
        reader.skip()
        assert reader.offset == 1 + len(encoded)


@pytest.mark.parametrize("method", TAKES)
@pytest.mark.parametrize(("encoded", "kind"), FORMATS, ids=NAMES)
def test_no_read_passes_the_end(method: str, encoded: bytes, kind: int) -> None:
    for size in range(len(encoded)):
        reader = Reader(encoded[:size])
        try:
            count = getattr(reader, method)()
        except DecodeError:
            continue
        # Only an array or map may open before its values are there.
        assert kind in (msgpack.ARRAY, msgpack.MAP)
        assert count <= size


@pytest.mark.parametrize("method", ["kind", "skip", *TAKES])
def test_the_unused_marker_is_an_error(method: str) -> None:
    with pytest.raises(DecodeError, match="0xc1") as caught:
        getattr(Reader(b"\xc1"), method)()
    assert not isinstance(caught.value, WrongType)


@pytest.mark.parametrize(
    "value",
    [
        *(0, 1, 127, 128, 255, 256, 65535, 65536, 2**32 - 1, 2**32, 2**63 - 1, 2**63, 2**64 - 1),
        *(-1, -32, -33, -128, -129, -32768, -32769, -(2**31), -(2**31) - 1, -(2**63)),
    ],
)
def test_integers_of_every_width_are_read(value: int) -> None:
    assert Reader(encode(value)).read_integer() == value
    assert Reader(encode(value)).read_number() == float(value)


def test_floats_of_both_widths_are_read() -> None:
    assert Reader(b"\xca" + struct.pack(">f", -0.25)).read_number() == -0.25
    assert Reader(b"\xcb" + struct.pack(">d", 0.1)).read_number() == 0.1


def test_booleans_are_read() -> None:
    reader = Reader(b"\xc3\xc2")
    assert reader.read_boolean() is True
    assert reader.read_boolean() is False


@pytest.mark.parametrize("length", [0, 31, 32, 255, 256, 65535, 65536])
def test_texts_of_every_length_are_read(length: int) -> None:
    assert Reader(encode("x" * length)).read_text() == b"x" * length
    assert Reader(encode(b"x" * length)).read_text() == b"x" * length
    assert Reader(encode(b"x" * length)).read_binary() == b"x" * length


def test_a_run_of_texts_ends_before_the_first_other_value() -> None:
    values = ["a", "b" * 40, "c" * 300, b"d", "", 7, "e"]
    reader = Reader(b"".join(map(encode, values)))
    assert reader.read_texts(10) == [b"a", b"b" * 40, b"c" * 300, b"d", b""]
    assert reader.read_integer() == 7
    assert reader.read_texts(10) == [b"e"]
    assert reader.read_texts(10) == []


def test_a_run_of_texts_takes_no_more_than_asked_for() -> None:
    reader = Reader(encode("a") + encode("b"))
    assert reader.read_texts(1) == [b"a"]
    assert reader.read_texts(0) == []
    assert reader.read_text() == b"b"


@pytest.mark.parametrize("text", ["abc", "x" * 40, "x" * 300])
def test_a_run_of_texts_stops_in_front_of_one_that_is_cut_off(text: str) -> None:
    encoded = encode(text)
    for size in range(1, len(encoded)):
        reader = Reader(encode("a") + encoded[:size])
        try:
            assert reader.read_texts(2) == [b"a"]
        except DecodeError:
            continue
        assert reader.offset == 2


@pytest.mark.parametrize("count", [0, 1, 15, 16, 65535, 65536])
def test_arrays_and_maps_of_every_length_are_opened(count: int) -> None:
    assert Reader(encode([0] * count)).read_array() == count
    assert Reader(encode(dict.fromkeys(range(count), 0))).read_map() == count


@pytest.mark.parametrize("encoded", [b"\xdd\xff\xff\xff\xff\x01", b"\xdf\xff\xff\xff\xff\x01\x02"])
def test_an_announced_length_is_held_against_the_bytes_that_are_there(encoded: bytes) -> None:
    reader = Reader(encoded)
    with pytest.raises(DecodeError, match="ends in the middle"):
        reader.read_array() if encoded[0] == 0xDD else reader.read_map()
    with pytest.raises(DecodeError, match="ends in the middle"):
        reader.skip()


def test_deep_nesting_is_skipped_without_recursion() -> None:
    depth = 200_000
    reader = Reader(b"\x91" * depth + b"\x80" + b"\x01")
    reader.skip()
    assert reader.read_integer() == 1


def test_the_error_says_where_and_what_but_not_the_value() -> None:
    with pytest.raises(WrongType) as caught:
        Reader(encode([1, "secret"]), 2).read_integer()
    fault = caught.value.inside("trace 0", "service")
    assert str(fault) == "trace 0: service: expected an integer, found a string (at byte 2)"
    assert fault.offset == 2


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.text()
    | st.binary(),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(), inner, max_size=5),
    max_leaves=20,
)


@given(VALUES)
def test_any_value_is_skipped_to_its_end(value: Any) -> None:
    encoded = encode(value)
    reader = Reader(encoded)
    reader.skip()
    assert reader.offset == len(encoded)


def skip_in_steps(reader: Reader) -> int:
    """Pass over a value; how many steps it took after what was done at once."""
    steps = reader.skip_in_steps()
    return 0 if steps is None else sum(1 for _ in steps)


def test_what_is_long_is_passed_over_in_steps() -> None:
    for value, steps in (
        ("x" * 100_000, 0),
        ([1] * (VALUES_AT_ONCE - 1), 0),
        ([1] * VALUES_AT_ONCE, 1),
        ([1] * (10 * VALUES_A_STEP), 10),
        ([[[1] * 99] * 99] * 10, 25),
        ({str(number): None for number in range(5 * VALUES_A_STEP)}, 10),
    ):
        encoded = encode(value)
        reader = Reader(encoded + b"\x07")
        assert skip_in_steps(reader) == steps
        assert reader.offset == len(encoded)


def test_a_long_value_that_is_cut_off_or_broken_is_found_by_a_later_step() -> None:
    encoded = encode(["a"] * (3 * VALUES_A_STEP))
    for body in (encoded[:-1], encoded[:-2] + b"\xc1"):
        # The array says more than there is: told at once.
        if len(body) < len(encoded):
            body = b"\x92" + body + b"\xa5"
        steps = Reader(body).skip_in_steps()
        assert steps is not None
        next(steps)
        with pytest.raises(DecodeError) as caught:
            for _ in steps:
                pass
        with pytest.raises(DecodeError) as expected:
            Reader(body).skip()
        assert str(caught.value) == str(expected.value)


@given(st.lists(VALUES, min_size=1, max_size=8), st.integers(1, 5))
def test_values_in_a_row_are_passed_over_so_many_at_a_time(values: list[Any], count: int) -> None:
    reader = Reader(b"".join(map(encode, values)))
    missing = len(values)
    while missing:
        before = reader.offset
        missing = reader.pass_over(missing, count)
        assert reader.offset > before
    assert reader.offset == len(reader.body)


@given(st.binary(max_size=100))
def test_any_bytes_are_skipped_or_refused(body: bytes) -> None:
    for method in ("skip", "kind", *TAKES):
        reader = Reader(body)
        with contextlib.suppress(DecodeError):
            getattr(reader, method)()
        assert 0 <= reader.offset <= len(body)


@given(st.binary(max_size=100), st.integers(0, 20))
def test_any_bytes_give_a_run_of_texts_or_are_refused(body: bytes, count: int) -> None:
    reader = Reader(body)
    try:
        texts = reader.read_texts(count)
    except DecodeError:
        return
    assert len(texts) <= count
    assert sum(map(len, texts)) <= reader.offset <= len(body)


def test_a_run_of_indices_ends_in_front_of_anything_else() -> None:
    numbers = [0, 0x7F, 0x80, 0xFF, 0x100, 0xFFFF, 0x10000, 2**32 - 1]
    body = b"".join(map(encode, numbers))
    reader = Reader(body + encode("a") + encode(5))
    assert reader.read_indices(3) == numbers[:3]
    assert reader.read_indices(10) == numbers[3:]
    assert reader.read_indices(10) == []
    assert reader.read_text() == b"a"
    assert reader.read_indices(0) == []
    assert reader.read_indices(1) == [5]


@pytest.mark.parametrize("other", [-1, 2**32, None, 1.5, True, [1]])
def test_no_index_is_read_from_another_value(other: Any) -> None:
    reader = Reader(encode(1) + encode(other))
    assert reader.read_indices(2) == [1]
    assert reader.offset == 1


@pytest.mark.parametrize("number", [0x80, 0x100, 0x10000])
def test_an_index_that_is_cut_off_is_none(number: int) -> None:
    for size in range(1, len(encode(number))):
        reader = Reader(encode(number)[:size])
        assert reader.read_indices(1) == []
        assert reader.offset == 0
