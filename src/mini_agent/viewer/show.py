"""Traces in a terminal: a list of the latest, and one as a tree with the times of its spans.

Texts of spans come from whoever could send a trace. They are printed so that they can neither
steer the terminal nor break the layout: what is not printable is escaped, what is too long is
cut. Nothing here recurses, and indentation ends at a limit, so that the depth of a trace does
not matter; every span is printed once, whatever its parent ids say.
"""

from __future__ import annotations

import json
import shutil
import time
import unicodedata

from mini_agent.viewer.lookup import CANDIDATES_MAX, NothingStored, StoreReader
from mini_agent.viewer.store import StoreUnavailable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import TextIO

    from mini_agent.viewer.lookup import StoredSpan, StoredTrace

# Where there is no terminal to ask, as in a pipe: nothing is cut that somebody may look for.
FALLBACK_COLUMNS = 200

# Below this a line is longer than the terminal is wide rather than empty.
TEXT_COLUMNS_MIN = 12

# A terminal of the classic 80 columns gets short bars, so that its lines have room for words.
BAR_COLUMNS = 24
NARROW_BAR_COLUMNS = 12
NARROW_COLUMNS = 100

# Services and span names are words; longer ones are cut to leave room for the resource. They
# get a third of the room, within these bounds.
WORD_COLUMNS_MIN = 8
WORD_COLUMNS_MAX = 24

# Indentation grows to this level; deeper spans say their level. Two columns each: the text stays
# on a screen of usual width, and 10,000 levels take lines of the same length.
LEVELS_DRAWN_MAX = 20

_TAB = "  "
_DATE_CHARS = len("2026-11-22 ")
_UNITS = ((1_000_000_000, "s"), (1_000_000, "ms"), (1_000, "µs"), (1, "ns"))
_MINUTE_NS = 60 * 1_000_000_000

_HOW_TO_SEND = (
    "Run mini-agent without DD_API_KEY beside an application with a Datadog tracer: what the"
    " tracer sends (to port 8126, unless told otherwise) is kept for this list."
)


class _Glyphs:
    """The characters that draw."""

    def __init__(self, unicode: bool) -> None:
        self.branch, self.last, self.line = (
            ("├─ ", "└─ ", "│ ") if unicode else ("|- ", "`- ", "| ")
        )
        self.ran, self.idle = ("█", "░") if unicode else ("#", ".")
        self.failed = "✗" if unicode else "!"
        self.cut = "…" if unicode else "..."
        self.micro = "µ" if unicode else "u"


