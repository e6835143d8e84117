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
    from collections.abc import Iterator, Mapping

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


def _long_varint(value: int) -> bytes:
    # Ids and times have nine or ten groups. Cut into parts that the interpreter holds in one
    # digit, they cost a third of what the loop does.
    low, middle, high = value & 0xFFFFFFF, value >> 28 & 0xFFFFFFF, value >> 56
    groups = (
        low & 0x7F | 0x80,
        low >> 7 & 0x7F | 0x80,
        low >> 14 & 0x7F | 0x80,
        low >> 21 | 0x80,
        middle & 0x7F | 0x80,
        middle >> 7 & 0x7F | 0x80,
        middle >> 14 & 0x7F | 0x80,
        middle >> 21 | 0x80,
        high,
    )
    return bytes(groups) if high < 0x80 else bytes((*groups[:8], high & 0x7F | 0x80, 1))


_TABLE = tuple(_short_varint(value) for value in range(_TABLE_SIZE))


def varint(value: int) -> bytes:
    """Encode an integer of 64 bits; a negative one takes ten bytes, as int32 and int64 do."""
    if 0 <= value < _TABLE_SIZE:
        return _TABLE[value]
    value &= _U64_MASK
    return _long_varint(value) if value >> 56 else _short_varint(value)


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
        key, offset = read_varint(message, offset)
        field, wire_type = key >> 3, key & 7
        if not 0 < field < 1 << 29:
            raise DecodeError("a field number out of range", start)
        value: int | bytes
        if wire_type == VARINT:
            value, offset = read_varint(message, offset)
        elif wire_type == LENGTH:
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


def read_varint(message: bytes, offset: int) -> tuple[int, int]:
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
