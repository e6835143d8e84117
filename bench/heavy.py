"""Requests that are as heavy as one kind of content can make them within the agent's limits.

Each kind goes to a limit of its own: the size of a body, or how many spans, tags, texts or objects
one may hold. Most are one trace, because a trace is what travels together.
"""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING, Any

import msgspec
from driver import HEAD
from payloads import SERVICE, START_NS, Traffic

from mini_agent.listen.http import BODY_BYTES_MAX
from mini_agent.traces.concentrator import GROUPS_MAX as COUNTED_MAX
from mini_agent.traces.decode_json import JSON_BYTES_MAX
from mini_agent.traces.decode_v05 import TEXTS_MAX
from mini_agent.traces.lenient import OBJECTS_MAX, SPANS_MAX, TAGS_MAX
from mini_agent.traces.stats_receiver import GROUPS_MAX

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from payloads import Span

    Encode = Callable[[Any], bytes]

V04, V05, V07, STATS = "/v0.4/traces", "/v0.5/traces", "/v0.7/traces", "/v0.6/stats"

ONE_MB = 1_000_000
LONG_TRACE = 16_000
# Room for what stands around the traces.
FRAME_BYTES = 64

pack: Encode = msgspec.msgpack.encode


class Kind:
    """One kind of request.

    Attributes:
        make: The body, from traffic that no other body was made of.
        status: With which it is answered.
        clients: How many send it at the same time.
    """

    def __init__(
        self,
        name: str,
        make: Callable[[Traffic], bytes],
        path: str = V04,
        status: int = 200,
        clients: int = 1,
    ) -> None:
        self.name = name
        self.make = make
        self.path = path
        self.status = status
        self.clients = clients

    def request(self, seed: int) -> bytes:
        """The request with its head; other seeds give other ones."""
        body = self.make(Traffic(seed))
        assert len(body) <= BODY_BYTES_MAX, f"{self.name}: {len(body)} bytes"
        # The count is not looked at.
        head = HEAD.format(traces=1, length=len(body)).replace(V04, self.path, 1)
        return head.encode() + body


# Bodies of traces


def _fitting(items: Iterable[Any], bytes_max: int, encode: Encode = pack) -> list[msgspec.Raw]:
    """As many as fit, encoded; with a comma behind each."""
    fitting: list[msgspec.Raw] = []
    left_bytes = bytes_max - FRAME_BYTES
    for item in items:
        encoded = encode(item)
        left_bytes -= len(encoded) + 1
        if left_bytes < 0:
            return fitting
        fitting.append(msgspec.Raw(encoded))
    raise AssertionError(f"{left_bytes} of {bytes_max} bytes are left")


