"""What both agents are sent: each field's ordinary and odd values, shapes of traces, and bodies
that are not what they should be.

A case holds one oddity, so that a difference has one cause. Spans are of types that no
obfuscator looks at, unless the case is in OBFUSCATED.
"""

from __future__ import annotations

from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
from kit.payloads import (
    BROKEN_TEXT,
    MISSING,
    as_array,
    encode,
    make_span,
    make_trace,
    raw,
)
from msgspec.msgpack import Ext

from differential.harness import Case

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

CORPUS = Path(__file__).resolve().parents[1] / "corpus"

PLAIN = {"type": "custom"}
U64_MAX = (1 << 64) - 1
I64_MAX, I64_MIN = (1 << 63) - 1, -(1 << 63)
I32_MAX, I32_MIN = (1 << 31) - 1, -(1 << 31)
YEAR_2000_NS = 946_684_800_000_000_000

# The reference leaves bytes of letters standing and sends what is not UTF-8: an intake that reads
# strictly refuses everything in that request.
UNREADABLE_NAME = "caf\u00e9\u00e9 au lait"

# Values of every kind of MessagePack, for fields that want another.
KINDS = {
    "nil": None,
    "true": True,
    "integer": 7,
    "negative": -7,
    "float": 1.5,
    "text": "text",
    "empty": "",
    "binary": b"bytes",
    "array": [1, "a"],
    "map": {"a": 1},
    "extension": Ext(5, b"abc"),
    "broken": BROKEN_TEXT,
}

# What tag normalization and name normalization have rules for.
TEXTS = {
    "upper": "MyService",
    "digits": "1a2",
    "blanks": "A  B",
    "owl": "a\N{OWL}b",
    "dot": ".",
    "dash": "-a",
    "underscores": "ab___",
    "leading": "__ab",
    "dotted-i": "\N{LATIN CAPITAL LETTER I WITH DOT ABOVE}stanbul",
    "circled": "\N{CIRCLED DIGIT ONE}a",
    "circled-inside": "a\N{CIRCLED DIGIT ONE}",
    "circled-letter": "\N{CIRCLED LATIN CAPITAL LETTER A}bc",
    "roman": "\N{ROMAN NUMERAL EIGHT}bc",
    "titlecase": "\N{LATIN CAPITAL LETTER D WITH SMALL LETTER Z WITH CARON}ab",
    "longer-lower": "\N{LATIN CAPITAL LETTER A WITH STROKE}bc",
    "modifier": "a\N{MODIFIER LETTER SMALL H}b",
    "japanese": "\u65e5\u672c",
    "hindi": "\u0939\u093f\u0928\u094d\u0926\u0940",
    "thai": "\u0e20\u0e32\u0e29\u0e32\u0e31\u0e48\u0e07",
    "arabic": "\u0639\u064e\u0631\u064e\u0628\u064a",
    "combining": "e\u0301a",
    "arabic-digits": "a\u0661\u0662",
    "dashes": "a--b",
    "under-under": "a__b",
    "dots": "a..b",
    "under-dot": "a_.b",
    "everything": "__a..--b__c.",
    "dots-and-bars": "x.__.y",
    "view": "__main__.show_order",
    "colon": "a:b:c",
    "slash": "a/b/c",
    "sharp-s": "\u1e9eab",
    "greek": "\u03a3\u0391\u03a3",
    "line": "a\nb\tc",
    "long": "x" * 250,
    "long-cut-in-separator": "x" * 99 + "--yz",
    "long-wide": "\u65e5" * 150,
    "hundred": "y" * 100,
    "hundred-and-one": "y" * 101,
}

FIELDS = (
    *("service", "name", "resource", "type", "trace_id", "span_id", "parent_id", "start"),
    *("duration", "error", "meta", "metrics", "meta_struct", "span_links", "span_events"),
)


def span(**overrides: Any) -> dict[str, Any]:
    return make_span(**{**PLAIN, **overrides})


def trace(spans: int = 1, **overrides: Any) -> list[dict[str, Any]]:
    return make_trace(spans, **{**PLAIN, **overrides})


