"""URLs: users and passwords go, queries and segments with digits on request.

Source: reference-agent 5.7.
"""

from __future__ import annotations

from mini_agent.traces.obfuscate.ip import is_ipv6
from mini_agent.traces.ordinary_url import rewrite_ordinary

# Sets of characters are strings where a whole text is held against them: `strip` leaves nothing
# of a text that has no others, and looks at a character in a few nanoseconds.
_DIGITS = "0123456789"
_LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
_ALPHANUMERIC = _LETTERS + _DIGITS
_HEX_DIGITS = "0123456789abcdefABCDEF"

# RFC 3986. A percent sign is checked by itself.
_SCHEME = _ALPHANUMERIC + "+-."
_HOST = _ALPHANUMERIC + "-._~!$&'()*+,;=%"
_USER = _HOST + ":"
_PATH = _USER + "@/"
_FRAGMENT = _PATH + "?"

_DECIMALS = frozenset(_DIGITS)
_CONTROLS = frozenset(map(chr, (*range(0x20), 0x7F)))
# What is escaped wherever it stands, and what is besides once a path or fragment needs escapes.
_ESCAPED = frozenset('\\^{}|<>` "')
_UNESCAPED = "".join(chr(code) for code in range(0x21, 0x7F) if chr(code) not in _ESCAPED)
_ESCAPED_IN_PATH = _ESCAPED | frozenset("!'()*[]")
_ESCAPED_IN_FRAGMENT = _ESCAPED | _CONTROLS | {"#"}

# Escapes of these are undone.
_PLAIN = _ALPHANUMERIC + "._~"

_UNREADABLE = "?"


def obfuscate_url(url: str, remove_query: bool = False, remove_digits: bool = False) -> str:
    """A URL without user and password.

    What is no URL becomes `?` when anything is to be removed, and stays as it is otherwise.

    Args:
        remove_query: Leave nothing of the query but its question mark.
        remove_digits: Replace the segments of the path that have digits.
    """
    rewritten = rewrite_ordinary(url, remove_query, remove_digits)
    return _rewrite_any(url, remove_query, remove_digits) if rewritten is None else rewritten


def _rewrite_any(url: str, remove_query: bool, remove_digits: bool) -> str:
    if not url:
        return url
    body, _, fragment = url.partition("#")
    path, question_mark, query = body.partition("?")
    has_controls = not (body.isprintable() or _CONTROLS.isdisjoint(body))
    location = None if has_controls else _rewrite(path, remove_digits)
    escaped_fragment = _escape_fragment(fragment)
    if location is None or escaped_fragment is None:
        return _UNREADABLE if remove_query or remove_digits else url
    pieces = [location, question_mark, "" if remove_query else query]
    if escaped_fragment:
        pieces += ("#", escaped_fragment)
    return "".join(pieces)


def _rewrite(original: str, remove_digits: bool) -> str | None:
    """What stands before the query, without control characters; None when it is no URL."""
    text = original
    if not _has_only(text, _UNESCAPED):
        text = _escape(text, _ESCAPED_IN_PATH)
    scheme = ""
    colon = text.find(":", 0, text.find("/") if "/" in text else len(text))
    if colon >= 0:
        scheme = text[:colon]
        if not scheme or scheme[0] not in _LETTERS or not _has_only(scheme, _SCHEME):
            return None
    rest = text[colon + 1 :]
    if not rest.startswith("//"):
        if not _is_valid(rest, _PATH):
            return None
        if scheme:
            return f"{scheme.lower()}:{original[colon + 1 :]}"
        return _rewrite_path(rest, remove_digits)
    slash = rest.find("/", 2)
    end = slash if slash >= 0 else len(rest)
    host = _host_of(rest[2:end])
    if host is None or not _is_valid(rest[end:], _PATH):
        return None
    prefix = f"{scheme.lower()}:" if scheme else ""
    return f"{prefix}//{host}{_rewrite_path(rest[end:], remove_digits)}"


def _host_of(authority: str) -> str | None:
    """Host and port without the user; None when it is no authority."""
    user, at, host = authority.rpartition("@")
    if at and not _is_valid(user, _USER):
        return None
    if host.startswith("["):
        address, bracket, rest = host[1:].partition("]")
        if not bracket or not (is_ipv6(address) or _is_future_address(address)):
            return None
        if rest[:1] not in ("", ":"):
            return None
        port = rest[1:]
    else:
        name, _, port = host.partition(":")
        if not _is_valid(name, _HOST):
            return None
    return host if _has_only(port, _DIGITS) else None


def _is_future_address(text: str) -> bool:
    version, dot, address = text[1:].partition(".")
    return (
        text[:1] in ("v", "V")
        and dot != ""
        and version != ""
        and address != ""
        and _has_only(version, _HEX_DIGITS)
        and "%" not in address
        and _has_only(address, _USER)
    )


def _has_only(text: str, characters: str) -> bool:
    return not text.strip(characters)


def _is_valid(text: str, characters: str) -> bool:
    if not _has_only(text, characters):
        return False
    percent = text.find("%")
    while percent >= 0:
        digits = text[percent + 1 : percent + 3]
        if len(digits) < 2 or not _has_only(digits, _HEX_DIGITS):
            return False
        percent = text.find("%", percent + 3)
    return True


def _escape(text: str, characters: frozenset[str]) -> str:
    """Write characters, and all that are not ASCII, as the bytes of their UTF-8."""
    return "".join(
        "".join(f"%{byte:02X}" for byte in character.encode())
        if character in characters or character > "\x7f"
        else character
        for character in text
    )


def _escape_fragment(text: str) -> str | None:
    if not text:
        return text
    if not text.isascii():
        text = _escape(text, _ESCAPED_IN_FRAGMENT | frozenset("'[]"))
    elif not _ESCAPED_IN_FRAGMENT.isdisjoint(text):
        text = _escape(text, _ESCAPED_IN_FRAGMENT)
    return text if _is_valid(text, _FRAGMENT) else None


def _rewrite_path(path: str, remove_digits: bool) -> str:
    if "%" in path:
        path = _undo_escapes(path)
    if not remove_digits:
        return path
    return "/".join("?" if _has_digit(part) else part for part in path.split("/"))


def _undo_escapes(path: str) -> str:
    first, *parts = path.split("%")
    pieces = [first]
    for part in parts:
        character = chr(int(part[:2], 16))
        pieces += (character, part[2:]) if character in _PLAIN else ("%", part)
    return "".join(pieces)


def _has_digit(segment: str) -> bool:
    """Whether there is a digit apart from those of escapes."""
    if _DECIMALS.isdisjoint(segment):
        return False
    first, *parts = segment.split("%")
    return not _DECIMALS.isdisjoint(first) or any(not _DECIMALS.isdisjoint(p[2:]) for p in parts)
