"""Traces that are in order, read by msgspec in C: the plain twin's way to most of its spans.

What is in order: every field has the type that tracers write, numbers are within their range,
text is UTF-8, spans are maps. Anything else - nil, binary for text, a number for a text, damage -
msgspec refuses, and the whole trace is left to the lenient decoder, which is the specification:
nothing was changed by then, and it reads the same bytes from their beginning.

One difference remains, and no tracer makes it: of tags or fields that come twice in one span only
the last are counted against the limits of a payload.

Structures, links and events are rare. Their bytes are kept, and the lenient decoder reads them.

Bounds: there is an object of some bytes for each of the body's traces, and for each span of a long
one; of one trace at a time everything is made. What is read at one go has at most SPANS_MAX spans
and BYTES_MAX bytes.
"""

from __future__ import annotations

import contextlib
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Raw, Struct, defstruct, field
from msgspec.msgpack import Decoder

from mini_agent.errors import DecodeError
from mini_agent.traces.decode import SPAN_FIELDS
from mini_agent.traces.lenient import (
    I32_MAX,
    I32_MIN,
    I64_MAX,
    RARE_BYTES_MAX,
    SPANS_MAX,
    TAGS_MAX,
    Findings,
)
from mini_agent.traces.span import SPANS_A_STEP, SpanFace, TraceChunk
from mini_agent.wire.msgpack import Reader

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Generator, Iterator, Sequence

    from mini_agent.traces.decode import Steps
    from mini_agent.traces.span import Span

# Of what announces so many tags nothing is made before they are counted: a tag has two bytes at
# least, and nothing shorter has more than TAGS_MAX.
BYTES_MAX = 2 * TAGS_MAX

# A longer trace is read in steps; so much takes msgspec less than a millisecond.
STEP_BYTES_MAX = 64 * 1024

# No integer in MessagePack is less than a time may be, nor greater than an id.
_Unsigned = Annotated[int, Meta(ge=0)]
_Time = Annotated[int, Meta(le=I64_MAX)]
_Duration = Annotated[int, Meta(ge=0, le=I64_MAX)]
_Error = Annotated[int, Meta(ge=I32_MIN, le=I32_MAX)]

# A span as tracers write it. Rare fields are bytes at first.
_Span: Any = defstruct(
    "_Span",
    [
        ("service", str, ""),
        ("name", str, ""),
        ("resource", str, ""),
        ("trace_id", _Unsigned, 0),
        ("span_id", _Unsigned, 0),
        ("parent_id", _Unsigned, 0),
        ("start", _Time, 0),
        ("duration", _Duration, 0),
        ("error", _Error, 0),
        ("meta", dict[str, str], field(default_factory=dict)),
        ("metrics", dict[str, float], field(default_factory=dict)),
        ("type", str, ""),
        ("meta_struct", Raw, field(default_factory=dict)),
        ("links", Raw, field(default=(), name="span_links")),
        ("events", Raw, field(default=(), name="span_events")),
    ],
    bases=(SpanFace, Struct),
    # Its values are texts, numbers and what refers to no span.
    gc=False,
)

# The same in v0.5, which points into a table of texts.
_Row: Any = defstruct(
    "_Row",
    [
        ("service", _Unsigned),
        ("name", _Unsigned),
        ("resource", _Unsigned),
        ("trace_id", _Unsigned),
        ("span_id", _Unsigned),
        ("parent_id", _Unsigned),
        ("start", _Time),
        ("duration", _Duration),
        ("error", _Error),
        ("meta", dict[_Unsigned, _Unsigned]),
        ("metrics", dict[_Unsigned, float]),
        ("type", _Unsigned),
    ],
    array_like=True,
    gc=False,
)

_decode_array = Decoder(list[Raw]).decode
_decode_spans = Decoder(Annotated[list[_Span], Meta(min_length=1, max_length=SPANS_MAX)]).decode
_decode_rows = Decoder(Annotated[list[_Row], Meta(min_length=1, max_length=SPANS_MAX)]).decode
_decode_span = Decoder(_Span).decode
_decode_row = Decoder(_Row).decode

# What msgspec raises for what it does not take.
_REFUSALS = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


class _Trace:
    """What was read of one trace.

    Attributes:
        rare: Those of the spans whose links, events and structures are still to be read.
        found: Of these.
    """

    __slots__ = ("found", "rare", "spans", "tags", "text_bytes")

    def __init__(self) -> None:
        self.spans: list[Span] = []
        self.rare: Sequence[Span] = ()
        self.tags = 0
        self.text_bytes = 0
        self.found = Findings()


