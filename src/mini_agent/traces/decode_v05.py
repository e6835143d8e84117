"""Trace payloads of v0.5: a table of texts, and spans as arrays of twelve that point into it.

The body is an array of two: the texts; the traces, each an array of spans. ddtrace sends this
when it is told nothing else, and does not fall back to v0.4.

The same leniency as v0.4: a span whose index points nowhere is dropped alone. Since a table lets
a small body mean a large one, the text that is mentioned is bounded too.

Source: the Go agent's description of the endpoint (pkg/trace/api/version.go).
"""

from __future__ import annotations

from mini_agent.errors import ProtocolError
from mini_agent.traces.decode import at_once, read_traces
from mini_agent.traces.express import read_table
from mini_agent.traces.lenient import (
    I32_MAX,
    I32_MIN,
    I64_MAX,
    I64_MIN,
    TAGS_MAX,
    U64_MAX,
    Findings,
    mend_text,
    read_duration,
    read_integer,
    read_metric,
)
from mini_agent.traces.span import Span
from mini_agent.wire import msgpack
from mini_agent.wire.msgpack import Reader, WrongType
from mini_agent.wire.protobuf import encode_text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

    from mini_agent.traces.orderly import Orderly
    from mini_agent.traces.span import TraceChunk

# Texts in one table; there is no use for more of them than tags.
TEXTS_MAX = TAGS_MAX

# How many texts are read between two places to stop at.
TEXTS_A_STEP = 1000

# Values of a span; later versions may send more.
_SLOTS = 12


def decode_v05(body: bytes, findings: Findings) -> Iterator[TraceChunk | None]:
    """The traces of a v0.5 payload, one at a time, without those that hold no readable span.

    None between them is a place to stop for a while.

    Args:
        findings: Filled on the way; complete when the iteration has ended.

    Raises:
        DecodeError: The body is no payload, or no span of it can be read.
        ProtocolError: It holds more than a payload may.
    """
    reader = Reader(body)
    if reader.read_array() != 2:
        raise WrongType("an array of texts and traces", "another", 0)
    start = reader.offset
    express = read_table(reader)
    if express is None:
        table = _Table(*(yield from _read_texts(reader, findings)))
        yield from read_traces(reader, findings, table.read_span, _leave, table.begin_orderly)
    else:
        # The texts are read once more should a trace not be in order.
        table = _Table(None, None, Reader(body, start))
        yield from read_traces(
            reader, findings, table.read_span, express.read_trace, table.begin_orderly
        )


def _leave(reader: Reader, findings: Findings) -> None:
    """Leave every trace to the plain decoder."""


def _read_texts(
    reader: Reader, findings: Findings
) -> Generator[None, None, tuple[list[str], list[int]]]:
    """The texts of a table, mended, and the size of each as UTF-8."""
    count = reader.read_array() or 0
    if count > TEXTS_MAX:
        raise ProtocolError(413, "too_many_texts", f"more than {TEXTS_MAX:,} texts in one payload")
    sound: list[str] = []
    sizes: list[int] = []
    stop_at = TEXTS_A_STEP
    while len(sound) < count:
        texts = reader.read_texts(min(count - len(sound), TEXTS_A_STEP))
        if not texts:
            # What is no text reads as an empty one; nil is what it says.
            if reader.kind() != msgpack.NIL:
                findings.change("text_type")
            reader.skip()
            texts = [b""]
        mended = [mend_text(text, findings) for text in texts]
        sound += mended
        sizes += [len(text) if text.isascii() else len(encode_text(text)) for text in mended]
        if len(sound) >= stop_at:
            yield None
            stop_at = len(sound) + TEXTS_A_STEP
    findings.take_request()
    return sound, sizes


class _Table:
    """The texts of one payload, and the spans that point into it.

    Args:
        texts: Or None, to read them when a span asks.
        sizes: Of each text, as UTF-8.
        reader: Stands in front of texts that are in order.
    """

    __slots__ = ("_made", "_reader", "_sizes")

    def __init__(
        self, texts: list[str] | None, sizes: list[int] | None, reader: Reader | None = None
    ) -> None:
        self._made = texts
        self._sizes = sizes or []
        self._reader = reader

    def begin_orderly(self, body: bytes, start: int, count: int) -> Orderly:
        """What reads the traces that are in order, see there."""
        # Imported here: where the express lane is built, hardly any trace comes here.
        from mini_agent.traces.orderly import OrderlyTable

        texts = self._texts
        return OrderlyTable(body, start, count, texts, self._sizes)

    @property
    def _texts(self) -> list[str]:
        if self._made is None:
            assert self._reader is not None
            self._made, self._sizes = at_once(_read_texts(self._reader, Findings()))
        return self._made

    def read_span(self, span: Span, reader: Reader, findings: Findings) -> None:
        """Fill a span with what the reader stands in front of."""
        start = reader.offset
        count = reader.read_array() or 0
        if count < _SLOTS:
            raise WrongType(f"an array of {_SLOTS} values", "a shorter one", start)
        span.service, span.name, span.resource = self._look_up(reader, 3, findings)
        span.trace_id = read_integer(reader, 0, U64_MAX)
        span.span_id = read_integer(reader, 0, U64_MAX)
        span.parent_id = read_integer(reader, 0, U64_MAX)
        span.start = read_integer(reader, I64_MIN, I64_MAX)
        span.duration = read_duration(reader, findings)
        span.error = read_integer(reader, I32_MIN, I32_MAX)
        tags = reader.read_map() or 0
        findings.hold_tags(tags)
        texts = self._look_up(reader, 2 * tags, findings)
        span.meta = dict(zip(texts[::2], texts[1::2], strict=True))
        span.metrics = self._read_metrics(reader, findings)
        [span.type] = self._look_up(reader, 1, findings)
        for _ in range(count - _SLOTS):
            reader.skip()

    def _look_up(self, reader: Reader, count: int, findings: Findings) -> list[str]:
        """The texts that the next values point at."""
        start = reader.offset
        indices = reader.read_indices(count)
        while len(indices) < count:
            # Other formats of an integer, or nil for the first text.
            indices.append(read_integer(reader, 0, TEXTS_MAX))
            indices += reader.read_indices(count - len(indices))
        try:
            known = self._texts
            texts = [known[index] for index in indices]
            findings.hold_text(sum([self._sizes[index] for index in indices]))
        except IndexError:
            raise WrongType("an index into the texts", "one out of range", start) from None
        return texts

    def _read_metrics(self, reader: Reader, findings: Findings) -> dict[str, float]:
        metrics: dict[str, float] = {}
        count = reader.read_map() or 0
        findings.hold_tags(count)
        for _ in range(count):
            [key] = self._look_up(reader, 1, findings)
            value = read_metric(reader, findings)
            if value is not None:
                metrics[key] = value
        return metrics