def tagged(**meta: Any) -> dict[str, Any]:
    """A span with these tags besides its own; underscores in names stand for dots."""
    made = span()
    made["meta"].update({key.replace("_", "."): value for key, value in meta.items()})
    return made


def bodies() -> Iterator[tuple[str, Any]]:
    """Name and payload of every generated case."""
    yield "plain", [[span()]]
    yield "nothing", []
    yield "no spans", [[], []]
    yield "several traces", [trace(3), trace(1), trace(2)]
    yield "some empty", [[], trace(2), []]
    yield from _fields()
    yield from _texts()
    yield from _numbers()
    yield from _tags()
    yield from _ids()
    yield from _links_and_events()
    yield from _traces()
    yield from _frames()


def _fields() -> Iterator[tuple[str, Any]]:
    for field in FIELDS:
        yield f"{field} missing", [[span(**{field: MISSING})]]
        for kind, value in KINDS.items():
            # A good span beside it: what is lost with it shows.
            yield f"{field} {kind}", [[span(**{field: value})], [span()]]
    yield "unknown key", [[span(surprise={"a": [1]})]]
    yield "array", [[as_array(span())]]
    yield "short array", [[as_array(span(), 8)]]
    yield "empty map", [[{}], [span()]]
    yield "nil span", [[None, span()]]
    yield "nil trace", [None, [span()]]


def _texts() -> Iterator[tuple[str, Any]]:
    for word, text in TEXTS.items():
        for field in ("service", "name", "resource", "type"):
            # What the reference makes of such names is no text at all: see UNREADABLE_NAME.
            if field != "name" or text.isascii():
                yield f"{field} of {word}", [[span(**{field: text})]]
        yield f"env of {word}", [[tagged(env=text)]]
    yield "no resource, odd name", [[span(resource="", name="a--b.c")]]
    yield "no resource, no name", [[span(resource="", name="")]]
    yield "long resource", [[span(resource="r" * 4999 + "\u00e9\u00e9")]]
    yield "long enough resource", [[span(resource="r" * 5000)]]
    yield "env of nothing else", [[span(meta={"env": "--"})]]


def _numbers() -> Iterator[tuple[str, Any]]:
    for number in (0, 1, -1, I64_MIN, I64_MAX, U64_MAX, YEAR_2000_NS, YEAR_2000_NS - 1):
        yield f"start {number}", [[span(start=number, duration=5)], [span()]]
        yield f"duration {number}", [[span(duration=number)], [span()]]
    yield "ends in time", [[span(start=I64_MAX - 5, duration=5)]]
    yield "ends too late", [[span(start=I64_MAX - 5, duration=6)]]
    yield "before time", [[span(start=5, duration=I64_MAX)]]
    for number in (1, 2, -1, I32_MAX, I32_MIN, I32_MAX + 1):
        yield f"error {number}", [[span(error=number)], [span()]]


def _tags() -> Iterator[tuple[str, Any]]:
    codes = ("200", "099", "100", "599", "600", "+200", "0200", "-200", " 200", "2e2", "", "\u0662")
    for code in codes:
        yield f"status code {code.encode().hex() or 'empty'}", [[tagged(http_status_code=code)]]
    for kind, value in KINDS.items():
        yield f"tag {kind}", [[tagged(odd=value)], [span()]]
        yield f"metric {kind}", [[span(metrics={"odd": value})], [span()]]
        yield f"key {kind}", [[span(meta=_pairs((value, "a")))], [span()]]
    yield "tag twice", [[span(meta=_pairs(("a", "1"), ("a", "2")))]]
    ids = ("trace_id", 5), ("span_id", 6)
    yield "field twice", [[_pairs(("name", "a"), ("name", "b"), *ids)], [span()]]
    for length in (200, 201):
        yield f"key of {length}", [[span(meta={"k" * length: "v"}, metrics={"m" * length: 1})]]
    yield "key cut in letter", [[span(meta={"k" * 199 + "\u00e9": "v"})]]
    for length in (25_000, 25_001):
        yield f"value of {length}", [[tagged(long="v" * length)]]
    yield (
        "document",
        [[span(meta={"_dd.appsec.json": "v" * 30_000, "_dd.json.other": "v" * 30_000})]],
    )
    yield "many tags", [[span(meta={f"tag{index}": "v" for index in range(300)})]]
    for number in (float("inf"), float("-inf"), float("nan"), -0.0, 1e300, 2**63):
        yield f"metric {number}", [[span(metrics={"odd": number})]]
    yield "struct", [[span(meta_struct={"appsec": b"\x81\xa1a\x01", "empty": b""})]]


