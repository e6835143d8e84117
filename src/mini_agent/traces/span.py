"""A span as a view: the contract between decoding, the rules, and encoding.

Decoding keeps what the tracer sent as bytes; nothing becomes a Python string unless a rule asks
for it, and encoding copies what no rule touched. Rules (normalize, enrich, obfuscate) read and
set single fields through the properties and methods here and through nothing else, so that a
compiled twin with the same face can take the place of these classes and no rule changes.

The attributes named `raw_` belong to decode, encode and stats_key alone.
"""

from __future__ import annotations

from mini_agent.wire.protobuf import encode_text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from mini_agent.traces.express import NormalTexts, SettledTexts
    from mini_agent.traces.lenient import Findings

# Stands for "no sampling decision came with this chunk". Source: reference-agent 4.3.
PRIORITY_NONE = -128

# The types of an event's attribute. Source: reference-agent 4.9.
STRING, BOOL, INT, DOUBLE, ARRAY = range(5)


class TagSet:
    """Tags that are written to many spans, converted once."""

    __slots__ = ("raw",)

    def __init__(self, tags: Mapping[str, str]) -> None:
        self.raw = {encode_text(key): encode_text(value) for key, value in tags.items()}


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


class Span:
    """One timed operation; every field may be read and set.

    Attributes:
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
        "meta_struct",
        "parent_id",
        "raw_meta",
        "raw_metrics",
        "raw_name",
        "raw_resource",
        "raw_service",
        "raw_type",
        "span_id",
        "start",
        "trace_id",
    )

    def __init__(self) -> None:
        self.trace_id = 0
        self.span_id = 0
        self.parent_id = 0
        self.start = 0
        self.duration = 0
        self.error = 0
        # Text is valid UTF-8: decode repairs what is not.
        self.raw_service = b""
        self.raw_name = b""
        self.raw_resource = b""
        self.raw_type = b""
        self.raw_meta: dict[bytes, bytes] = {}
        self.raw_metrics: dict[bytes, float] = {}
        self.meta_struct: dict[str, bytes] = {}
        self.links: list[SpanLink] = []
        self.events: list[SpanEvent] = []

    @property
    def service(self) -> str:
        """The service that did the work."""
        return self.raw_service.decode()

    @service.setter
    def service(self, value: str) -> None:
        self.raw_service = encode_text(value)

    @property
    def name(self) -> str:
        """The operation."""
        return self.raw_name.decode()

    @name.setter
    def name(self, value: str) -> None:
        self.raw_name = encode_text(value)

    @property
    def resource(self) -> str:
        """What the operation was done to: a route, a query."""
        return self.raw_resource.decode()

    @resource.setter
    def resource(self, value: str) -> None:
        self.raw_resource = encode_text(value)

    @property
    def type(self) -> str:
        """The kind of work: web, sql, ..."""
        return self.raw_type.decode()

    @type.setter
    def type(self, value: str) -> None:
        self.raw_type = encode_text(value)

    def get_meta(self, key: str) -> str | None:
        """The tag of that name, or None."""
        value = self.raw_meta.get(encode_text(key))
        return None if value is None else value.decode()

    def has_meta(self, key: str) -> bool:
        """Whether there is a tag of that name, even an empty one."""
        return encode_text(key) in self.raw_meta

    def set_meta(self, key: str, value: str) -> None:
        """Add or replace one tag."""
        self.raw_meta[encode_text(key)] = encode_text(value)

    def update_meta(self, tags: TagSet) -> None:
        """Add or replace several tags."""
        self.raw_meta.update(tags.raw)

    def remove_meta(self, key: str) -> None:
        """Remove a tag; nothing happens when there is none."""
        self.raw_meta.pop(encode_text(key), None)

    def meta_items(self) -> Iterator[tuple[str, str]]:
        """All tags in their order; take a list of it before changing any."""
        for key, value in self.raw_meta.items():
            yield key.decode(), value.decode()

    def has_longer_tags(self, key_bytes_max: int, value_bytes_max: int) -> bool:
        """Whether any tag's name or text has more bytes; asked of every span."""
        meta, metrics = self.raw_meta, self.raw_metrics
        values = meta.values()
        # When all of them together are short, none is long; joining is the fastest way to ask.
        return (
            (len(b"".join(values)) > value_bytes_max and max(map(len, values)) > value_bytes_max)
            or (len(b"".join(meta)) > key_bytes_max and max(map(len, meta)) > key_bytes_max)
            or (len(b"".join(metrics)) > key_bytes_max and max(map(len, metrics)) > key_bytes_max)
        )

    def get_metric(self, key: str) -> float | None:
        """The numeric tag of that name, or None."""
        return self.raw_metrics.get(encode_text(key))

    def set_metric(self, key: str, value: float) -> None:
        """Add or replace one numeric tag."""
        self.raw_metrics[encode_text(key)] = value

    def remove_metric(self, key: str) -> None:
        """Remove a numeric tag; nothing happens when there is none."""
        self.raw_metrics.pop(encode_text(key), None)

    def metric_items(self) -> Iterator[tuple[str, float]]:
        """All numeric tags in their order; take a list of it before changing any."""
        for key, value in self.raw_metrics.items():
            yield key.decode(), value


