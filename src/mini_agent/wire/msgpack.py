"""MessagePack read in place, one value after the other.

The reader knows what the bytes are, never what they mean. It allocates nothing because of a
length that was only announced, checks every length against the bytes that are there, and walks
nested values with a counter, so that no input costs more than time in proportion to its size.

Two kinds of failure are told apart. `DecodeError`: this is not MessagePack, or it is cut off;
nothing behind that byte can be read. `WrongType`: the value is sound, but not what was asked for;
the reader still stands in front of it and can `skip` it.

nil is a value of every type here: each `read_` method returns None for it.

Source: github.com/msgpack/msgpack/blob/master/spec.md.
"""

from __future__ import annotations

import sys
from struct import Struct

from mini_agent.errors import DecodeError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

# Values of a long one that are passed over in one step: half a millisecond of the smallest.
VALUES_A_STEP = 4096
# What has fewer is passed over at once; steps for it would take longer than that.
VALUES_AT_ONCE = 64

# What a value is, by its first byte.
NIL, BOOLEAN, INTEGER, FLOAT, STRING, BINARY, ARRAY, MAP, EXTENSION, INVALID = range(10)

_WORDS = (
    "nil",
    "a boolean",
    "an integer",
    "a float",
    "a string",
    "binary",
    "an array",
    "a map",
    "an extension",
    "nothing known",
)


def _kinds() -> bytes:
    ranges = (
        (0x80, INTEGER),
        (0x90, MAP),
        (0xA0, ARRAY),
        (0xC0, STRING),
        (0xC1, NIL),
        (0xC2, INVALID),
        (0xC4, BOOLEAN),
        (0xC7, BINARY),
        (0xCA, EXTENSION),
        (0xCC, FLOAT),
        (0xD4, INTEGER),
        (0xD9, EXTENSION),
        (0xDC, STRING),
        (0xDE, ARRAY),
        (0xE0, MAP),
        (0x100, INTEGER),
    )
    kinds = bytearray()
    for end, kind in ranges:
        kinds += bytes((kind,)) * (end - len(kinds))
    return bytes(kinds)


_KINDS = _kinds()

# Marker -> bytes of a whole value of fixed size, for extensions with their type's; of others 0.
_WHOLE_BYTES = bytearray(0x100)
for _marker, _bytes in {
    **dict.fromkeys((*range(0x80), *range(0xE0, 0x100)), 1),
    **{0xA0 | length: 1 + length for length in range(0x20)},
    **dict.fromkeys((0xC0, 0xC2, 0xC3), 1),
    **dict.fromkeys((0xCC, 0xD0), 2),
    **dict.fromkeys((0xCD, 0xD1, 0xD4), 3),
    **dict.fromkeys((0xCA, 0xCE, 0xD2), 5),
    **dict.fromkeys((0xCB, 0xCF, 0xD3), 9),
    0xD5: 4,
    0xD6: 6,
    0xD7: 10,
    0xD8: 18,
}.items():
    _WHOLE_BYTES[_marker] = _bytes
# Marker -> (bytes of the length that follows, bytes between the length and the content).
_SIZED = {
    **dict.fromkeys((0xC4, 0xD9), (1, 0)),
    **dict.fromkeys((0xC5, 0xDA), (2, 0)),
    **dict.fromkeys((0xC6, 0xDB), (4, 0)),
    0xC7: (1, 1),
    0xC8: (2, 1),
    0xC9: (4, 1),
}
_NUMBERS: dict[int, tuple[int, Callable[[bytes, int], tuple[int | float, ...]]]] = {
    marker: (Struct(form).size, Struct(form).unpack_from)
    for marker, form in {
        0xCA: ">f",
        0xCB: ">d",
        0xCC: ">B",
        0xCD: ">H",
        0xCE: ">I",
        0xCF: ">Q",
        0xD0: ">b",
        0xD1: ">h",
        0xD2: ">i",
        0xD3: ">q",
    }.items()
}


class WrongType(DecodeError):
    """A sound value of another type than was asked for; the reader stands in front of it.

    Args:
        expected: In words, with an article.
        found: In words, with an article; never the value itself.
        path: Where in the document, from the outside inwards.
    """

    def __init__(self, expected: str, found: str, offset: int, path: tuple[str, ...] = ()) -> None:
        where = "".join(f"{step}: " for step in path)
        super().__init__(f"{where}expected {expected}, found {found}", offset)
        self.expected = expected
        self.found = found
        self.path = path

    def inside(self, *path: str) -> WrongType:
        """The same fault, seen from further outside."""
        return WrongType(self.expected, self.found, self.offset, path + self.path)


