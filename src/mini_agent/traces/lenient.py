"""Reading what a tracer sent with as little loss as can be; shared by every dialect.

What is wrong costs as little as possible: a text that is not UTF-8 is mended, a tag of a wrong
type is converted or left out, an item of a list that cannot be read is left out alone.
`Findings` says what was done. What a payload may hold is bounded here too.

Source: reference-agent 4.1; the differences are in docs/differences.md.
"""

from __future__ import annotations

import math
import sys

from mini_agent.errors import DecodeError, ProtocolError
from mini_agent.traces.span import OBJECTS_A_STEP, UTF8_BYTES_MAX
from mini_agent.wire import msgpack
from mini_agent.wire.msgpack import Reader, WrongType

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
    from typing import TypeVar

    Target = TypeVar("Target")
    # What is left to do of something long, a little at a time; None where all is done.
    Steps = Iterator[None] | None
    # How to read each field of a struct, in the order of a struct sent as an array.
    Fields = Mapping[bytes, Callable[[Reader, Target, "Findings"], Steps]]
    # Where a struct is left: what the last entry is called, what is left to do of it, and how
    # many entries come then.
    _Stop = tuple[tuple[str, ...], Iterable[None], int]

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

# Entries of a struct that are read in one step. No struct has as many fields; whoever sends more
# sends the same again.
ENTRIES_A_STEP = 32

# Tags of one map that are read in one step, half a millisecond.
TAGS_A_STEP = 1000

# Longer structures, lists of links and lists of events are read here, in steps.
RARE_BYTES_MAX = 64 * 1024

# A tag takes so much less time than a link or an event.
_TAGS_AN_OBJECT = 8


