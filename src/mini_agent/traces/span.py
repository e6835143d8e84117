"""A span as decoding leaves it: the contract between decoding, the rules, and encoding.

Rules (normalize, enrich, obfuscate) read and set single fields through the attributes and methods
here and through nothing else, so that a compiled twin with the same face can take the place of
these classes and no rule changes. `meta` and `metrics` belong to decode, encode and the chunk
rules below alone: the compiled twin keeps its tags elsewhere.

Texts are `str`: most of them come again and again, and what is known of a text, also how it is
encoded, is found by the text itself.
"""

from __future__ import annotations

from mini_agent.wire.protobuf import encode_text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

    from mini_agent.traces.express import NormalTexts, SettledTexts
    from mini_agent.traces.lenient import Findings
    from mini_agent.wire.msgpack import Reader

# Stands for "no sampling decision came with this chunk". Source: reference-agent 4.3.
PRIORITY_NONE = -128

# How many spans of a long trace are worked on between two places to stop at. With a query in each
# it takes a millisecond where nothing is compiled.
SPANS_A_STEP = 32

# How many links, events and attributes of events; each takes some microseconds.
OBJECTS_A_STEP = 256

# Of one character.
UTF8_BYTES_MAX = 4

# So many texts have the tags of a span, and some more.
_JOINED_MAX = 256

# The types of an event's attribute. Source: reference-agent 4.9.
STRING, BOOL, INT, DOUBLE, ARRAY = range(5)


class TagSet:
    """Tags that are written to many spans, made sound once.

    Attributes:
        texts: The tags.
        raw: The same as UTF-8, for the compiled twin.
    """

    __slots__ = ("raw", "texts")

    def __init__(self, tags: Mapping[str, str]) -> None:
        self.raw = {encode_text(key): encode_text(value) for key, value in tags.items()}
        self.texts = {key.decode(): value.decode() for key, value in self.raw.items()}


class AttributeValue:
    """One typed attribute of an event.

    Attributes:
        type: STRING, BOOL, INT, DOUBLE or ARRAY; unknown numbers are kept as they came.
        array_value: The items, which hold no arrays themselves; None when there is none.
    """

    __slots__ = ("array_value", "bool_value", "double_value", "int_value", "string_value", "type")

    def __init__(
        self,
        type: int = STRING,
        string_value: str = "",
        bool_value: bool = False,
        int_value: int = 0,
        double_value: float = 0.0,
        array_value: list[AttributeValue] | None = None,
    ) -> None:
        self.type = type
        self.string_value = string_value
        self.bool_value = bool_value
        self.int_value = int_value
        self.double_value = double_value
        self.array_value = array_value


class SpanEvent:
    """Something that happened at one moment of a span."""

    __slots__ = ("attributes", "name", "time_unix_nano")

    def __init__(self) -> None:
        self.time_unix_nano = 0
        self.name = ""
        self.attributes: dict[str, AttributeValue] = {}


class SpanLink:
    """A reference to a span of another trace."""

    __slots__ = ("attributes", "flags", "span_id", "trace_id", "trace_id_high", "tracestate")

    def __init__(self) -> None:
        self.trace_id = 0
        self.trace_id_high = 0
        self.span_id = 0
        self.attributes: dict[str, str] = {}
        self.tracestate = ""
        self.flags = 0


class SpanFace:
    """What rules do with the tags of a span; the same whatever keeps its fields."""

    __slots__ = ()

    if TYPE_CHECKING:
        service: str
        name: str
        resource: str
        type: str
        meta: dict[str, str]
        metrics: dict[str, float]

    def get_meta(self, key: str) -> str | None:
        """The tag of that name, or None."""
        return self.meta.get(key)

    def has_meta(self, key: str) -> bool:
        """Whether there is a tag of that name, even an empty one."""
        return key in self.meta

    def set_meta(self, key: str, value: str) -> None:
        """Add or replace one tag."""
        self.meta[key] = value if value.isascii() else encode_text(value).decode()

    def update_meta(self, tags: TagSet) -> None:
        """Add or replace several tags."""
        self.meta.update(tags.texts)

    def remove_meta(self, key: str) -> None:
        """Remove a tag; nothing happens when there is none."""
        self.meta.pop(key, None)

    def meta_items(self) -> Iterable[tuple[str, str]]:
        """All tags in their order; take a list of it before changing any."""
        return self.meta.items()

    def has_longer_tags(self, key_bytes_max: int, value_bytes_max: int) -> bool:
        """Whether any tag's name or text has more bytes; asked of every span."""
        meta = self.meta
        return (
            _any_longer(meta.values(), value_bytes_max)
            or _any_longer(meta, key_bytes_max)
            or _any_longer(self.metrics, key_bytes_max)
        )

    def get_metric(self, key: str) -> float | None:
        """The numeric tag of that name, or None."""
        return self.metrics.get(key)

    def set_metric(self, key: str, value: float) -> None:
        """Add or replace one numeric tag."""
        self.metrics[key] = value

    def remove_metric(self, key: str) -> None:
        """Remove a numeric tag; nothing happens when there is none."""
        self.metrics.pop(key, None)

    def metric_items(self) -> Iterable[tuple[str, float]]:
        """All numeric tags in their order; take a list of it before changing any."""
        return self.metrics.items()


