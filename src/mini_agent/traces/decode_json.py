"""Trace payloads in JSON: what v0.2 to v0.4 send as MessagePack, written as text.

Only old clients and people with a terminal send this. It is put into MessagePack and read from
there, so that one decoder decides what is taken.

That is done in steps of a few spans. One span is never divided, nor what stands in the place of a
trace or of all of them and is no array: a body that is one such thing is parsed in one step.

Source: peers-features A.1.
"""

from __future__ import annotations

import sys
from codecs import utf_8_decode

from mini_agent.errors import DecodeError, ProtocolError
from mini_agent.traces.decode import decode_v04
from mini_agent.traces.lenient import I64_MIN, U64_MAX

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

    from mini_agent.traces.lenient import Findings
    from mini_agent.traces.span import TraceChunk

# A span is held as Python values, thirty bytes for each of its text in the worst case; at this
# size no more than the largest payload in MessagePack takes.
JSON_BYTES_MAX = 4 * 1024 * 1024

# How far to look for the first byte behind blanks and line ends.
_BLANKS_MAX = 64

# How many of them are expected in a row: a line end and its indentation.
_FEW_BLANKS = 32

# What is read between two places to stop at: a millisecond's work at most of either, where a
# span is no longer than that itself.
_CHARACTERS_A_STEP = 32 * 1024
_ELEMENTS_A_STEP = 500

# The same for what is only put into characters, or passed over.
_BYTES_A_STEP = 256 * 1024

# The arrays that are walked here, one in another: traces, and the spans of one.
_LEVELS = 2

_BLANK = (" ", "\t", "\n", "\r")
_BLANKS = " \t\n\r"

_NOT_JSON = "this is not JSON"
# Where Python's json sees the fault in an array that ends with a comma: there or at the bracket.
_FAULT_IS_THE_COMMA = sys.version_info >= (3, 13)
_TOO_DEEP = "nested too deeply"


def is_json(body: bytes) -> bool:
    """Whether a body is JSON and not MessagePack.

    The body itself says so, whatever its Content-Type: no payload in MessagePack begins with a
    bracket, and clients name types that do not fit.
    """
    return body[:_BLANKS_MAX].lstrip()[:1] in (b"[", b"{")


def decode_json(body: bytes, findings: Findings) -> Iterator[TraceChunk | None]:
    """The traces of a payload in JSON, one at a time, as `decode_v04` gives them.

    None between them, and before the first, is a place to stop for a while.

    Raises:
        DecodeError: The body is no payload, or no span of it can be read.
        ProtocolError: It is larger than JSON may be, or holds more than a payload may.
    """
    # Imported here: a function's own tracer never needs it.
    import json

    if len(body) > JSON_BYTES_MAX:
        raise ProtocolError(
            413, "json_too_large", f"{len(body):,} bytes of JSON; at most {JSON_BYTES_MAX:,}"
        )
    try:
        text = yield from _decode(body, "strict")
    except UnicodeDecodeError:
        findings.request_repairs.add("invalid_utf8")
        text = yield from _decode(body, "replace")
    packing = _Packing(text)
    try:
        packed = yield from packing.document()
    except json.JSONDecodeError as fault:
        raise DecodeError(_NOT_JSON, fault.pos) from None
    except ValueError:
        raise DecodeError("NaN and Infinity are not JSON", 0) from None
    except RecursionError:
        raise DecodeError(_TOO_DEEP, 0) from None
    # Not held while the traces are read.
    del text, packing
    yield from decode_v04(packed, findings)


def _decode(body: bytes, errors: str) -> Generator[None, None, str]:
    pieces = []
    at = 0
    while at < len(body):
        if at:
            yield None
        end = at + _BYTES_A_STEP
        # A character that goes on behind the end is left for the next piece.
        piece, used = utf_8_decode(body[at:end], errors, end >= len(body))
        pieces.append(piece)
        at += used
    return "".join(pieces)


