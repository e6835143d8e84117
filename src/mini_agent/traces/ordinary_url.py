"""URLs as nearly all are: rewritten without a look at the rules for all others.

An ordinary URL is made of less than RFC 3986 allows: there is no user, no escape and no fragment,
so that nothing is to be rewritten but its query and the segments with digits. The rules for URLs
of every kind stand in obfuscate/url.py and say the same of these.

They are read in two ways. The plain twin has an expression. The compiled one, with types from
ordinary_url.pxd, goes through the bytes, and the express lane has it do so in C memory, without
an object made. Each may leave to url.py what the other takes.

It imports nothing, because the express lane is loaded before most else.

Source: reference-agent 5.7.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from re import Pattern

# Whether this is the compiled twin.
_COMPILED = __file__.endswith((".so", ".pyd"))

_DIGITS = "0123456789"
# What hosts and paths are made of besides.
_NAME = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz-._~!$&'()*+,;="
# What is not in the query.
_NO_QUERY = "".join(map(chr, (*range(0x20), 0x7F, ord("#"))))

_NAME_BIT, _DIGIT_BIT, _COLON_BIT, _SLASH_BIT, _QUERY_BIT = 1, 2, 4, 8, 16
_QUESTION_MARK = ord("?")


def _bits_of(character: str) -> int:
    return (
        _NAME_BIT * (character in _NAME)
        | _DIGIT_BIT * (character in _DIGITS)
        | _COLON_BIT * (character == ":")
        | _SLASH_BIT * (character == "/")
        | _QUERY_BIT * (character not in _NO_QUERY)
    )


# The same for each byte.
_BITS = bytes(map(_bits_of, map(chr, range(0x80)))) + bytes([_QUERY_BIT] * 0x80)

# An ordinary URL, and a segment of its path that has a digit; made when first asked for.
_ordinary: Pattern[str] | None = None
_segment_with_digit: Pattern[str]


def rewrite_ordinary(url: str, remove_query: bool, remove_digits: bool) -> str | None:
    """An ordinary URL as obfuscate/url.py rewrites it; None for any other."""
    if _COMPILED:
        return _rewrite_bytes(url, remove_query, remove_digits)
    found = (_ordinary or _compile_expressions()).match(url)
    if found is None or "#" in url:
        return None
    if not remove_query and not remove_digits:
        return url
    query = url[found.end() :]
    # With no control character behind, it is a URL for certain.
    if not query.isprintable():
        return None
    if not remove_digits or not found[3]:
        return found[0] if remove_query else url
    host, path, question_mark = found.group(1, 2, 4)
    path = _segment_with_digit.sub("/?", path)
    return f"{host}{path}{question_mark}{'' if remove_query else query}"


def _compile_expressions() -> Pattern[str]:
    global _ordinary, _segment_with_digit
    # Only here: what loads before the first span does without.
    import re

    name = re.escape(_NAME)
    _segment_with_digit = re.compile(r"/[^/0-9]*+[0-9][^/]*+")
    # Scheme and host with a port, the path and what it has from its first digit on, and the
    # question mark; or less of them.
    _ordinary = re.compile(
        rf"((?:https?:)?//[{name}0-9]*+(?::[0-9]*+)?|(?!//))"
        rf"(/[{name}:/]*+([{name}:/0-9]*+)|)"
        r"(\?|\Z)"
    )
    return _ordinary


# The compiled twin's way


def _rewrite_bytes(url: str, remove_query: bool, remove_digits: bool) -> str | None:
    # In others a byte is not a character.
    if not url.isascii():
        return None
    raw = url.encode()
    digit, end = measure_ordinary(raw, len(raw))
    if end < 0:
        return None
    kept = min(end + 1, len(raw)) if remove_query else len(raw)
    if not remove_digits or digit == end:
        return url[:kept]
    out = bytearray(kept)
    size = replace_segments(raw, digit, end, kept, out)
    return out[:size].decode()


def measure_ordinary(url: bytes, length: int) -> tuple[int, int]:
    """Where the first digit in an ordinary URL's path stands, and where the path ends.

    The end twice for a path without digits; -1 twice for any other URL.
    """
    bits = _BITS
    position = _host_start(url, length)
    if position:
        while position < length and bits[url[position]] & (_NAME_BIT | _DIGIT_BIT):
            position += 1
        if position < length and bits[url[position]] & _COLON_BIT:
            position += 1
            while position < length and bits[url[position]] & _DIGIT_BIT:
                position += 1
    digit = position
    if position < length and bits[url[position]] & _SLASH_BIT:
        in_path = _NAME_BIT | _COLON_BIT | _SLASH_BIT
        while position < length and bits[url[position]] & in_path:
            position += 1
        digit = position
        while position < length and bits[url[position]] & (in_path | _DIGIT_BIT):
            position += 1
    end = position
    if position < length and url[position] != _QUESTION_MARK:
        return -1, -1
    while position < length:
        if not bits[url[position]] & _QUERY_BIT:
            return -1, -1
        position += 1
    return digit, end


def _host_start(url: bytes, length: int) -> int:
    """The position behind the two slashes before a host; 0 where there is none."""
    if _begins_with(url, length, b"https://", 8):
        return 8
    if _begins_with(url, length, b"http://", 7):
        return 7
    return 2 if _begins_with(url, length, b"//", 2) else 0


def _begins_with(url: bytes, length: int, beginning: bytes, size: int) -> bool:
    position = 0
    while position < size <= length and url[position] == beginning[position]:
        position += 1
    return position == size


def replace_segments(url: bytes, digit: int, end: int, kept: int, out: bytearray) -> int:
    """Write an ordinary URL with `?` for the segments that have digits; says how long it is.

    Args:
        digit, end: What `measure_ordinary` said.
        kept: How much of the URL is kept.
        out: Room for that much.
    """
    bits = _BITS
    position = size = segment = 0
    while position < kept:
        byte = url[position]
        position += 1
        if bits[byte] & _SLASH_BIT:
            segment = size + 1
        elif bits[byte] & _DIGIT_BIT and digit < position <= end:
            byte = _QUESTION_MARK
            size = segment
            while position < end and not bits[url[position]] & _SLASH_BIT:
                position += 1
        out[size] = byte
        size += 1
    return size