def _any_longer(texts: Collection[str], bytes_max: int) -> bool:
    # When all of them together are short, none is long; joining a few is the fastest way to ask.
    if len(texts) <= _JOINED_MAX and len("".join(texts)) * UTF8_BYTES_MAX <= bytes_max:
        return False
    longest = max(map(len, texts), default=0)
    if longest * UTF8_BYTES_MAX <= bytes_max:
        return False
    if longest > bytes_max or all(map(str.isascii, texts)):
        return longest > bytes_max
    return any(len(encode_text(text)) > bytes_max for text in texts)


class Span(SpanFace):
    """One timed operation; every field may be read and set.

    Attributes:
        service, name, resource, type: Text that can be written as UTF-8: decode repairs what
            cannot.
        trace_id, span_id, parent_id: From 0 to 2^64 - 1; a root has parent 0.
        start: Nanoseconds since 1970, within 64 bits and a sign.
        duration: Nanoseconds, never negative after decoding.
        error: Non-zero for a failed operation, within 32 bits and a sign.
        meta_struct: Structured tags, each a MessagePack document of its own.
        links, events: Rare, so they are plain objects; may be changed in place.
    """

    __slots__ = (
        "duration",
        "error",
        "events",
        "links",
        "meta",
        "meta_struct",
        "metrics",
        "name",
        "parent_id",
        "resource",
        "service",
        "span_id",
        "start",
        "trace_id",
        "type",
    )

    def __init__(self) -> None:
        self.service = ""
        self.name = ""
        self.resource = ""
        self.trace_id = 0
        self.span_id = 0
        self.parent_id = 0
        self.start = 0
        self.duration = 0
        self.error = 0
        self.meta: dict[str, str] = {}
        self.metrics: dict[str, float] = {}
        self.type = ""
        self.meta_struct: dict[str, bytes] = {}
        # Few spans have any; a list for each would keep the garbage collector busy.
        self.links: Sequence[SpanLink] = ()
        self.events: Sequence[SpanEvent] = ()