class _Packing:
    """One document on its way into MessagePack.

    The two outer levels are walked here, in the way of Python's json; an element of the inner one
    is read by that.
    """

    __slots__ = (
        "_encode",
        "_left",
        "_packed",
        "_read",
        "_refusal",
        "_stop",
        "_text",
    )

    def __init__(self, text: str) -> None:
        # Imported here: a function's own tracer never needs them.
        import json

        import msgspec

        self._text = text
        self._packed = bytearray()
        # Why there will be no document; what is no JSON behind it comes before that.
        self._refusal: DecodeError | None = None
        self._left = _ELEMENTS_A_STEP
        self._stop = _CHARACTERS_A_STEP
        self._read = json.JSONDecoder(parse_int=_read_int, parse_constant=_refuse).raw_decode
        self._encode = msgspec.msgpack.encode

    def document(self) -> Generator[None, None, bytes]:
        """All of it, packed.

        Raises:
            DecodeError: It is no JSON, or cannot be packed.
        """
        text = self._text
        at = 0
        if text.startswith(_BLANK):
            at = yield from self._skip(at)
        # What is read within a step goes faster whole.
        if text.startswith("[", at) and len(text) > _CHARACTERS_A_STEP:
            at = yield from self._array(at, _LEVELS)
        else:
            at = self._element(at)
        if text.startswith(_BLANK, at):
            at = yield from self._skip(at)
        if at < len(text):
            raise DecodeError(_NOT_JSON, at)
        if self._refusal is not None:
            raise self._refusal
        return bytes(self._packed)

    def _array(self, at: int, levels: int) -> Generator[None, None, int]:
        """Pack the array that begins here; gives where it ends.

        Args:
            levels: How many there are to walk, this one included.
        """
        text, packed = self._text, self._packed
        begin, count = len(packed), 0
        at += 1
        if text.startswith(_BLANK, at):
            at = yield from self._skip(at)
        more = not text.startswith("]", at)
        while more:
            if levels > 1 and text.startswith("[", at):
                at = yield from self._array(at, levels - 1)
            else:
                at = self._element(at)
            count += 1
            self._left -= 1
            if self._left <= 0 or at >= self._stop:
                yield None
                self._left, self._stop = _ELEMENTS_A_STEP, at + _CHARACTERS_A_STEP
            if text.startswith(_BLANK, at):
                at = yield from self._skip(at)
            more = text.startswith(",", at)
            if more:
                comma = at
                at += 1
                if text.startswith(_BLANK, at):
                    at = yield from self._skip(at)
                if text.startswith("]", at):
                    raise DecodeError(_NOT_JSON, comma if _FAULT_IS_THE_COMMA else at)
            elif not text.startswith("]", at):
                raise DecodeError(_NOT_JSON, at)
        # Known only now; in the shortest form, so that everything stands where msgspec puts it.
        packed[begin:begin] = _array_header(count)
        if len(packed) - begin > _BYTES_A_STEP:
            yield None
        return at + 1

    def _skip(self, at: int) -> Generator[None, None, int]:
        """Where the blanks end that may stand here."""
        size = _FEW_BLANKS
        while True:
            piece = self._text[at : at + size]
            rest = piece.lstrip(_BLANKS)
            at += len(piece) - len(rest)
            if rest or not piece:
                return at
            yield None
            size = _BYTES_A_STEP

    def _element(self, at: int) -> int:
        """Pack what stands here; gives where it ends."""
        value, end = self._read(self._text, at)
        if self._refusal is None:
            try:
                piece = self._encode(value)
            except UnicodeEncodeError:
                self._refusal = DecodeError("half a surrogate pair is no character", 0)
            except RecursionError:
                self._refusal = DecodeError(_TOO_DEEP, 0)
            else:
                # It may be all of the document: not held beside two copies.
                del value
                self._packed += piece
        return end


def _array_header(count: int) -> bytes:
    if count < 16:
        return bytes((0x90 | count,))
    if count < 1 << 16:
        return b"\xdc" + count.to_bytes(2, "big")
    return b"\xdd" + count.to_bytes(4, "big")


def _read_int(digits: str) -> int | float:
    """An integer that MessagePack can hold, else a float."""
    # Enough digits for 64 bits and a sign; more of them take long to read.
    if len(digits) <= 20:
        number = int(digits)
        if I64_MIN <= number <= U64_MAX:
            return number
    return float(digits)


def _refuse(constant: str) -> None:
    raise ValueError
