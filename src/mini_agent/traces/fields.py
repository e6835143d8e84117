"""Field numbers of the trace messages, and the tag names the agent itself reads or writes.

The numbers are the wire format of the intake's `/api/v0.2/traces`. Everyone who writes or reads
these messages takes them from here.

Source: reference-agent 4.9.
"""

from __future__ import annotations


class AgentPayload:
    """The body of one request to the intake."""

    TRACER_PAYLOADS = 5
    TARGET_TPS = 8
    ERROR_TPS = 9


class TracerPayload:
    """What one tracer sent, grouped by what is true of all its chunks."""

    CONTAINER_ID = 1
    LANGUAGE_NAME = 2
    LANGUAGE_VERSION = 3
    TRACER_VERSION = 4
    RUNTIME_ID = 5
    CHUNKS = 6
    TAGS = 7
    ENV = 8
    HOSTNAME = 9
    APP_VERSION = 10


class TraceChunk:
    """The spans of one trace that arrived together."""

    PRIORITY = 1
    ORIGIN = 2
    SPANS = 3
    TAGS = 4
    DROPPED_TRACE = 5


class Span:
    """One timed operation."""

    SERVICE = 1
    NAME = 2
    RESOURCE = 3
    TRACE_ID = 4
    SPAN_ID = 5
    PARENT_ID = 6
    START = 7
    DURATION = 8
    ERROR = 9
    META = 10
    METRICS = 11
    TYPE = 12
    META_STRUCT = 13
    SPAN_LINKS = 14
    SPAN_EVENTS = 15


class SpanLink:
    """A reference to a span of another trace."""

    TRACE_ID = 1
    TRACE_ID_HIGH = 2
    SPAN_ID = 3
    ATTRIBUTES = 4
    TRACESTATE = 5
    FLAGS = 6


class SpanEvent:
    """Something that happened at one moment of a span."""

    TIME_UNIX_NANO = 1
    NAME = 2
    ATTRIBUTES = 3


class AttributeValue:
    """A typed attribute of an event; items of its array have the same numbers up to DOUBLE."""

    TYPE = 1
    STRING = 2
    BOOL = 3
    INT = 4
    DOUBLE = 5
    ARRAY = 6


class AttributeArray:
    """The items of an attribute that is an array."""

    VALUES = 1


class MapEntry:
    """One entry of any map field."""

    KEY = 1
    VALUE = 2