class TraceChunk:
    """The spans of one trace that arrived together; never empty when rules see it.

    What rules ask of all spans at once are methods here: the compiled twin answers them in one
    pass. Some may answer "I cannot tell": then the rule looks at every span by itself.

    A long trace is not worked on at one go. Rules for single spans are called once for each window
    of it, and see no other spans; its root, and what else asks for the whole trace, is the same.

    Attributes:
        spans: Those of the window; without one, all.
        root_index: Of the span that stands for the whole chunk.
        priority: The sampling decision, or PRIORITY_NONE.
        origin: The product the trace began in (`synthetics`, `rum`), or empty.
        tags: Of the chunk as a whole.
        is_dropped: The tracer's sampling decided against the trace and sent it all the same.
    """

    __slots__ = (
        "_first",
        "_services",
        "_whole",
        "is_dropped",
        "origin",
        "priority",
        "root_index",
        "spans",
        "tags",
    )

    # How many spans are still to be read; only the compiled twin gives a chunk that has some.
    unread = 0

    def __init__(self, spans: list[Span]) -> None:
        assert spans, "a chunk without spans"
        self.spans = self._whole = spans
        # Where the window begins.
        self._first = 0
        # The service by span, while windows are marked.
        self._services: dict[int, str] | None = None
        self.root_index = len(spans) - 1
        self.priority = PRIORITY_NONE
        self.origin = ""
        self.tags: dict[str, str] = {}
        self.is_dropped = False

    def __len__(self) -> int:
        """How many spans, inside the window and outside."""
        return len(self._whole)

    def __iter__(self) -> Iterator[Span]:
        """All spans in their order."""
        return iter(self._whole)

    @property
    def root(self) -> Span:
        """The span that stands for the whole chunk."""
        return self._whole[self.root_index]

    def open_window(self, first: int, end: int) -> None:
        """Have the rules see only the spans from `first` to before `end`."""
        self.spans = self._whole[first:end]
        self._first = first

    def forget_window(self) -> None:
        """Let the spans of the window go, of which nothing is asked any more.

        To free all spans of a long trace takes as long as some of the steps before.
        """
        if self.spans is not self._whole:
            self._whole[self._first : self._first + len(self.spans)] = [GONE] * len(self.spans)

    def read_on(self, reader: Reader, findings: Findings) -> bool:
        """Read some more spans; false when they are not in order."""
        raise AssertionError("a plain chunk is whole")

    def select(self, indices: Sequence[int]) -> TraceChunk:
        """A chunk of some of the spans, like this one in all else but the root."""
        selected = TraceChunk([self._whole[index] for index in indices])
        selected.priority = self.priority
        selected.origin = self.origin
        selected.tags = self.tags
        selected.is_dropped = self.is_dropped
        return selected

    def settle(self, texts: NormalTexts, findings: Findings) -> bool:
        """Normalize all spans if they are ordinary ones; false when rules must do it."""
        return False

    def last_without_parent(self) -> int:
        """The index of the last span without a parent, or -1."""
        whole = self._whole
        for index in range(len(whole) - 1, -1, -1):
            if whole[index].parent_id == 0:
                return index
        return -1

    def last_with_parent_elsewhere(self) -> int:
        """The index of the last span whose parent is not in this chunk, or -1."""
        whole = self._whole
        ids = {span.span_id for span in whole}
        for index in range(len(whole) - 1, -1, -1):
            if whole[index].parent_id not in ids:
                return index
        return -1

    def first_metric(self, key: str) -> float | None:
        """A numeric tag of the root, else of the first span that has it."""
        number = self.root.metrics.get(key)
        if number is not None:
            return number
        for span in self._whole:
            if key in span.metrics:
                return span.metrics[key]
        return None

    def first_texts(self, keys: tuple[str, ...], characters_max: int) -> tuple[str, ...]:
        """The text of each of several tags, cut.

        It is the root's, else that of the first span of another id in the window that has one,
        else empty.
        """
        root = self.root
        # Of the spans of another id, when they are asked.
        metas = None
        texts = []
        for key in keys:
            text = root.meta.get(key) or ""
            if not text:
                if metas is None:
                    metas = [span.meta for span in self.spans if span.span_id != root.span_id]
                text = next((found for meta in metas if (found := meta.get(key))), "")
            texts.append(text[:characters_max])
        return tuple(texts)

    def note_services(self) -> None:
        """Note the services of the spans of the window, for `mark_entries` of later windows."""
        services = self._services
        if services is None:
            services = self._services = {}
        services.update({span.span_id: span.service for span in self.spans})

    def mark_where(self, key: str, mark: str) -> None:
        """Set the numeric tag `mark` to 1 where there is one named `key`."""
        for span in self.spans:
            if key in span.metrics:
                span.metrics[mark] = 1.0

    def mark_entries(self, mark: str) -> None:
        """Set the numeric tag `mark` to 1 on spans whose service is not that of their parent."""
        services = self._services
        if services is None:
            services = self._services = {span.span_id: span.service for span in self._whole}
        for span in self.spans:
            # A parent of 0 is none, even if some span has that id.
            if span.parent_id == 0 or services.get(span.parent_id) != span.service:
                span.metrics[mark] = 1.0

    def update_meta(self, tags: TagSet, unless_named: str = "") -> None:
        """Add or replace several tags of every span, apart from those with a certain name."""
        for span in self.spans:
            if not unless_named or span.name != unless_named:
                span.meta.update(tags.texts)

    def spans_to_obfuscate(self, settled: SettledTexts) -> list[Span]:
        """The spans that the rules must look at; what is known of the others is done."""
        return self.spans

    def has_longer_texts(
        self, resource_bytes_max: int, key_bytes_max: int, value_bytes_max: int
    ) -> bool:
        """Whether any span has a resource, a tag's name or a tag's text of more bytes."""
        keys: set[str] = set()
        for span in self.spans:
            for named in (span.meta, span.metrics):
                if len(named) <= _JOINED_MAX:
                    keys.update(named)
                elif _any_longer(named, key_bytes_max):
                    return True
            if len(span.resource) * UTF8_BYTES_MAX > resource_bytes_max and _any_longer(
                (span.resource,), resource_bytes_max
            ):
                return True
            if _any_longer(span.meta.values(), value_bytes_max):
                return True
        return _any_longer(keys, key_bytes_max)

    def encode(self, head: bytes, tail: bytes) -> bytes | None:
        """The chunk as a field of its payload; None where encode.py must do it.

        Args:
            head, tail: What stands before and behind the spans.
        """
        return None

    def encode_window(self) -> bytes | None:
        """The spans as fields of a chunk; None where encode.py must do it."""
        return None


# Stands where a span was.
GONE = Span()


def windows(chunk: TraceChunk, load_each: float = 0.0, root_first: bool = False) -> Iterator[range]:
    """Open one window after the other; gives which spans are in it.

    Args:
        load_each: How much a span has of lenient.Findings.load.
        root_first: Begin with the one that has the root, for what asks the root in each.
    """
    length = SPANS_A_STEP
    if load_each:
        length = max(1, min(length, int(OBJECTS_A_STEP / load_each)))
    begins = list(range(0, len(chunk), length))
    if root_first:
        begins.insert(0, begins.pop(chunk.root_index // length))
    for first in begins:
        end = min(first + length, len(chunk))
        chunk.open_window(first, end)
        yield range(first, end)
