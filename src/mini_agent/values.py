"""How the text of an environment variable becomes a value, and how a value is shown.

A *form* is one way to write values: what it takes, how text is read, how a value is printed so
that reading it again gives the same value, and whether a wrong text may be replaced by the
default. Reading raises ValueError for text that does not fit, or Amended for text that was taken
with a change.

Loaded before the port is bound: imports nothing.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Generic, TypeVar

    T = TypeVar("T")
else:
    # Importing typing would take longer than everything else before the port is bound.
    T = None

    class Generic:
        """A stand-in that takes type arguments and forgets them."""

        def __class_getitem__(cls, _: object) -> type:
            """The class itself."""
            return cls


KIB = 1024
MIB = 1024 * KIB
GIB = 1024 * MIB

# The longest part of a wrong value that a warning quotes, in characters.
QUOTED_CHARACTERS_MAX = 60

# Shown in place of what must not be printed.
MASK = "****"


class Amended(ValueError):
    """The text was taken with a change.

    Args:
        value: What it was taken as.
        change: What was changed, as the end of a sentence that begins with the variable.
    """

    def __init__(self, value: object, change: str) -> None:
        super().__init__(change)
        self.value = value


class Form(Generic[T]):
    """One way to write values.

    Attributes:
        takes: What fits, such as "a port number, 0 to 65535".
        show: Value to text that may be printed anywhere.
        vital: A wrong text stops the start, because no other value would be safe.
        secret: The text must never be quoted.
    """

    __slots__ = ("_read", "secret", "show", "takes", "vital")

    def __init__(
        self,
        takes: str,
        read: Callable[[str], T],
        show: Callable[[T], str] = str,
        vital: bool = False,
        secret: bool = False,
    ) -> None:
        self.takes = takes
        self._read = read
        self.show = show
        self.vital = vital
        self.secret = secret

    def read(self, text: str) -> T:
        """The value of a text without spaces around it.

        Raises:
            Amended: The text was taken with a change.
            ValueError: It does not fit.
        """
        if not _is_unicode(text):
            raise ValueError
        return self._read(text)

    def complaint(self, text: str) -> str:
        """Why a text does not fit, as the end of a sentence that begins with the variable."""
        if not _is_unicode(text):
            return " is not valid Unicode"
        if self.secret:
            return f" is not {self.takes}"
        cut = text if len(text) <= QUOTED_CHARACTERS_MAX else text[:QUOTED_CHARACTERS_MAX] + "..."
        return f"={cut!r} is not {self.takes}"


def _is_unicode(text: str) -> bool:
    # Bytes that are not UTF-8 reach os.environ as lone surrogates.
    return not any("\ud800" <= character <= "\udfff" for character in text)


# Numbers


def whole(low: int, high: int, takes: str = "a whole number") -> Form[int]:
    """A form for whole numbers in a range."""

    def read(text: str) -> int:
        number = _digits(text)
        if not low <= number <= high:
            raise ValueError
        return number

    return Form(f"{takes}, {low} to {high}", read)


def seconds(low: float, high: float) -> Form[float]:
    """A form for durations; fractions are allowed, and so is an `s` behind the number."""

    def read(text: str) -> float:
        number = float(text.removesuffix("s"))
        # Also refuses NaN, which compares with nothing.
        if not low <= number <= high:
            raise ValueError
        return number

    return Form(f"seconds, {low:g} to {high:g}", read, lambda number: f"{number:g} s")


def size(low: int, high: int) -> Form[int]:
    """A form for sizes in bytes, with or without a unit."""

    def read(text: str) -> int:
        count = _bytes(text)
        if not low <= count <= high:
            raise ValueError
        return count

    return Form(f"a size, {_show_bytes(low)} to {_show_bytes(high)}", read, _show_bytes)


def size_or_off(low: int, high: int) -> Form[int]:
    """A form for sizes where 0 means off and anything else too small is raised."""

    def read(text: str) -> int:
        count = _bytes(text)
        if count > high:
            raise ValueError
        if 0 < count < low:
            raise Amended(low, f" is too small; using {_show_bytes(low)}")
        return count

    takes = f"0 for off, or a size, {_show_bytes(low)} to {_show_bytes(high)}"
    return Form(takes, read, _show_bytes)


def _digits(text: str) -> int:
    # int() alone would take "1_000", "+1" and digits of other scripts.
    if not (text.isascii() and text.isdigit()):
        raise ValueError
    return int(text)


_SIZES = {"": 1, "b": 1, "kib": KIB, "mib": MIB, "gib": GIB, "kb": 10**3, "mb": 10**6, "gb": 10**9}


def _bytes(text: str) -> int:
    number = text.rstrip("BIGKMbigkm ")
    unit = text[len(number) :].strip().lower()
    if unit not in _SIZES:
        raise ValueError
    return _digits(number) * _SIZES[unit]


def _show_bytes(count: int) -> str:
    for unit, name in ((GIB, "GiB"), (MIB, "MiB"), (KIB, "KiB")):
        if count and count % unit == 0:
            return f"{count // unit} {name}"
    return f"{count} B" if count else "0"


# Words

# What Go's ParseBool and the reference's settings take, and what people write besides.
_YES = frozenset({"1", "t", "true", "y", "yes", "on"})
_NO = frozenset({"0", "f", "false", "n", "no", "off"})

# The digits are the reference's.
_LEVELS = {
    "off": "off",
    "critical": "critical",
    "error": "error",
    "warn": "warn",
    "warning": "warn",
    "info": "info",
    "debug": "debug",
    "trace": "trace",
    **dict(zip("012345", ("off", "error", "warn", "info", "debug", "trace"), strict=True)),
}


def _read_yes_no(text: str) -> bool:
    word = text.lower()
    if word not in _YES and word not in _NO:
        raise ValueError
    return word in _YES


def _read_level(text: str) -> str:
    level = _LEVELS.get(text.lower())
    if level is None:
        raise ValueError
    return level


def _read_ascii(text: str) -> str:
    if not (text.isascii() and text.isprintable()):
        raise ValueError
    return text


def _read_key(text: str) -> str:
    if " " in text:
        raise ValueError
    return _read_ascii(text)


def _show_key(key: str) -> str:
    return "*" * (len(key) - 4) + key[-4:] if len(key) > 8 else "*" * len(key)


def _read_names(text: str) -> tuple[str, ...]:
    return tuple(text.replace(",", " ").split())


def _read_tags(text: str) -> str:
    """Tags as the intake takes them: sorted `key:value` pairs with a comma between.

    A later pair replaces an earlier one with the same key. The value begins after the first
    colon, so that addresses are values too (the reference leaves such a pair out).
    """
    items = text.replace(",", " ").split()
    pairs = dict(item.split(":", 1) for item in items if ":" in item)
    tags = ",".join(sorted(f"{key}:{value}" for key, value in pairs.items()))
    bare = sum(":" not in item for item in items)
    if bare:
        raise Amended(tags, f": items without a colon are left out ({bare})")
    return tags


def _read_patterns(text: str) -> tuple[str, ...]:
    """Patterns with commas between; one that holds a comma stands in double quotes."""
    # The part of the module csv that imports nothing.
    from _csv import Error, reader

    try:
        [items] = reader([text])
    except Error:
        raise ValueError from None
    return tuple(item.strip() for item in items if item.strip())


def _show_patterns(patterns: tuple[str, ...]) -> str:
    quoted = (pattern.replace('"', '""') for pattern in patterns)
    return ",".join(
        f'"{each}"' if any(mark in each for mark in ',"\r\n') else each for each in quoted
    )


def _read_tag_filters(text: str) -> tuple[str, ...]:
    """`key` or `key:value`, with spaces between; or a list of them in JSON."""
    if not (text.startswith("[") and text.endswith("]")):
        return tuple(text.split())
    # Imported here: hardly anybody writes it so.
    import json

    try:
        items = json.loads(text)
    except RecursionError:
        raise ValueError from None
    if not all(isinstance(item, str) for item in items):
        raise ValueError
    return tuple(items)


def _show_tag_filters(filters: tuple[str, ...]) -> str:
    shown = " ".join(filters)
    if shown.split() == list(filters) and not shown.startswith("["):
        return shown
    import json

    return json.dumps(filters)


# Addresses


def _read_host(text: str) -> str:
    if not text.isprintable() or any(mark in text for mark in " /@"):
        raise ValueError
    return text


def _read_site(text: str) -> str:
    _check_authority(text)
    if text.startswith("["):
        raise ValueError
    return text


def _read_url(text: str) -> str:
    scheme, rest = _split_scheme(text)
    authority, slash, path = rest.partition("/")
    _check_authority(authority)
    if not path.isascii() or not path.isprintable() or any(mark in path for mark in " ?#"):
        raise ValueError
    return f"{scheme}://{authority}{slash}{path}".rstrip("/")


def _read_proxy(text: str) -> str:
    scheme, rest = _split_scheme(text if "://" in text else f"http://{text}")
    account, mark, authority = rest.rstrip("/").rpartition("@")
    _check_authority(authority)
    if not account.isprintable() or any(character in account for character in " /?#"):
        raise ValueError
    return f"{scheme}://{account}{mark}{authority}"


def _show_proxy(url: str) -> str:
    scheme, _, rest = url.partition("://")
    _, mark, authority = rest.rpartition("@")
    return f"{scheme}://{MASK}@{authority}" if mark else url


def _split_scheme(text: str) -> tuple[str, str]:
    scheme, mark, rest = text.partition("://")
    if not mark or scheme.lower() not in ("http", "https"):
        raise ValueError
    return scheme.lower(), rest


def _check_authority(text: str) -> None:
    """Refuse what is not `host`, `host:port` or the same with an IPv6 address in brackets."""
    if text.startswith("["):
        host, bracket, rest = text[1:].partition("]")
        fits = bool(bracket and host) and all(mark in "0123456789abcdefABCDEF:." for mark in host)
    else:
        host, colon, rest = text.partition(":")
        rest = colon + rest
        fits = bool(host) and host.isascii() and host.strip(".-") != ""
        fits = fits and all(mark.isalnum() or mark in "._-" for mark in host)
    if rest:
        fits = fits and rest.startswith(":") and 0 < _digits(rest[1:]) < 65536
    if not fits:
        raise ValueError


TEXT = Form("text", str)
HEADER_TEXT = Form("text of printable ASCII characters", _read_ascii)
PATH = Form("a path", str)
YES_NO = Form("true or false", _read_yes_no, lambda value: "true" if value else "false")
LEVEL = Form("off, critical, error, warn, info, debug, trace or 0 to 5", _read_level)
PORT = whole(0, 65535, "a port number")
HOST = Form("an address or a host name", _read_host)
NAMES = Form("a list of hosts, with commas or spaces between", _read_names, " ".join)
TAG_NAMES = Form("a list of names, with commas or spaces between", _read_names, " ".join)
# Tag values may be private: shown to whoever asks for the settings, never quoted in the log.
TAGS = Form("a list of key:value, with commas or spaces between", _read_tags, secret=True)
PATTERNS = Form(
    "regular expressions with commas between, in double quotes where one holds a comma",
    _read_patterns,
    _show_patterns,
)
TAG_FILTERS = Form(
    "key or key:value, with spaces between, or a JSON list", _read_tag_filters, _show_tag_filters
)
SITE = Form("a domain such as datadoghq.eu", _read_site, vital=True)
URL = Form("a URL such as https://host:port", _read_url, vital=True)
API_KEY = Form(
    "a key of printable ASCII characters", _read_key, show=_show_key, vital=True, secret=True
)
PROXY = Form(
    "a URL such as http://user:password@host:port",
    _read_proxy,
    show=_show_proxy,
    vital=True,
    secret=True,
)