class TraceChunk:
    """The spans of one trace that arrived together; never empty when rules see it.

    What rules ask of all spans at once are methods here: the compiled twin answers them in one
    pass. Some may answer "I cannot tell": then the rule looks at every span by itself.

    Attributes:
        root_index: Of the span that stands for the whole chunk.
        priority: The sampling decision, or PRIORITY_NONE.
        origin: The product the trace began in (`synthetics`, `rum`), or empty.
        tags: Of the chunk as a whole.
        is_dropped: The tracer's sampling decided against the trace and sent it all the same.
    """

    __slots__ = ("is_dropped", "origin", "priority", "root_index", "spans", "tags")

    def __init__(self, spans: list[Span]) -> None:
        assert spans, "a chunk without spans"
        self.spans = spans
        self.root_index = len(spans) - 1
        self.priority = PRIORITY_NONE
        self.origin = ""
        self.tags: dict[str, str] = {}
        self.is_dropped = False

    def __len__(self) -> int:
        """How many spans."""
        return len(self.spans)

    def __iter__(self) -> Iterator[Span]:
        """The spans in their order."""
        return iter(self.spans)

    @property
    def root(self) -> Span:
        """The span that stands for the whole chunk."""
        return self.spans[self.root_index]

    def select(self, indices: Sequence[int]) -> TraceChunk:
        """A chunk of some of the spans, like this one in all else but the root."""
        selected = TraceChunk([self.spans[index] for index in indices])
        selected.priority = self.priority
        selected.origin = self.origin
        selected.tags = self.tags
        selected.is_dropped = self.is_dropped
        return selected

    def settle(self, texts: NormalTexts, findings: Findings) -> bool:
        """Normalize the whole chunk if it is an ordinary one; false when rules must do it."""
        return False

    def last_without_parent(self) -> int:
        """The index of the last span without a parent, or -1."""
        for index in range(len(self.spans) - 1, -1, -1):
            if self.spans[index].parent_id == 0:
                return index
        return -1

    def last_with_parent_elsewhere(self) -> int:
        """The index of the last span whose parent is not in this chunk, or -1."""
        ids = {span.span_id for span in self.spans}
        for index in range(len(self.spans) - 1, -1, -1):
            if self.spans[index].parent_id not in ids:
                return index
        return -1

    def first_metric(self, key: str) -> float | None:
        """A numeric tag of the root, else of the first span that has it."""
        raw_key = encode_text(key)
        number = self.root.raw_metrics.get(raw_key)
        if number is not None:
            return number
        for span in self.spans:
            if raw_key in span.raw_metrics:
                return span.raw_metrics[raw_key]
        return None

    def first_texts(self, keys: tuple[str, ...], characters_max: int) -> tuple[str, ...]:
        """The text of each of several tags, cut.

        It is the root's, else that of the first span of another id that has one, else empty.
        """
        return tuple([self._first_text(encode_text(key))[:characters_max] for key in keys])

    def _first_text(self, raw_key: bytes) -> str:
        root = self.root
        text = root.raw_meta.get(raw_key)
        if text:
            return text.decode()
        for span in self.spans:
            text = span.raw_meta.get(raw_key)
            if text and span.span_id != root.span_id:
                return text.decode()
        return ""

    def mark_where(self, key: str, mark: str) -> None:
        """Set the numeric tag `mark` to 1 where there is one named `key`."""
        raw_key, raw_mark = encode_text(key), encode_text(mark)
        for span in self.spans:
            if raw_key in span.raw_metrics:
                span.raw_metrics[raw_mark] = 1.0

    def mark_entries(self, mark: str) -> None:
        """Set the numeric tag `mark` to 1 on spans whose service is not that of their parent."""
        raw_mark = encode_text(mark)
        services = {span.span_id: span.raw_service for span in self.spans}
        for span in self.spans:
            # A parent of 0 is none, even if some span has that id.
            if span.parent_id == 0 or services.get(span.parent_id) != span.raw_service:
                span.raw_metrics[raw_mark] = 1.0

    def update_meta(self, tags: TagSet, unless_named: str = "") -> None:
        """Add or replace several tags of every span, apart from those with a certain name."""
        raw_name = encode_text(unless_named)
        for span in self.spans:
            if not raw_name or span.raw_name != raw_name:
                span.raw_meta.update(tags.raw)

    def spans_to_obfuscate(self, settled: SettledTexts) -> list[Span]:
        """The spans that the rules must look at; what is known of the others is done."""
        return self.spans

    def has_longer_texts(
        self, resource_bytes_max: int, key_bytes_max: int, value_bytes_max: int
    ) -> bool:
        """Whether any span has a resource, a tag's name or a tag's text of more bytes."""
        for span in self.spans:
            if len(span.raw_resource) > resource_bytes_max:
                return True
            if span.has_longer_tags(key_bytes_max, value_bytes_max):
                return True
        return False

    def encode(self, head: bytes, tail: bytes) -> bytes | None:
        """The chunk as a field of its payload; None where encode.py must do it.

        Args:
            head, tail: What stands before and behind the spans.
        """
        return None