def _full(traffic: Traffic) -> bytes:
    # No span of a long trace is below 400 bytes on average.
    return pack([_fitting(traffic.trace(BODY_BYTES_MAX // 400), BODY_BYTES_MAX)])


def _json_traces(traffic: Traffic) -> bytes:
    traces = (traffic.trace() for _ in range(JSON_BYTES_MAX // 1000))
    return msgspec.json.encode(_fitting(traces, JSON_BYTES_MAX, msgspec.json.encode))


def _json_trace(traffic: Traffic) -> bytes:
    trace = traffic.trace(JSON_BYTES_MAX // 400)
    return msgspec.json.encode([_fitting(trace, JSON_BYTES_MAX, msgspec.json.encode)])


def _v05(traffic: Traffic) -> bytes:
    texts: dict[str, int] = {"": 0}

    def index(text: str) -> int:
        return texts.setdefault(text, len(texts))

    def row(span: Span) -> list[Any]:
        return [
            *(index(span[key]) for key in ("service", "name", "resource")),
            *(span.get(key, 0) for key in ("trace_id", "span_id", "parent_id")),
            *(span.get(key, 0) for key in ("start", "duration", "error")),
            {index(key): index(value) for key, value in span["meta"].items()},
            {index(key): value for key, value in span["metrics"].items()},
            index(span.get("type", "")),
        ]

    trace = [row(span) for span in traffic.trace(LONG_TRACE)]
    return pack([list(texts), [trace]])


def _v05_texts(traffic: Traffic) -> bytes:
    """As many texts as a table may have, and one span that needs none of them."""
    row = [0, 0, 0, 1, 2, 0, START_NS, 1000, 0, {}, {}, 0]
    return pack([["", *(f"text-{number:07}" for number in range(TEXTS_MAX - 1))], [[row]]])


def _v07(traffic: Traffic) -> bytes:
    chunk = {"priority": 1, "origin": "", "spans": traffic.trace(LONG_TRACE), "tags": {}}
    return pack({"language_name": "python", "env": "production", "chunks": [chunk]})


def _grouped(traffic: Traffic) -> bytes:
    """Web spans, each in a trace of its own, for as many groups as one tracer gets."""
    traces = [traffic.trace(1) for _ in range(3 * COUNTED_MAX)]
    for number, [span] in enumerate(traces):
        # Resources that differ are counted apart up to a limit, so services do too.
        group = number % COUNTED_MAX
        span |= {"resource": f"GET /page/{group % 1000}", "service": f"shop-{group // 1000}"}
    return pack(traces)


def _tags(traffic: Traffic) -> bytes:
    each = 100
    trace = traffic.trace(TAGS_MAX // each)
    for number, span in enumerate(trace):
        span["meta"] = {f"key-{tag:03}": f"v-{number:05}" for tag in range(each)}
        span["metrics"] = {}
    return pack([trace])


def _unordered(traffic: Traffic) -> bytes:
    trace = traffic.trace(2000)
    for span in trace:
        span["meta"]["attempt"] = 3
    return pack([trace])


def _queries(traffic: Traffic) -> bytes:
    trace = traffic.trace(1000)
    for number, span in enumerate(trace):
        span |= {"type": "sql", "service": "postgres", "resource": _query(number, 2000)}
    return pack([trace])


def _query(number: int, length: int) -> str:
    terms: list[str] = []
    size = 0
    while size < length:
        terms.append(f"o.sku = 'SKU-{number:05}-{len(terms):06}' AND region = {len(terms)}")
        size += len(terms[-1]) + 4
    return f"SELECT price FROM offers o WHERE {' OR '.join(terms)}"


def _events(traffic: Traffic) -> bytes:
    """Each event is an object, and so is each of its attributes."""
    event = {
        "time_unix_nano": START_NS,
        "name": "exception",
        "attributes": {
            "exception.type": {"type": 0, "string_value": "ValueError"},
            "exception.message": {"type": 0, "string_value": "no such product"},
            "exception.escaped": {"type": 1, "bool_value": False},
            "attempt": {"type": 2, "int_value": 3},
        },
    }
    objects, spans = 1 + len(event["attributes"]), 1000  # type: ignore[arg-type]
    trace = traffic.trace(spans)
    for span in trace:
        span["span_events"] = [event] * (OBJECTS_MAX // objects // spans)
    return pack([trace])


def _links(spans: int) -> Callable[[Traffic], bytes]:
    def make(traffic: Traffic) -> bytes:
        trace = traffic.trace(spans)
        for span in trace:
            span["span_links"] = [
                {"trace_id": number + 1, "span_id": number + 2, "flags": 1}
                for number in range(OBJECTS_MAX // spans)
            ]
        return pack([trace])

    return make


# One span, which nobody can divide


def _alone(**fields: Any) -> bytes:
    [span] = Traffic().trace(1)
    for key, value in fields.items():
        span[key] = {**span[key], **value} if key == "meta" else value
    return pack([[span]])


def _alone_query(traffic: Traffic) -> bytes:
    return _alone(type="sql", service="postgres", resource=_query(0, ONE_MB))


def _alone_commands(traffic: Traffic) -> bytes:
    raw = "\n".join(f"SET cart:{number} {number * 7}" for number in range(ONE_MB // 24))
    return _alone(type="redis", meta={"redis.raw_command": raw})


def _alone_url(traffic: Traffic) -> bytes:
    path = "".join(f"/item-{number}" for number in range(ONE_MB // 12))
    return _alone(type="http", meta={"http.url": f"https://shop.example.com{path}?page=1"})


def _alone_text(traffic: Traffic) -> bytes:
    return _alone(meta={"error.stack": "at storefront.views (line 120)\n" * (10 * ONE_MB // 31)})


def _alone_tags(traffic: Traffic) -> bytes:
    return _alone(meta={f"key-{number:06}": f"v-{number:06}" for number in range(100_000)})


def _alone_event(traffic: Traffic) -> bytes:
    text = {"type": 0, "string_value": "no such product"}
    attributes = {f"key-{number:06}": text for number in range(100_000)}
    return _alone(
        span_events=[{"time_unix_nano": START_NS, "name": "exception", "attributes": attributes}]
    )


def _alone_structure(traffic: Traffic) -> bytes:
    """A structure as an array of its bytes."""
    return _alone(meta_struct={"_dd.stack": [7] * (BODY_BYTES_MAX - 2000)})


def _alone_json(traffic: Traffic) -> bytes:
    [span] = traffic.trace(1)
    span["meta"] = {f"key-{number:06}": f"v-{number:06}" for number in range(150_000)}
    return msgspec.json.encode([[span]])


def _alone_unknown(traffic: Traffic) -> bytes:
    """A field that no version has, as many values as a body holds."""
    return _alone(unknown=[0] * (BODY_BYTES_MAX - 2000))


# Stats


def _groups(traffic: Traffic) -> bytes:
    random = Random(1)
    groups = [
        {
            "Service": SERVICE,
            "Name": "django.request",
            "Resource": f"GET /page/{number}",
            "HTTPStatusCode": 200,
            "Type": "web",
            "DBType": "",
            "Hits": 3,
            "Errors": 0,
            "Duration": 3_000_000 + number,
            # Its bytes are passed on as they are.
            "OkSummary": random.randbytes(90),
            "ErrorSummary": random.randbytes(30),
            "Synthetics": False,
            "TopLevelHits": 3,
            "SpanKind": "server",
            "PeerTags": [],
            "IsTraceRoot": 1,
        }
        for number in range(GROUPS_MAX)
    ]
    bucket = {"Start": START_NS, "Duration": 10_000_000_000, "Stats": groups}
    return pack({"Env": "production", "Version": "1", "Lang": "python", "Stats": [bucket]})


KINDS = (
    Kind("the first request, 100 traces x 10 spans", lambda traffic: traffic.body()),
    Kind("a later one, 100 traces x 10 spans", lambda traffic: traffic.body()),
    Kind("100 traces x 10 spans, 8 clients at once", lambda traffic: traffic.body(), clients=8),
    # Just short enough to be taken while another answer is being finished.
    Kind(
        "10 traces x 10 spans, 64 clients at once", lambda traffic: traffic.body(10, 10), clients=64
    ),
    Kind("a span, 500 clients at once", lambda traffic: traffic.body(1, 1), clients=500),
    Kind("a trace of 1,000 spans", lambda traffic: traffic.body(1, 1000)),
    Kind("a trace of 16,000 spans", lambda traffic: traffic.body(1, LONG_TRACE)),
    Kind("a trace of 16,000 spans, v0.5", _v05, V05),
    Kind("a trace of 16,000 spans, v0.7", _v07, V07),
    Kind("a trace as long as a body may be", _full),
    Kind("10,000 traces of a span", lambda traffic: traffic.body(10_000, 1)),
    Kind(f"{COUNTED_MAX:,} groups of stats to count", _grouped),
    Kind(f"{SPANS_MAX:,} empty traces", lambda _: pack([[]] * SPANS_MAX)),
    Kind(f"{SPANS_MAX:,} spans that are none", lambda _: pack([[1] * SPANS_MAX]), status=400),
    Kind(f"{TAGS_MAX:,} tags in a trace", _tags),
    Kind(f"v0.5, a table of {TEXTS_MAX:,} texts", _v05_texts, V05),
    Kind("JSON, many traces", _json_traces),
    Kind("JSON, a trace", _json_trace),
    Kind("2,000 spans with a tag of a wrong type", _unordered),
    Kind("1,000 spans with 2 KB of SQL", _queries),
    Kind(f"{OBJECTS_MAX:,} events and attributes", _events),
    Kind(f"{OBJECTS_MAX:,} links of 1,000 spans", _links(1000)),
    Kind(f"{OBJECTS_MAX:,} links of 100 spans", _links(100)),
    Kind(f"{GROUPS_MAX:,} groups of stats, counted by the tracer", _groups, STATS, 202),
    Kind("a span with 1 MB of SQL", _alone_query),
    Kind("a span with 1 MB of Redis commands", _alone_commands),
    Kind("a span with a URL of 1 MB", _alone_url),
    Kind("a span with a tag of 10 MB", _alone_text),
    Kind("a span with 100,000 tags", _alone_tags),
    Kind(f"a span with {OBJECTS_MAX:,} links", _links(1)),
    Kind("a span with a structure of 26,000,000 numbers", _alone_structure),
    Kind("a span with 26,000,000 values of no field", _alone_unknown),
    Kind("a span with an event of 100,000 attributes", _alone_event),
    Kind("a span with 150,000 tags in JSON", _alone_json),
)