def _pairs(*pairs: tuple[Any, Any]) -> Any:
    """A map with keys that a dict cannot have."""
    return raw(bytes((0x80 | len(pairs),)) + b"".join(encode(each) for each in chain(*pairs)))


def _ids() -> Iterator[tuple[str, Any]]:
    yield "large ids", [[span(trace_id=U64_MAX, span_id=U64_MAX - 1, parent_id=U64_MAX - 2)]]
    yield "own parent", [[span(trace_id=77, span_id=77, parent_id=77)]]
    yield "parent as trace", [[span(trace_id=78, span_id=79, parent_id=78)]]
    for field in ("trace_id", "span_id"):
        odd = trace(3)
        odd[1][field] = 0
        yield f"{field} of zero inside", [odd]
    yield "foreign span", [[span(), *trace(2)]]
    twice = trace(2)
    twice[1]["span_id"] = twice[0]["span_id"]
    yield "span id twice", [twice]


def _links_and_events() -> Iterator[tuple[str, Any]]:
    link = {"trace_id": 1, "span_id": 2, "trace_id_high": 3, "attributes": {"a": "b"}}
    full = {**link, "tracestate": "dd=s:1", "flags": 1 << 31 | 1}
    yield "link", [[span(span_links=[full])]]
    for field in ("trace_id", "span_id"):
        short = {key: value for key, value in link.items() if key != field}
        yield f"link without {field}", [[span(span_links=[short, full])], [span()]]
    for field in full:
        for kind in ("nil", "float", "text"):
            yield (
                f"link {field} {kind}",
                [[span(span_links=[{**full, field: KINDS[kind]}])], [span()]],
            )
    event = {
        "time_unix_nano": 5,
        "name": "e",
        "attributes": {"a": {"type": 0, "string_value": "s"}},
    }
    yield "event", [[span(span_events=[event])]]
    for field in event:
        for kind in ("nil", "float", "text", "negative"):
            yield (
                f"event {field} {kind}",
                [[span(span_events=[{**event, field: KINDS[kind]}])], [span()]],
            )
    attributes = {
        "bool": {"type": 1, "bool_value": True},
        "int": {"type": 2, "int_value": -5},
        "double": {"type": 3, "double_value": 0.5},
        "array": {"type": 4, "array_value": {"values": [{"type": 0, "string_value": "x"}]}},
        "no value": {"type": 2},
        "plain text": "s",
        "plain integer": 5,
        "plain list": ["s"],
        "nil": None,
    }
    for name, attribute in attributes.items():
        odd = {**event, "attributes": {"odd": attribute}}
        yield f"attribute {name}", [[span(span_events=[odd])], [span()]]


def _traces() -> Iterator[tuple[str, Any]]:
    yield "no root", [trace(3, parent_id=5)]
    roots = trace(3)
    roots[2]["parent_id"] = 0
    yield "two roots", [roots]
    circle = trace(2)
    circle[0]["parent_id"] = circle[1]["span_id"]
    yield "circle", [circle]
    yield "last is root", [list(reversed(trace(3)))]
    services = trace(4)
    services[1]["service"] = "other"
    services[2]["parent_id"] = services[1]["span_id"]
    services[3]["service"] = "Checkout-API"
    yield "services", [services]
    for number in (2, -1, 0, 2.9, float("nan"), 1e30):
        yield f"priority {number}", [[span(metrics={"_sampling_priority_v1": number})]]
    yield "no priority", [[span(metrics={})]]
    inner = trace(3, metrics={})
    inner[2]["metrics"] = {"_sampling_priority_v1": 2}
    yield "priority of another", [inner]
    for origin in ("synthetics", "rum", "", "ciapp-test"):
        yield f"origin {origin or 'empty'}", [[span(meta={"_dd.origin": origin})]]