class _Page:
    """Lines onto a stream, in characters that it can take and as wide as it is."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._encoding = out.encoding or "utf-8"
        self.glyphs = _Glyphs(self._can_write("├─└│█░✗…µ"))
        self.columns = shutil.get_terminal_size((FALLBACK_COLUMNS, 24)).columns
        self.bar_columns = BAR_COLUMNS if self.columns >= NARROW_COLUMNS else NARROW_BAR_COLUMNS

    def write(self, line: str) -> None:
        if not self._can_write(line):
            line = line.encode(self._encoding, "backslashreplace").decode(self._encoding)
        self._out.write(line.rstrip() + "\n")

    def fit(self, text: str, columns: int) -> str:
        """Printable text of at most so many columns."""
        return _cut(_escape(text, columns), columns, self.glyphs.cut)

    def duration(self, duration_ns: int) -> str:
        return _duration(duration_ns).replace("µ", self.glyphs.micro)

    def _can_write(self, text: str) -> bool:
        try:
            text.encode(self._encoding)
        except UnicodeEncodeError:
            return False
        return True


def list_traces(store_path: str, limit: int, service: str | None, out: TextIO) -> int:
    """Print the traces that started last, newest first.

    Args:
        limit: Traces at most.
        service: Only traces in which it took part; None for all.

    Returns:
        The exit status: 1 when the store cannot be read.
    """
    page = _Page(out)
    try:
        with StoreReader(store_path) as reader:
            traces = reader.recent(limit, service)
    except StoreUnavailable as error:
        return _complain(page, error)
    if traces:
        for line in _table(page, traces):
            page.write(line)
    elif service is not None:
        page.write(f"No stored trace has a span of the service {_escape(service)}.")
    else:
        page.write(f"No traces yet. {_HOW_TO_SEND}")
    return 0


def print_trace(store_path: str, trace_id: str, out: TextIO) -> int:
    """Print one trace as a tree.

    Args:
        trace_id: As `StoreReader.find` takes it.

    Returns:
        The exit status: 1 when the store cannot be read, or the id names no trace or several.
    """
    page = _Page(out)
    try:
        with StoreReader(store_path) as reader:
            found = reader.find(trace_id)
            spans = reader.spans(found[0]) if len(found) == 1 else []
    except StoreUnavailable as error:
        return _complain(page, error)
    if not found:
        page.write(f"No stored trace has the id {page.fit(trace_id, page.columns)}.")
        return 1
    if len(found) > 1:
        many = "at least " if len(found) == CANDIDATES_MAX else ""
        page.write(f"{page.fit(trace_id, page.columns)} fits {many}{len(found)} traces:")
        for trace in found:
            page.write(f"{_TAB}{trace.trace_id}  {page.fit(trace.name, WORD_COLUMNS_MAX)}")
        return 1
    for line in _heading(page, found[0], spans):
        page.write(line)
    for line in _tree(page, found[0], spans):
        page.write(line)
    return 0


def _complain(page: _Page, error: StoreUnavailable) -> int:
    message = _escape(str(error))
    page.write(f"{message[:1].upper()}{message[1:]}.")
    if isinstance(error, NothingStored):
        page.write(_HOW_TO_SEND)
    return 1


def _table(page: _Page, traces: Sequence[StoredTrace]) -> Iterator[str]:
    numbers = [("ID", "STARTED", "DURATION", "SPANS", "ERRORS")]
    today = _when(time.time_ns())[:_DATE_CHARS]
    for trace in traces:
        numbers.append(
            (
                trace.short_id,
                _when(trace.start_ns).removeprefix(today),
                page.duration(trace.duration_ns),
                str(trace.span_count),
                str(trace.error_count or ""),
            )
        )
    room = page.columns - sum(_widths(numbers)) - len(_TAB) * (len(numbers[0]) + 2)
    word = _word_columns(room)
    words = [("SERVICE", "NAME")]
    words += [(page.fit(trace.service, word), page.fit(trace.name, word)) for trace in traces]
    room = max(TEXT_COLUMNS_MIN, room - sum(_widths(words)))
    resources = ["RESOURCE", *(page.fit(trace.resource, room) for trace in traces)]
    widths = (*_widths(numbers), *_widths(words))
    for number_cells, word_cells, resource in zip(numbers, words, resources, strict=True):
        cells = zip((*number_cells, *word_cells), widths, "llrrrll", strict=True)
        yield _TAB.join((*(_pad(cell, width, side) for cell, width, side in cells), resource))


def _widths(rows: Sequence[tuple[str, ...]]) -> list[int]:
    return [max(map(_columns, column)) for column in zip(*rows, strict=True)]


def _word_columns(room: int) -> int:
    return min(WORD_COLUMNS_MAX, max(WORD_COLUMNS_MIN, room // 3))


def _heading(page: _Page, trace: StoredTrace, spans: Sequence[StoredSpan]) -> Iterator[str]:
    yield f"Trace {trace.trace_id} (decimal {trace.decimal_id})"
    facts = [
        _when(trace.start_ns),
        page.duration(trace.duration_ns),
        _count(len(spans), "span"),
        _count(trace.error_count, "error"),
    ]
    if trace.env is not None:
        facts.append(f"env {page.fit(trace.env, WORD_COLUMNS_MAX)}")
    facts.append(f"services {', '.join(page.fit(s, WORD_COLUMNS_MAX) for s in trace.services)}")
    yield page.fit(", ".join(facts), page.columns)
    if trace.omitted_count:
        yield f"{_count(trace.omitted_count, 'earlier span')} of it no longer stored"
    yield ""


class _Node:
    """A span in its place in the tree.

    Attributes:
        level: 0 for a root.
        indent: What precedes the lines of its children.
        connector: What precedes its own text, indentation included.
    """

    __slots__ = ("connector", "indent", "level", "parent", "span")

    def __init__(
        self,
        span: StoredSpan,
        parent: StoredSpan | None = None,
        level: int = 0,
        connector: str = "",
        indent: str = "",
    ) -> None:
        self.span = span
        self.parent = parent
        self.level = level
        self.connector = connector
        self.indent = indent


def _tree(page: _Page, trace: StoredTrace, spans: Sequence[StoredSpan]) -> Iterator[str]:
    children = _children(spans)
    yield f"{'START':>9} {'DURATION':>9}  {_pad('RAN', page.bar_columns)}  SPAN"
    for node in _walk(page.glyphs, spans, children):
        yield from _span_lines(page, trace, node, bool(children.get(node.span.span_id)))


def _children(spans: Sequence[StoredSpan]) -> dict[str, list[StoredSpan]]:
    """The spans below each span, by start, as they come from the store."""
    known = {span.span_id for span in spans}
    children: dict[str, list[StoredSpan]] = {}
    for span in spans:
        if span.parent_id in known and span.parent_id != span.span_id:
            children.setdefault(span.parent_id, []).append(span)
    return children


def _walk(
    glyphs: _Glyphs, spans: Sequence[StoredSpan], children: dict[str, list[StoredSpan]]
) -> Iterator[_Node]:
    """Every span once, parents before their children."""
    below = {child.span_id for siblings in children.values() for child in siblings}
    # After the roots all others, as if they were roots too: whatever is still unseen then is
    # part of a circle, which is entered at its earliest span.
    starts = [span for span in spans if span.span_id not in below]
    starts += [span for span in spans if span.span_id in below]
    seen: set[str] = set()
    for start in starts:
        waiting = [_Node(start)]
        while waiting:
            node = waiting.pop()
            if node.span.span_id in seen:
                continue
            seen.add(node.span.span_id)
            yield node
            unseen = [s for s in children.get(node.span.span_id, ()) if s.span_id not in seen]
            waiting.extend(reversed(_nodes_below(glyphs, node, unseen)))


def _nodes_below(glyphs: _Glyphs, node: _Node, spans: Sequence[StoredSpan]) -> list[_Node]:
    level = node.level + 1
    deep = level > LEVELS_DRAWN_MAX
    nodes = []
    for index, span in enumerate(spans):
        is_last = index == len(spans) - 1
        connector = node.indent + (glyphs.last if is_last else glyphs.branch)
        if deep:
            connector = f"{node.indent}{glyphs.cut}{level} "
            indent = node.indent
        else:
            indent = node.indent + (" " * len(glyphs.line) if is_last else glyphs.line)
        nodes.append(_Node(span, node.span, level, connector, indent))
    return nodes


def _span_lines(page: _Page, trace: StoredTrace, node: _Node, has_children: bool) -> Iterator[str]:
    span = node.span
    offset_ns = span.start_ns - trace.start_ns
    times = f"{page.duration(offset_ns):>9} {page.duration(span.duration_ns):>9}"
    bar = _bar(page, offset_ns, span.duration_ns, trace.duration_ns)
    left = f"{times}  {bar}  {node.connector}"
    room = max(TEXT_COLUMNS_MIN, page.columns - _columns(left))
    yield left + _span_text(page, node, room)
    message = _error_message(span) if span.error else ""
    if message:
        below = node.indent + (page.glyphs.line if has_children else " " * len(page.glyphs.line))
        left = " " * (len(times) + page.bar_columns + 4) + below
        room = max(TEXT_COLUMNS_MIN, page.columns - len(left) - 2)
        yield f"{left}{page.glyphs.failed} {page.fit(message, room)}"


def _span_text(page: _Page, node: _Node, room: int) -> str:
    """Name and resource, the service where it changes, and a mark on what failed."""
    span = node.span
    ends = []
    if node.parent is None or node.parent.service != span.service:
        ends.append(f"[{page.fit(span.service, _word_columns(room))}]")
    if span.error:
        ends.append(f"{page.glyphs.failed} error")
    end = "".join(f"{_TAB}{word}" for word in ends)
    # The name is cut only where nothing else is left to cut.
    room = max(TEXT_COLUMNS_MIN, room - _columns(end))
    text = page.fit(span.name, room)
    rest = room - _columns(text) - len(_TAB)
    if span.resource != span.name and rest > len(page.glyphs.cut):
        text += _TAB + page.fit(span.resource, rest)
    return text + end


def _bar(page: _Page, offset_ns: int, duration_ns: int, trace_ns: int) -> str:
    """When a span ran, from the start to the end of its trace; one column at least."""
    columns, ran, idle = page.bar_columns, page.glyphs.ran, page.glyphs.idle
    if trace_ns <= 0:
        return ran * columns
    begin = min(columns - 1, offset_ns * columns // trace_ns)
    end = -(-(offset_ns + duration_ns) * columns // trace_ns)
    end = min(columns, max(begin + 1, end))
    return idle * begin + ran * (end - begin) + idle * (columns - end)


def _error_message(span: StoredSpan) -> str:
    meta = json.loads(span.meta) if span.meta is not None else {}
    message = meta.get("error.message") or meta.get("error.msg") or ""
    return ": ".join(part for part in (meta.get("error.type", ""), message) if part)


def _when(time_ns: int) -> str:
    """Local time to the second."""
    try:
        return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(time_ns // 1_000_000_000))
    except (OverflowError, OSError, ValueError):
        # Years that the C library cannot say.
        return "?"


def _duration(duration_ns: int) -> str:
    """Three digits and a unit; minutes and hours from two minutes on."""
    if duration_ns >= 2 * _MINUTE_NS:
        minutes, rest_ns = divmod(duration_ns, _MINUTE_NS)
        if minutes < 120:
            return f"{minutes}m {rest_ns // 1_000_000_000}s"
        return f"{minutes // 60}h {minutes % 60}m"
    for unit_ns, unit in _UNITS:
        # 999.6 µs would be rounded to 1e+03 µs.
        if duration_ns * 10_000 >= unit_ns * 9_995:
            return f"{duration_ns / unit_ns:.3g} {unit}"
    return "0 ns"


def _count(number: int, word: str) -> str:
    return f"{number} {word}" if number == 1 else f"{number} {word}s"


def _escape(text: str, columns: int = FALLBACK_COLUMNS) -> str:
    """Text without anything a terminal obeys: controls, direction marks, line separators."""
    # What no line can show need not be looked at; marks above a letter take no column.
    text = text[: 4 * columns]
    if text.isprintable():
        return text
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode() for char in text
    )


def _columns(text: str) -> int:
    """How wide a terminal prints it."""
    if text.isascii():
        return len(text)
    return sum(map(_char_columns, text))


def _char_columns(char: str) -> int:
    if unicodedata.combining(char):
        return 0
    return 2 if unicodedata.east_asian_width(char) in "WF" else 1


def _cut(text: str, columns: int, mark: str) -> str:
    if _columns(text) <= columns:
        return text
    room = columns - len(mark)
    end = 0
    while end < len(text) and (room := room - _char_columns(text[end])) >= 0:
        end += 1
    return text[:end] + mark


def _pad(text: str, columns: int, side: str = "l") -> str:
    spaces = " " * (columns - _columns(text))
    return spaces + text if side == "r" else text + spaces