class Findings:
    """What was found in one payload apart from its spans.

    Attributes:
        spans: Spans in the payload, dropped ones included.
        dropped: Spans that could not be read.
        first_fault: Why the first of them could not.
        empty_traces: Traces without a span; they are left out.
        left_out: Spans that were read and that a rule left out, by reason.
        objects: Links, events, attributes and their items, so far.
        repairs: Spans that were taken with a change, by reason.
        request_repairs: What was changed that belongs to no single span.
    """

    __slots__ = (
        "_changes",
        "_tags",
        "_text_bytes",
        "dropped",
        "empty_traces",
        "first_fault",
        "left_out",
        "objects",
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
        self.objects = 0

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
        self.hold_objects(other.objects)

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

    @property
    def load(self) -> int:
        """What takes time in spans, counted in links: other objects, and several tags, are one."""
        return self.objects + self._tags // _TAGS_AN_OBJECT

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
        self.objects += count
        if self.objects > OBJECTS_MAX:
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
    stop = _fill_on(target, fields, reader, findings)
    if stop is not None:
        for _ in _fill_rest(target, fields, reader, findings, stop):
            pass


def fill_in_steps(
    target: Target, fields: Fields[Target], reader: Reader, findings: Findings
) -> Steps:
    """The same; None when all was read, else steps that read the rest.

    What a field's reader gives as steps is among them, and what is long and passed over.
    """
    stop = _fill_on(target, fields, reader, findings)
    return None if stop is None else _fill_rest(target, fields, reader, findings, stop)


def _fill_on(
    target: Target,
    fields: Fields[Target],
    reader: Reader,
    findings: Findings,
    count: int | None = None,
) -> _Stop | None:
    """Read so many entries of a map, or fewer where it is time for a step.

    Args:
        count: None where the map, or an array, is still to be opened.

    Returns:
        Where it is left; None when all was read.
    """
    if count is None:
        if reader.kind() == msgpack.ARRAY:
            return (), _fill_in_order(target, fields, reader, findings), 0
        count = reader.read_map()
        if count is None:
            raise WrongType("a map", "nil", reader.offset - 1)
    field = None
    key: bytes | None = None
    left = 0
    until = count - ENTRIES_A_STEP if count > ENTRIES_A_STEP else 0
    try:
        for left in range(count - 1, until - 1, -1):
            field = None
            key = reader.read_text()
            field = fields.get(key or b"")
            if field is not None:
                steps = field(reader, target, findings)
            elif key is not None:
                steps = reader.skip_in_steps()
            else:
                raise WrongType("a string", "nil", reader.offset - 1)
            if steps is not None:
                return (_word(field, key),), steps, left
    except WrongType as fault:
        raise fault.inside(_word(field, key)) from None
    return ((), (), left) if left else None


def _word(field: object, key: bytes | None) -> str:
    # Only our own words go into the message, never a key of the sender's.
    return "a key" if field is None or key is None else key.decode()


def _fill_rest(
    target: Target, fields: Fields[Target], reader: Reader, findings: Findings, stop: _Stop | None
) -> Iterator[None]:
    while stop is not None:
        path, steps, left = stop
        yield None
        try:
            yield from steps
        except WrongType as fault:
            raise fault.inside(*path) from None
        stop = _fill_on(target, fields, reader, findings, left)


def _fill_in_order(
    target: Target, fields: Fields[Target], reader: Reader, findings: Findings
) -> Iterator[None]:
    count = reader.read_array() or 0
    for key, field in list(fields.items())[:count]:
        try:
            steps = field(reader, target, findings)
            if steps is not None:
                yield from steps
        except WrongType as fault:
            raise fault.inside(key.decode()) from None
    missing = max(count - len(fields), 0)
    while missing:
        missing = reader.pass_over(missing, msgpack.VALUES_A_STEP)
        yield None


def in_lots(count: int, each: int, read: Callable[[int], object]) -> Steps:
    """Read so many items, `each` at a time; None when that was all, else steps for the others.

    Args:
        read: Is told how many to read.
    """
    read(min(count, each))
    return _in_further_lots(count - each, each, read) if count > each else None


def _in_further_lots(left: int, each: int, read: Callable[[int], object]) -> Iterator[None]:
    while left > 0:
        yield None
        read(min(left, each))
        left -= each


def read_list(
    items: list[Target],
    read: Callable[[Reader, Findings], Target],
    reason: str,
    reader: Reader,
    findings: Findings,
) -> Steps:
    """The good items of an array; the others are left out, and so is what is no array.

    Returns:
        None when all were read, else steps that read the others.
    """
    count = attempt(_read_count, reason, reader, findings) or 0
    findings.hold_objects(count)

    def read_some(number: int) -> None:
        for _ in range(number):
            item = attempt(read, reason, reader, findings)
            if item is not None:
                items.append(item)

    return in_lots(count, OBJECTS_A_STEP, read_some)


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


def attempt_in_steps(
    read: Callable[[Reader, Findings], Target], reason: str, reader: Reader, findings: Findings
) -> tuple[Target | None, Steps]:
    """The same, with steps that pass over what is long; they come before anything is read."""
    start = reader.offset
    try:
        return read(reader, findings), None
    except WrongType:
        findings.change(reason)
        reader.offset = start
        return None, reader.skip_in_steps()


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


def read_metric(reader: Reader, findings: Findings) -> float | None:
    """The value of a numeric tag; None after passing over what is no number."""
    if reader.kind() in (msgpack.INTEGER, msgpack.FLOAT):
        return reader.read_number()
    reader.skip()
    findings.change("metric_type")
    return None


def read_key(reader: Reader, findings: Findings) -> str:
    """The key of a map of tags; nil is none."""
    return mend_text(_read_raw_key(reader), findings)


def _read_raw_key(reader: Reader) -> bytes:
    key = reader.read_text()
    if key is None:
        raise WrongType("a string", "nil", reader.offset - 1)
    return key


def read_text(reader: Reader, findings: Findings, bytes_max: int = sys.maxsize) -> str:
    """Text; nil is empty.

    Args:
        bytes_max: How much the caller will keep of it; what is behind that need not be mended.
    """
    return mend_text(reader.read_text() or b"", findings, bytes_max)


def mend_text(text: bytes, findings: Findings, bytes_max: int = sys.maxsize) -> str:
    """The text, with U+FFFD where it is not UTF-8; of such a text `bytes_max` bytes at least."""
    try:
        return text.decode()
    except UnicodeDecodeError:
        findings.change("invalid_utf8")
        # What is mended gets no shorter. The last character may reach beyond.
        return text[: bytes_max + UTF8_BYTES_MAX].decode("utf-8", "replace")


def read_text_map(reader: Reader, findings: Findings) -> dict[str, str]:
    """A map of texts; of other values those that have one obvious spelling become text."""
    count = reader.read_map() or 0
    findings.hold_tags(count)
    return read_tags(count, reader, findings)


def read_tags(count: int, reader: Reader, findings: Findings) -> dict[str, str]:
    """So many entries of a map of texts."""
    return _mend_pairs(_read_pairs(count, reader, findings), findings)


def read_text_map_in_steps(
    reader: Reader, findings: Findings, keys_max: int
) -> Generator[None, None, dict[str, str]]:
    """The same in steps, and of its keys only the first `keys_max`."""
    count = reader.read_map() or 0
    findings.hold_tags(count)
    tags: dict[str, str] = {}
    # Of its own, as what turns out to be no map of texts is not mended.
    mended = Findings()
    for read in range(0, count, TAGS_A_STEP):
        yield None
        texts = _read_pairs(min(count - read, TAGS_A_STEP), reader, findings)
        for key, text in _mend_pairs(texts, mended).items():
            if key in tags or len(tags) < keys_max:
                tags[key] = text
    if mended.has_changes():
        findings.change("invalid_utf8")
    return tags


def _read_pairs(count: int, reader: Reader, findings: Findings) -> list[bytes]:
    """The keys and values in turn of so many entries; nearly always one run of strings."""
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
    return texts


def _mend_pairs(texts: list[bytes], findings: Findings) -> dict[str, str]:
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