def _frames() -> Iterator[tuple[str, Any]]:
    for key in ("env", "version", "_dd.hostname", "runtime-id"):
        first, second = span(), span()
        first["meta"][key], second["meta"][key] = "one", "two"
        yield f"two of {key}", [[first], [second]]
        inner = trace(2)
        del inner[0]["meta"]["env"]
        inner[0]["meta"].pop(key, None)
        inner[1]["meta"][key] = "inner"
        yield f"{key} inside", [inner]
        without = span()
        without["meta"].pop(key, None)
        yield f"one without {key}", [[without], [first]]


HEADERS: dict[str, Mapping[str, str]] = {
    "all": {
        "datadog-meta-lang": "python",
        "datadog-meta-lang-version": "3.12.1",
        "datadog-meta-lang-interpreter": "CPython",
        "datadog-container-id": "abcdef",
        "x-datadog-trace-count": "1",
        "content-type": "application/msgpack",
    },
    "top-level": {"datadog-client-computed-top-level": "yes"},
    "no top-level": {"datadog-client-computed-top-level": "f"},
    "stats": {"datadog-client-computed-stats": "true"},
    "another type": {"content-type": "text/plain"},
}

# Bodies that are no payload, or none that is whole.
WRONG: dict[str, bytes] = {
    "no body": b"",
    "nil": b"\xc0",
    "map": b"\x80",
    "text": b"\xa1a",
    "probe": b"\x90",
    "half": encode([[span()]])[:-9],
    "more behind": encode([[span()]]) + b"\xc1\xff",
    "reserved": b"\x91\xc1",
    "long array": b"\xdd\xff\xff\xff\xff",
    "deep": b"\x91" * 2000,
    "random": bytes(range(255, 0, -1)),
}

# One of each kind; the tables of the obfuscators have the rest.
OBFUSCATED: dict[str, Mapping[str, Any]] = {
    "sql": {
        "type": "sql",
        "resource": "SELECT a FROM b WHERE c = 'secret' AND d IN (1, 2)",
    },
    "redis": {
        "type": "redis",
        "resource": "SET key secret",
        "meta": {"redis.raw_command": "SET key secret"},
    },
    "web": {"type": "web", "meta": {"http.url": "https://a.example/b/1?c=secret"}},
    "card": {"type": "web", "meta": {"card.number": "4111 1111 1111 1111"}},
    "memcached": {"type": "memcached", "meta": {"memcached.command": "set key 0 0 6\r\nsecret"}},
}


def cases() -> Iterator[Case]:
    """Every case, recorded ones included."""
    for name, payload in bodies():
        yield Case(name, encode(payload))
    for name, headers in HEADERS.items():
        yield Case(f"headers {name}", encode([trace(2)]), headers)
    for name, body in WRONG.items():
        yield Case(f"wrong {name}", body)
    for name, overrides in OBFUSCATED.items():
        yield Case(f"obfuscated {name}", encode([[make_span(**overrides)]]))
    for path in sorted(CORPUS.glob("v04-*.msgpack")):
        yield Case(f"recorded {path.stem}", path.read_bytes())
    for path in sorted(CORPUS.glob("v05-*.msgpack")):
        body = path.read_bytes()
        yield Case(f"recorded {path.stem}", body, path="/v0.5/traces", as_v04=as_v04(body))


# The values of a span on v0.5, in their order; the first three and the last are texts, and so are
# keys and values of meta and keys of metrics. Texts are indexes into a table.
V05_KEYS = (
    *("service", "name", "resource", "trace_id", "span_id", "parent_id", "start", "duration"),
    *("error", "meta", "metrics", "type"),
)


def as_v04(body: bytes) -> bytes:
    """A sound v0.5 body as its tracer would have said it on v0.4."""
    texts, traces = msgspec.msgpack.decode(body, strict=False)
    return encode([[_span_of_v05(values, texts) for values in spans] for spans in traces])


def _span_of_v05(values: list[Any], texts: list[str]) -> dict[str, Any]:
    span = dict(zip(V05_KEYS, values, strict=True))
    for key in ("service", "name", "resource", "type"):
        span[key] = texts[span[key]]
    span["meta"] = {texts[key]: texts[value] for key, value in span["meta"].items()}
    span["metrics"] = {texts[key]: value for key, value in span["metrics"].items()}
    return span
