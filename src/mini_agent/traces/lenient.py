"""Reading what a tracer sent with as little loss as can be; shared by every dialect.

What is wrong costs as little as possible: a text that is not UTF-8 is mended, a tag of a wrong
type is converted or left out, an item of a list that cannot be read is left out alone.
`Findings` says what was done. What a payload may hold is bounded here too.

Source: reference-agent 4.1; the differences are in docs/differences.md.
"""

from __future__ import annotations

import math

from mini_agent.errors import DecodeError, ProtocolError
from mini_agent.wire import msgpack
from mini_agent.wire.msgpack import Reader, WrongType

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from typing import TypeVar

    Target = TypeVar("Target")
    # How to read each field of a struct, in the order of a struct sent as an array.
    Fields = Mapping[bytes, Callable[[Reader, Target, "Findings"], None]]

I32_MIN, I32_MAX = -(1 << 31), (1 << 31) - 1
I64_MIN, I64_MAX = -(1 << 63), (1 << 63) - 1
U64_MAX = (1 << 64) - 1

# Spans of one payload, and its traces too. A span is at least one byte on the wire and about a
# kilobyte here; tracers flush below this.
SPANS_MAX = 100_000

# Tags of one payload: a microsecond and, within one trace, 150 bytes each, however few on the
# wire. The largest body taken, 25 MiB, holds fewer when each has ten letters and its value too.
TAGS_MAX = 1_000_000

# Links, events, their attributes and the items of those, in one payload: each is an object here
# and takes microseconds to read, however few bytes it is. The largest body taken holds fewer when
# they have 130 bytes each, as an exception's have.
OBJECTS_MAX = 200_000


# Text of one payload of v0.5, each mention counted: a table of texts lets a small body mean a
# large one. ddtrace's table makes a body three times smaller; this is five times the largest.
TEXT_BYTES_MAX = 128 * 1024 * 1024


class Findings:
    """What was found in one payload apart from its spans.

    Attributes:
        spans: Spans in the payload, dropped ones included.
        dropped: Spans that could not be read.
        first_fault: Why the first of them could not.
        empty_traces: Traces without a span; they are left out.
        left_out: Spans that were read and that a rule left out, by reason.
        repairs: Spans that were taken with a change, by reason.
        request_repairs: What was changed that belongs to no single span.
    """

    __slots__ = (
        "_changes",
        "_objects",
        "_tags",
        "_text_bytes",
        "dropped",
        "empty_traces",
        "first_fault",
        "left_out",
        "repairs",
        "request_repairs",
        "spans",
    )

    def __init__(self) -> None:
        self.spans = 0
        self.dropped = 0
        self.first_fault: DecodeError | None = None
        self.empty_traces = 0
        self.left_out: dict[str, int] = {}
        self.repairs: dict[str, int] = {}
        self.request_repairs: set[str] = set()
        self._changes: set[str] = set()
        self._tags = 0
        self._text_bytes = 0
        self._objects = 0

    def change(self, reason: str) -> None:
        """The span that is being read is taken with a change."""
        self._changes.add(reason)

    def take_span(self) -> None:
        """The span that was being read is good."""
        if self._changes:
            self.mend(self._changes)
            self._changes.clear()

    def drop_span(self, fault: DecodeError) -> None:
        """The span that was being read cannot be used."""
        self.dropped += 1
        self._changes.clear()
        if self.first_fault is None:
            self.first_fault = fault

    def has_changes(self) -> bool:
        """Whether anything was changed since a span was taken or dropped."""
        return bool(self._changes)

    def take_over(self, other: Findings) -> None:
        """What another has held is of this payload too."""
        self.hold_tags(other._tags)
        self.hold_objects(other._objects)

    def take_request(self) -> None:
        """What was being read is no span: its changes are the request's."""
        self.request_repairs |= self._changes
        self._changes.clear()

    def mend(self, reasons: Iterable[str], spans: int = 1) -> None:
        """A rule changed so many spans that had been read."""
        for reason in reasons:
            self.repairs[reason] = self.repairs.get(reason, 0) + spans

    def leave_out(self, reason: str, count: int) -> None:
        """A rule left out so many spans that had been read."""
        self.left_out[reason] = self.left_out.get(reason, 0) + count

    def begin_trace(self, spans: int) -> None:
        """A trace of so many spans comes."""
        self.spans += spans
        if not spans:
            self.empty_traces += 1
        self._check_limits()

    def take_trace(self, spans: int, tags: int, text_bytes: int = 0) -> None:
        """A trace of so many spans was read, with so many tags and mentions of text."""
        self.spans += spans
        self._tags += tags
        self._text_bytes += text_bytes
        self._check_limits()

    def _check_limits(self) -> None:
        if self.spans + self.empty_traces > SPANS_MAX:
            raise ProtocolError(
                413, "too_many_spans", f"more than {SPANS_MAX:,} spans in one payload"
            )
        if self._tags > TAGS_MAX:
            raise ProtocolError(413, "too_many_tags", f"more than {TAGS_MAX:,} tags in one payload")
        if self._text_bytes > TEXT_BYTES_MAX:
            raise ProtocolError(
                413, "too_much_text", f"more than {TEXT_BYTES_MAX:,} bytes of text in one payload"
            )

    def raise_if_all_failed(self) -> None:
        """Raise the first fault when no span at all could be read."""
        if self.first_fault is not None and self.dropped == self.spans:
            raise self.first_fault

    def hold_tags(self, count: int) -> None:
        """So many tags come."""
        self._tags += count
        self._check_limits()

    def hold_text(self, text_bytes: int) -> None:
        """So many bytes of text are mentioned."""
        self._text_bytes += text_bytes
        self._check_limits()

    def hold_objects(self, count: int) -> None:
        """So many links, events, attributes or items of attributes come."""
        self._objects += count
        if self._objects > OBJECTS_MAX:
            raise ProtocolError(
                413,
                "too_many_events",
                f"more than {OBJECTS_MAX:,} links, events and attributes in one payload",
            )