class Orderly:
    """Reads those traces of an array of them that are in order.

    Args:
        body: All of it; the array ends with it.
        start: Where the array begins.
        count: How many traces it announces.
    """

    __slots__ = ("_counts_tags", "_traces")

    def __init__(self, body: bytes, start: int, count: int) -> None:
        # What is shorter has neither too many nor so many that they take long.
        self._counts_tags = len(body) > STEP_BYTES_MAX
        # Their bytes in place; none when one of them is not sound.
        self._traces: Sequence[Raw] = ()
        if count <= SPANS_MAX:
            with contextlib.suppress(*_REFUSALS):
                self._traces = _decode_array(memoryview(body)[start:])

    def read_trace(self, index: int, reader: Reader, findings: Findings) -> Steps:
        """One trace, in steps if it is long; None when it is not in order.

        Args:
            index: Of the trace.
            reader: Stands in front of it, and behind it when it was read.
        """
        if not self._traces:
            return None
        raw = self._traces[index]
        trace = _Trace()
        try:
            if len(raw) <= STEP_BYTES_MAX:
                if not self._read(raw, trace):
                    return None
                if trace.rare and not (yield from _read_rare(trace)):
                    return None
            else:
                # The traces of a large body were told apart just now.
                yield None
                for lot in _lots(_decode_array(raw)):
                    if not self._read_lot(lot, trace):
                        return None
                    if trace.rare and not (yield from _read_rare(trace)):
                        return None
                    if trace.tags > TAGS_MAX:
                        # Refused below; no more of them is made.
                        break
                    yield None
        except _REFUSALS:
            return None
        findings.take_trace(len(trace.spans), trace.tags, trace.text_bytes)
        findings.take_over(trace.found)
        reader.offset += len(raw)
        return TraceChunk(trace.spans)

    def _read(self, raw: Raw, trace: _Trace) -> bool:
        """Read a whole trace; false when it is not in order."""
        self._take(_decode_spans(raw), trace)
        return True

    def _read_lot(self, lot: Sequence[Raw], trace: _Trace) -> bool:
        """Read some spans; false when they are not in order."""
        self._take([_decode_span(raw) for raw in lot], trace)
        return True

    def _take(self, spans: Sequence[Span], trace: _Trace) -> None:
        trace.rare = [span for span in spans if span.links or span.events or span.meta_struct]
        if self._counts_tags:
            trace.tags += sum([len(span.meta) + len(span.metrics) for span in spans])
        trace.spans += spans


class OrderlyTable(Orderly):
    """The same for v0.5.

    Args:
        texts: What the spans point at.
        text_bytes: The size of each as UTF-8.
    """

    __slots__ = ("_text_bytes", "_texts")

    def __init__(
        self, body: bytes, start: int, count: int, texts: list[str], text_bytes: list[int]
    ) -> None:
        super().__init__(body, start, count)
        self._texts = texts
        self._text_bytes = text_bytes

    def _read(self, raw: Raw, trace: _Trace) -> bool:
        return self._look_up(_decode_rows(raw), trace)

    def _read_lot(self, lot: Sequence[Raw], trace: _Trace) -> bool:
        return self._look_up([_decode_row(raw) for raw in lot], trace)

    def _look_up(self, rows: Sequence[Any], trace: _Trace) -> bool:
        texts, size_of = self._texts, self._text_bytes.__getitem__
        tags = text_bytes = 0
        try:
            for row in rows:
                meta, metrics = row.meta, row.metrics
                tags += len(meta) + len(metrics)
                mentioned = (row.service, row.name, row.resource, row.type)
                for indices in (mentioned, meta, meta.values(), metrics):
                    text_bytes += sum(map(size_of, indices))
                trace.spans.append(
                    _Span(
                        texts[row.service],
                        texts[row.name],
                        texts[row.resource],
                        row.trace_id,
                        row.span_id,
                        row.parent_id,
                        row.start,
                        row.duration,
                        row.error,
                        {texts[key]: texts[value] for key, value in meta.items()},
                        {texts[key]: value for key, value in metrics.items()},
                        texts[row.type],
                    )
                )
        except IndexError:
            return False
        trace.tags += tags
        trace.text_bytes += text_bytes
        return True


def _lots(spans: Sequence[Raw]) -> Iterator[Sequence[Raw]]:
    """The spans of a long trace, so many at a time.

    Raises:
        msgspec.DecodeError: There are too many, or one may hold too many tags by itself.
    """
    if len(spans) > SPANS_MAX:
        raise msgspec.DecodeError
    first = lot_bytes = 0
    for index, raw in enumerate(spans):
        if len(raw) > BYTES_MAX:
            raise msgspec.DecodeError
        lot_bytes += len(raw)
        if lot_bytes >= STEP_BYTES_MAX or index - first == SPANS_A_STEP - 1:
            yield spans[first : index + 1]
            first, lot_bytes = index + 1, 0
    if first < len(spans):
        yield spans[first:]


def _read_rare(trace: _Trace) -> Generator[None, None, bool]:
    """Read structures, links and events; false when something is to be mended or left out."""
    found = trace.found
    for span in trace.rare:
        for name, raw in (
            (b"meta_struct", span.meta_struct),
            (b"span_links", span.links),
            (b"span_events", span.events),
        ):
            if isinstance(raw, Raw):
                if len(raw) > RARE_BYTES_MAX:
                    return False
                try:
                    for _ in SPAN_FIELDS[name](Reader(bytes(raw)), span, found) or ():
                        yield None
                except DecodeError:
                    return False
        yield None
    trace.rare = ()
    return not found.has_changes()
