"""Trace payloads in JSON: what v0.2 to v0.4 send as MessagePack, written as text.

Only old clients and people with a terminal send this. It is put into MessagePack and read from
there, so that one decoder decides what is taken.

Source: peers-features A.1.
"""

from __future__ import annotations

from mini_agent.errors import DecodeError, ProtocolError
from mini_agent.traces.decode import decode_v04
from mini_agent.traces.lenient import I64_MIN, U64_MAX

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from mini_agent.traces.lenient import Findings
    from mini_agent.traces.span import TraceChunk

# The whole document is held as Python values, thirty bytes for each of the text in the worst
# case; at this size no more than the largest payload in MessagePack takes.
JSON_BYTES_MAX = 4 * 1024 * 1024

# How far to look for the first byte behind blanks and line ends.
_BLANKS_MAX = 64


def is_json(body: bytes) -> bool:
    """Whether a body is JSON and not MessagePack.

    The body itself says so, whatever its Content-Type: no payload in MessagePack begins with a
    bracket, and clients name types that do not fit.
    """
    return body[:_BLANKS_MAX].lstrip()[:1] in (b"[", b"{")


def decode_json(body: bytes, findings: Findings) -> Iterator[TraceChunk]:
    """The traces of a payload in JSON, one at a time, as `decode_v04` gives them.

    Raises:
        DecodeError: The body is no payload, or no span of it can be read.
        ProtocolError: It is larger than JSON may be, or holds more than a payload may.
    """
    # Imported here: a function's own tracer never needs them.
    import json

    import msgspec

    if len(body) > JSON_BYTES_MAX:
        raise ProtocolError(
            413, "json_too_large", f"{len(body):,} bytes of JSON; at most {JSON_BYTES_MAX:,}"
        )
    try:
        text = body.decode()
    except UnicodeDecodeError:
        findings.request_repairs.add("invalid_utf8")
        text = body.decode("utf-8", "replace")
    try:
        document = json.loads(text, parse_int=_read_int, parse_constant=_refuse)
        packed = msgspec.msgpack.encode(document)
    except json.JSONDecodeError as fault:
        raise DecodeError("this is not JSON", fault.pos) from None
    except UnicodeEncodeError:
        raise DecodeError("half a surrogate pair is no character", 0) from None
    except ValueError:
        raise DecodeError("NaN and Infinity are not JSON", 0) from None
    except RecursionError:
        raise DecodeError("nested too deeply", 0) from None
    yield from decode_v04(packed, findings)


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
