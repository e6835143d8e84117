"""Protocol Buffers, as far as our messages need them: pieces of a message out, fields in.

Written for the plain interpreter: a message is a list of byte strings joined once, so that its
length is known before its frame is written and no byte is written twice.

Source: protobuf.dev/programming-guides/encoding; proto3, groups are not supported.
"""

from __future__ import annotations

from struct import Struct

from mini_agent.errors import DecodeError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

VARINT, FIXED64, LENGTH, FIXED32 = 0, 1, 2, 5

# Varints carry 64 bits; ten groups of seven hold them.
VARINT_BYTES_MAX = 10

# Lengths and small numbers below this are looked up: nearly all of them, for 20 kB of table.
_TABLE_SIZE = 512

_U64_MASK = (1 << 64) - 1
_DOUBLE = Struct("<d")
_FIXED64 = Struct("<Q")
pack_double = _DOUBLE.pack
pack_fixed64 = _FIXED64.pack


def _short_varint(value: int) -> bytes:
    groups = bytearray()
    while value > 0x7F:
        groups.append(value & 0x7F | 0x80)
        value >>= 7
    groups.append(value)
    return bytes(groups)


def _make_pairs() -> memoryview:
    """Of every number of 14 bits its two groups, both marked as followed by another."""
    pairs = bytearray(2 << 14)
    low = bytes(range(0x80, 0x100))
    for high in range(0x80):
        start = high << 8
        pairs[start : start + 0x100 : 2] = low
        pairs[start + 1 : start + 0x100 : 2] = bytes((high | 0x80,)) * 0x80
    # In the order of this machine: what is looked up is packed again in the same order.
    return memoryview(pairs).cast("H")


_PAIRS = _make_pairs()
_pack_2 = Struct("=BB").pack
_pack_3 = Struct("=HB").pack
_pack_4 = Struct("=HBB").pack
_pack_9 = Struct("=HHHHB").pack
_pack_10 = Struct("=HHHHBB").pack


def _long_varint(value: int) -> bytes:
    # Ids and times have nine or ten groups, durations three or four. Cut into parts that the
    # interpreter holds in one digit, and looked up two groups at a time, they cost a third of
    # what the loop does.
    if value < 1 << 14:
        return _pack_2(value & 0x7F | 0x80, value >> 7)
    if value < 1 << 21:
        return _pack_3(_PAIRS[value & 0x3FFF], value >> 14)
    if value < 1 << 28:
        return _pack_4(_PAIRS[value & 0x3FFF], value >> 14 & 0x7F | 0x80, value >> 21)
    if value < 1 << 56:
        return _short_varint(value)
    low, middle, high = value & 0xFFFFFFF, value >> 28 & 0xFFFFFFF, value >> 56
    pairs = _PAIRS
    if high < 0x80:
        return _pack_9(
            pairs[low & 0x3FFF],
            pairs[low >> 14],
            pairs[middle & 0x3FFF],
            pairs[middle >> 14],
            high,
        )
    return _pack_10(
        pairs[low & 0x3FFF],
        pairs[low >> 14],
        pairs[middle & 0x3FFF],
        pairs[middle >> 14],
        high & 0x7F | 0x80,
        1,
    )


_TABLE = tuple(_short_varint(value) for value in range(_TABLE_SIZE))


def varint(value: int) -> bytes:
    """Encode an integer of 64 bits; a negative one takes ten bytes, as int32 and int64 do."""
    if 0 <= value < _TABLE_SIZE:
        return _TABLE[value]
    return _long_varint(value & _U64_MASK)


def varints(values: Sequence[int]) -> list[bytes]:
    """Encode several integers as `varint` does; faster for ids and times, of 57 to 64 bits."""
    count = len(values)
    if not _LANES_MIN <= count <= _LANES_MAX or min(values) < 1 << 56:
        return [varint(value) for value in values]
    lanes = _lanes.get(count)
    if lanes is None:
        lanes = _lanes[count] = _Lanes(count)
    return lanes.encode(values)


class _Lanes:
    """So many numbers of 57 to 64 bits in one large integer, ten bytes for each.

    What is done to the integer is done to all numbers in one step of the interpreter.
    """

    __slots__ = ("_masks", "_pack", "_size")

    def __init__(self, count: int) -> None:
        self._size = VARINT_BYTES_MAX * count
        # A number is eight bytes and two of padding.
        self._pack = Struct("<" + "Q2x" * count).pack
        every = sum(1 << 8 * at for at in range(0, self._size, VARINT_BYTES_MAX))
        self._masks = [mask * every for mask in _LANE_MASKS]

    def encode(self, values: Sequence[int]) -> list[bytes]:
        low28, middle28, high8, low14, high14, low7, high7, flags, tenth = self._masks
        lanes = int.from_bytes(self._pack(*values), "little")
        # 28 bits into every four bytes, of these 14 into every two, of these seven into each.
        lanes = lanes & low28 | (lanes & middle28) << 4 | (lanes & high8) << 8
        lanes = lanes & low14 | (lanes & high14) << 2
        lanes = lanes & low7 | (lanes & high7) << 1
        # All groups but the last say that another follows: the ninth when there is a tenth.
        lanes |= flags | (lanes & tenth) >> 1
        groups = lanes.to_bytes(self._size, "little")
        return [
            groups[at : at + 9 + groups[at + 9]] for at in range(0, self._size, VARINT_BYTES_MAX)
        ]