class Reader:
    """Reads the values of one document in their order.

    Attributes:
        body: All of it.
        offset: Of the next value. May be set to where a value began, to read it once more.
    """

    __slots__ = ("_size", "body", "offset")

    def __init__(self, body: bytes, offset: int = 0) -> None:
        self.body = body
        self._size = len(body)
        self.offset = offset

    def kind(self) -> int:
        """What the next value is, without reading it."""
        if self.offset >= self._size:
            raise self._cut_off()
        kind = _KINDS[self.body[self.offset]]
        if kind == INVALID:
            raise DecodeError("0xc1 is not MessagePack", self.offset)
        return kind

    def read_text(self) -> bytes | None:
        """The bytes of a string or of binary; whether they are UTF-8 is not looked at."""
        if self.offset >= self._size:
            raise self._cut_off()
        marker = self.body[self.offset]
        if 0xA0 <= marker < 0xC0:
            start = self.offset + 1
            end = start + (marker & 0x1F)
        elif marker == 0xC0:
            self.offset += 1
            return None
        elif _KINDS[marker] in (STRING, BINARY):
            start = self.offset + 1 + _SIZED[marker][0]
            end = start + self._length(_SIZED[marker][0])
        else:
            raise self.wrong_type("a string")
        if end > self._size:
            raise self._cut_off()
        self.offset = end
        return self.body[start:end]

    def read_texts(self, count: int) -> list[bytes]:
        """The bytes of up to `count` strings in a row.

        Fewer when a value comes that is none; the reader then stands in front of it.
        """
        # The most frequent values by far: one loop without calls for the short ones.
        body, size, offset = self.body, self._size, self.offset
        texts = []
        while count and offset < size:
            marker = body[offset]
            if 0xA0 <= marker < 0xC0:
                start = offset + 1
                end = start + (marker & 0x1F)
            elif marker == 0xD9 and offset + 1 < size:
                start = offset + 2
                end = start + body[offset + 1]
            elif _KINDS[marker] in (STRING, BINARY):
                self.offset = offset
                text = self.read_text()
                assert text is not None
                texts.append(text)
                offset = self.offset
                count -= 1
                continue
            else:
                break
            if end > size:
                break
            texts.append(body[start:end])
            offset = end
            count -= 1
        self.offset = offset
        return texts

    def read_indices(self, count: int) -> list[int]:
        """Up to `count` integers in a row, from 0 to 2^32 - 1 and in their own formats.

        Fewer when a value comes that is none; the reader then stands in front of it.
        """
        # As `read_texts`: what a table of texts makes of the most frequent values.
        body, size, offset = self.body, self._size, self.offset
        indices = []
        while count and offset < size:
            marker = body[offset]
            if marker < 0x80:
                indices.append(marker)
                offset += 1
            elif marker == 0xCC and offset + 1 < size:
                indices.append(body[offset + 1])
                offset += 2
            elif marker == 0xCD and offset + 2 < size:
                indices.append(body[offset + 1] << 8 | body[offset + 2])
                offset += 3
            elif marker == 0xCE and offset + 4 < size:
                indices.append(int.from_bytes(body[offset + 1 : offset + 5], "big"))
                offset += 5
            else:
                break
            count -= 1
        self.offset = offset
        return indices

    def read_binary(self) -> bytes | None:
        """The bytes of binary; a string is not taken."""
        if self.kind() not in (BINARY, NIL):
            raise self.wrong_type("binary")
        return self.read_text()

    def read_integer(self) -> int | None:
        """An integer of whatever width, from -2^63 to 2^64 - 1."""
        if self.offset >= self._size:
            raise self._cut_off()
        marker = self.body[self.offset]
        if marker < 0x80:
            self.offset += 1
            return marker
        if marker >= 0xE0:
            self.offset += 1
            return marker - 0x100
        if 0xCC <= marker <= 0xD3:
            # Only the integer formats stand in this range.
            return int(self._number(marker))
        if marker == 0xC0:
            self.offset += 1
            return None
        raise self.wrong_type("an integer")

    def read_number(self) -> float | None:
        """A float, or an integer as a float."""
        if self.offset >= self._size:
            raise self._cut_off()
        marker = self.body[self.offset]
        if 0xCA <= marker <= 0xD3:
            return float(self._number(marker))
        if marker == 0xC0:
            self.offset += 1
            return None
        if _KINDS[marker] == INTEGER:
            self.offset += 1
            return float(marker if marker < 0x80 else marker - 0x100)
        raise self.wrong_type("a number")

    def read_boolean(self) -> bool | None:
        """True or false."""
        kind = self.kind()
        if kind not in (BOOLEAN, NIL):
            raise self.wrong_type("a boolean")
        self.offset += 1
        return self.body[self.offset - 1] == 0xC3 if kind == BOOLEAN else None

    def read_array(self) -> int | None:
        """The number of values in an array; the reader then stands in front of the first."""
        return self._open(ARRAY, "an array", 0x90, 0xDC)

    def read_map(self) -> int | None:
        """The number of entries of a map; the reader then stands in front of the first key."""
        return self._open(MAP, "a map", 0x80, 0xDE)

    def skip(self) -> None:
        """Pass over the next value whatever it is and holds."""
        self.pass_over(1, sys.maxsize)

    def skip_in_steps(self) -> Iterator[None] | None:
        """The same; None when it is done, else steps that pass over the rest."""
        missing = self.pass_over(1, VALUES_AT_ONCE)
        return self._skip_rest(missing) if missing else None

    def _skip_rest(self, missing: int) -> Iterator[None]:
        while missing:
            missing = self.pass_over(missing, VALUES_A_STEP)
            yield None

    def pass_over(self, missing: int, count_max: int) -> int:
        """Pass over so many values and all they hold, or begin with it.

        Args:
            count_max: How many to pass over at most, where one that holds others is one more.

        Returns:
            How many are missing then, from the next value on; to be given to the next call.
        """
        body, size, offset, whole_bytes = self.body, self._size, self.offset, _WHOLE_BYTES
        if missing == 1 and offset < size:
            # What is mostly asked for.
            whole = whole_bytes[body[offset]]
            if 0 < whole <= size - offset:
                self.offset = offset + whole
                return 0
        while missing and count_max:
            count = min(missing, count_max)
            count_max -= count
            for _ in range(count):
                # Every value has a byte of its own, so this also ends any announced length.
                if missing > size - offset:
                    raise self._cut_off(size)
                missing -= 1
                marker = body[offset]
                whole = whole_bytes[marker]
                if whole:
                    offset += whole
                elif marker < 0x90:
                    missing += 2 * (marker & 0x0F)
                    offset += 1
                elif marker < 0xA0:
                    missing += marker & 0x0F
                    offset += 1
                elif marker in _SIZED:
                    self.offset = offset
                    width, between = _SIZED[marker]
                    offset += 1 + width + between + self._length(width)
                elif marker == 0xC1:
                    raise DecodeError("0xc1 is not MessagePack", offset)
                else:
                    # Arrays and maps of 16 and 32 bits: 0xdc to 0xdf.
                    self.offset = offset
                    width = 4 if marker & 1 else 2
                    missing += self._length(width) * (2 if marker >= 0xDE else 1)
                    offset += 1 + width
        if offset > size:
            raise self._cut_off(size)
        self.offset = offset
        return missing

    def wrong_type(self, expected: str) -> WrongType:
        """The error for the next value, which is not what was asked for; to be raised."""
        return WrongType(expected, _WORDS[self.kind()], self.offset)

    def _open(self, kind: int, words: str, fixed: int, marker_16: int) -> int | None:
        if self.offset >= self._size:
            raise self._cut_off()
        marker = self.body[self.offset]
        if marker & 0xF0 == fixed:
            count = marker & 0x0F
            width = 0
        elif marker in (marker_16, marker_16 + 1):
            width = 2 if marker == marker_16 else 4
            count = self._length(width)
        elif marker == 0xC0:
            self.offset += 1
            return None
        else:
            raise self.wrong_type(words)
        start = self.offset + 1 + width
        # Every value has a byte of its own.
        if count * (2 if kind == MAP else 1) > self._size - start:
            raise self._cut_off(self._size)
        self.offset = start
        return count

    def _number(self, marker: int) -> int | float:
        width, unpack = _NUMBERS[marker]
        start = self.offset + 1
        if start + width > self._size:
            raise self._cut_off()
        self.offset = start + width
        return unpack(self.body, start)[0]

    def _length(self, width: int) -> int:
        """The length behind the marker at the offset."""
        start = self.offset + 1
        if start + width > self._size:
            raise self._cut_off()
        return int.from_bytes(self.body[start : start + width], "big")

    def _cut_off(self, offset: int | None = None) -> DecodeError:
        at = self.offset if offset is None else offset
        return DecodeError("the body ends in the middle of a value", at)