def fill(target: Target, fields: Fields[Target], reader: Reader, findings: Findings) -> None:
    """Read the fields of a map, or of an array that has them in the order of `fields`.

    Keys we do not know and values behind the last field are passed over; of a key that comes
    twice the last counts.
    """
    if reader.kind() == msgpack.ARRAY:
        _fill_in_order(target, fields, reader, findings)
        return
    count = reader.read_map()
    if count is None:
        raise WrongType("a map", "nil", reader.offset - 1)
    field = None
    key: bytes | None = None
    try:
        for _ in range(count):
            field = None
            key = reader.read_text()
            field = fields.get(key or b"")
            if field is not None:
                field(reader, target, findings)
            elif key is not None:
                reader.skip()
            else:
                raise WrongType("a string", "nil", reader.offset - 1)
    except WrongType as fault:
        # Only our own words go into the message, never a key of the sender's.
        raise fault.inside("a key" if field is None or key is None else key.decode()) from None


def _fill_in_order(
    target: Target, fields: Fields[Target], reader: Reader, findings: Findings
) -> None:
    count = reader.read_array() or 0
    for key, field in list(fields.items())[:count]:
        try:
            field(reader, target, findings)
        except WrongType as fault:
            raise fault.inside(key.decode()) from None
    for _ in range(count - len(fields)):
        reader.skip()


def read_list(
    read: Callable[[Reader, Findings], Target], reason: str, reader: Reader, findings: Findings
) -> list[Target]:
    """The good items of an array; the others are left out, and so is what is no array."""
    count = attempt(_read_count, reason, reader, findings) or 0
    findings.hold_objects(count)
    items = []
    for _ in range(count):
        item = attempt(read, reason, reader, findings)
        if item is not None:
            items.append(item)
    return items


def _read_count(reader: Reader, findings: Findings) -> int:
    return reader.read_array() or 0


def attempt(
    read: Callable[[Reader, Findings], Target], reason: str, reader: Reader, findings: Findings
) -> Target | None:
    """The next value, or None after passing over one that cannot be read."""
    start = reader.offset
    try:
        return read(reader, findings)
    except WrongType:
        findings.change(reason)
        reader.offset = start
        reader.skip()
        return None


def read_integer(reader: Reader, low: int, high: int) -> int:
    """An integer within a range; nil is zero."""
    start = reader.offset
    value = reader.read_integer() or 0
    if low <= value <= high:
        return value
    raise WrongType(f"an integer from {low} to {high}", "one out of range", start)


def read_duration(reader: Reader, findings: Findings) -> int:
    """A duration; zero instead of what is none."""
    try:
        duration = reader.read_integer() or 0
    except WrongType:
        reader.skip()
        duration = -1
    if 0 <= duration <= I64_MAX:
        return duration
    findings.change("duration")
    return 0


def read_key(reader: Reader, findings: Findings) -> str:
    """The key of a map of tags; nil is none."""
    return mend_text(_read_raw_key(reader), findings)


def _read_raw_key(reader: Reader) -> bytes:
    key = reader.read_text()
    if key is None:
        raise WrongType("a string", "nil", reader.offset - 1)
    return key


def read_text(reader: Reader, findings: Findings) -> str:
    """Text; nil is empty."""
    return mend_text(reader.read_text() or b"", findings)


def mend_text(text: bytes, findings: Findings) -> str:
    """The text, with U+FFFD where it is not UTF-8."""
    try:
        return text.decode()
    except UnicodeDecodeError:
        findings.change("invalid_utf8")
        return text.decode("utf-8", "replace")


def read_text_map(reader: Reader, findings: Findings) -> dict[str, str]:
    """A map of texts; of other values those that have one obvious spelling become text."""
    count = reader.read_map() or 0
    findings.hold_tags(count)
    # Keys and values in turn; nearly always one run of strings.
    texts = reader.read_texts(2 * count)
    read = len(texts)
    while read < 2 * count:
        if read % 2 == 0:
            # Raises: had it been a string, the run had gone on.
            texts.append(_read_raw_key(reader))
        else:
            value = _spell(reader, findings)
            if value is None:
                texts.pop()
            else:
                texts.append(value)
        run = reader.read_texts(2 * count - read - 1)
        read += 1 + len(run)
        texts += run
    sound = [mend_text(text, findings) for text in texts]
    return dict(zip(sound[::2], sound[1::2], strict=True))


def _spell(reader: Reader, findings: Findings) -> bytes | None:
    """The text for a value that is none; None when it has none."""
    kind = reader.kind()
    if kind == msgpack.NIL:
        reader.skip()
        return None
    spelling: bytes | None = None
    if kind == msgpack.INTEGER:
        spelling = b"%d" % (reader.read_integer() or 0)
    elif kind == msgpack.FLOAT:
        number = reader.read_number()
        assert number is not None
        spelling = _spell_float(number)
    elif kind == msgpack.BOOLEAN:
        spelling = b"true" if reader.read_boolean() else b"false"
    else:
        reader.skip()
    findings.change("meta_type")
    return spelling


def _spell_float(value: float) -> bytes:
    if math.isfinite(value):
        return repr(value).encode()
    return b"NaN" if math.isnan(value) else b"Infinity" if value > 0 else b"-Infinity"