def _lane_masks() -> tuple[int, ...]:
    """For one lane, in the order in which `encode` needs them."""
    low28 = (1 << 28) - 1
    low14 = sum(0x3FFF << at for at in (0, 32, 64))
    high14 = sum(0x3FFF << at for at in (14, 46))
    low7 = sum(0x7F << at for at in range(0, 80, 16))
    flags = sum(0x80 << at for at in range(0, 64, 8))
    return low28, low28 << 28, 0xFF << 56, low14, high14, low7, low7 << 7, flags, 1 << 72


_LANE_MASKS = _lane_masks()
# Fewer numbers are faster one by one; for every count up to the greatest, masks are kept: 0.3 MB.
_LANES_MIN, _LANES_MAX = 4, 64
_lanes: dict[int, _Lanes] = {}


def varint_bytes(value: int) -> int:
    """The size `varint` would have, for a value that is not negative."""
    return (value.bit_length() + 6) // 7 or 1


def tag(field: int, wire_type: int) -> bytes:
    """The bytes that open a field."""
    return varint(field << 3 | wire_type)


def integer_field(field: int, value: int) -> bytes:
    """An integer, enum or bool field; empty for zero, as proto3 has it."""
    return tag(field, VARINT) + varint(value) if value else b""


def bytes_field(field: int, value: bytes) -> bytes:
    """A message, or text that must be there even when it is empty."""
    return b"".join((tag(field, LENGTH), varint(len(value)), value))


def text_field(field: int, value: str) -> bytes:
    """A text field; empty for empty text, as proto3 has it."""
    return bytes_field(field, encode_text(value)) if value else b""


def double_field(field: int, value: float) -> bytes:
    """A double field; empty for positive zero, as proto3 has it."""
    packed = pack_double(value)
    return tag(field, FIXED64) + packed if any(packed) else b""


def text_map_field(field: int, values: Mapping[str, str]) -> bytes:
    """A `map<string, string>` field: one entry after the other."""
    return b"".join(
        bytes_field(field, bytes_field(1, encode_text(key)) + bytes_field(2, encode_text(value)))
        for key, value in values.items()
    )


def encode_text(text: str) -> bytes:
    """UTF-8 of any text.

    Text of our own making is always sound; text from the environment may hold bytes that are not
    UTF-8, which Python keeps as lone surrogates. Those become question marks.
    """
    return text.encode("utf-8", "replace")


def read_fields(message: bytes) -> Iterator[tuple[int, int, int | bytes]]:
    """The fields of a message in their order, each as (number, wire type, value).

    The value of a VARINT field is unsigned, see `signed`; FIXED64 and FIXED32 come as unsigned
    integers, see `double`; LENGTH as bytes.

    Raises:
        DecodeError: The message is cut off, or holds something that is not proto3.
    """
    offset = 0
    size = len(message)
    while offset < size:
        start = offset
        # Nearly all keys and lengths have one byte: read here without a call.
        key = message[offset]
        if key < 0x80:
            offset += 1
        else:
            key, offset = read_varint(message, offset)
        field, wire_type = key >> 3, key & 7
        if not 0 < field < 1 << 29:
            raise DecodeError("a field number out of range", start)
        value: int | bytes
        if wire_type == VARINT:
            value, offset = read_varint(message, offset)
        elif wire_type == LENGTH:
            if offset < size and message[offset] < 0x80:
                length = message[offset]
                offset += 1
            else:
                length, offset = read_varint(message, offset)
            value, offset = _take(message, offset, length)
        elif wire_type == FIXED64:
            fixed, offset = _take(message, offset, 8)
            value = int.from_bytes(fixed, "little")
        elif wire_type == FIXED32:
            fixed, offset = _take(message, offset, 4)
            value = int.from_bytes(fixed, "little")
        else:
            raise DecodeError(f"wire type {wire_type} is not proto3", start)
        yield field, wire_type, value


def read_varint(message: bytes | memoryview, offset: int) -> tuple[int, int]:
    """The number at an offset, and the offset behind it.

    Raises:
        DecodeError: The message ends in it, or it is longer than ten bytes.
    """
    value = 0
    end = min(len(message), offset + VARINT_BYTES_MAX)
    for index in range(offset, end):
        group = message[index]
        value |= (group & 0x7F) << 7 * (index - offset)
        if group < 0x80:
            return value & _U64_MASK, index + 1
    if end == offset + VARINT_BYTES_MAX:
        raise DecodeError(f"a number of more than {VARINT_BYTES_MAX} bytes", offset)
    raise DecodeError("the message ends in the middle of a number", offset)


def signed(value: int) -> int:
    """An int32, int64 or enum from the unsigned number that stands for it on the wire."""
    return value - (1 << 64) if value >> 63 else value


def double(value: int) -> float:
    """A double from the bits of its FIXED64 field."""
    number: float = _DOUBLE.unpack(_FIXED64.pack(value))[0]
    return number


def _take(message: bytes, offset: int, length: int) -> tuple[bytes, int]:
    end = offset + length
    if end > len(message):
        raise DecodeError("the message ends in the middle of a field", offset)
    return message[offset:end], end
