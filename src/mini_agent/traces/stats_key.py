"""Which spans are counted, and under which key: what spans of one group have in common.

A key is a tuple of slices of the span, so that most spans find their group without a string
being made. With decode and encode this is the third place that reads a span's `raw_` attributes:
it runs for every span.

Source: reference-agent 4.5, 6.3 and 6.5.
"""

from __future__ import annotations

from mini_agent.traces.info import PEER_TAGS
from mini_agent.traces.obfuscate.ip import quantize_peer_ips
from mini_agent.wire.protobuf import encode_text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from mini_agent.traces.span import Span

    # In the order of the names below.
    StatsKey = tuple[
        bytes,
        bytes,
        bytes,
        bytes,
        bytes,
        bytes,
        bytes,
        bytes,
        int,
        bytes,
        bool,
        int,
        tuple[bytes, ...],
    ]

# Where in a key a field stands.
RESOURCE, SERVICE, NAME, TYPE, SPAN_KIND, HTTP_METHOD, HTTP_ENDPOINT, SERVICE_SOURCE = range(8)
HTTP_STATUS, GRPC_STATUS, SYNTHETICS, IS_ROOT, PEER = range(8, 13)

# Whether the root of a trace is meant. Source: the intake's Trilean.
ROOT_NOT_SET, ROOT_TRUE, ROOT_FALSE = range(3)

_PEER_TAGS = frozenset(tag.encode() for tag in PEER_TAGS)
_BASE_SERVICE = b"_dd.base_service"
_NO_PEER: tuple[bytes, ...] = ()

# Kinds that are counted whatever else they are, and those that call somebody.
_COUNTED_KINDS = frozenset({b"server", b"client", b"producer", b"consumer"})
_CALLING_KINDS = _COUNTED_KINDS - {b"server"}

_HTTP_STATUS = b"http.status_code"
_U32_MAX = (1 << 32) - 1

_GRPC_TAGS = (b"rpc.grpc.status_code", b"grpc.code", b"rpc.grpc.status.code", b"grpc.status.code")
_GRPC_MAX = 255
_GRPC_PREFIX = b"StatusCode."
_GRPC_NAMES = {
    name: code
    for code, names in enumerate(
        (
            b"OK",
            b"CANCELLED CANCELED",
            b"UNKNOWN",
            b"INVALID_ARGUMENT",
            b"DEADLINE_EXCEEDED",
            b"NOT_FOUND",
            b"ALREADY_EXISTS",
            b"PERMISSION_DENIED",
            b"RESOURCE_EXHAUSTED",
            b"FAILED_PRECONDITION",
            b"ABORTED",
            b"OUT_OF_RANGE",
            b"UNIMPLEMENTED",
            b"INTERNAL",
            b"UNAVAILABLE",
            b"DATA_LOSS",
            b"UNAUTHENTICATED",
        )
    )
    for spelling in names.split()
    for name in (spelling, spelling.replace(b"_", b""))
}

# Values of peer tags and what they become; a program calls some dozens of hosts.
_QUANTIZED: dict[bytes, bytes] = {}
_QUANTIZED_MAX = 1024
_QUANTIZED_BYTES_MAX = 256


def is_top_level(span: Span) -> bool:
    """Whether work enters a service here."""
    metrics = span.raw_metrics
    return metrics.get(b"_top_level") == 1.0 or metrics.get(b"_dd.top_level") == 1.0


def stats_key(span: Span, top_level: bool) -> StatsKey | None:
    """What a span is counted under, or None for one that is not counted."""
    meta, metrics = span.raw_meta, span.raw_metrics
    kind = meta.get(b"span.kind", b"")
    # Most are lower already, or empty.
    lower_kind = kind
    if kind and kind not in _COUNTED_KINDS:
        lower_kind = kind.decode().lower().encode()
    if not top_level and lower_kind not in _COUNTED_KINDS and metrics.get(b"_dd.measured") != 1.0:
        return None
    # A snapshot of a span that goes on; the whole span is counted when it comes.
    if metrics.get(b"_dd.partial_version", -1.0) >= 0.0:
        return None
    endpoint = meta.get(b"http.endpoint")
    return (
        span.raw_resource,
        span.raw_service,
        span.raw_name,
        span.raw_type,
        kind,
        meta.get(b"http.method", b""),
        meta.get(b"http.route", b"") if endpoint is None else endpoint,
        meta.get(b"_dd.svc_src", b""),
        _http_status(meta, metrics),
        _grpc_status(meta, metrics),
        meta.get(b"_dd.origin", b"").startswith(b"synthetics"),
        ROOT_FALSE if span.parent_id else ROOT_TRUE,
        _peer_tags(meta, lower_kind),
    )


def _http_status(meta: Mapping[bytes, bytes], metrics: Mapping[bytes, float]) -> int:
    status = metrics.get(_HTTP_STATUS)
    if status is not None:
        # Not a number fails both comparisons.
        return int(status) if 0.0 < status <= _U32_MAX else _U32_MAX if status > 0.0 else 0
    text = meta.get(_HTTP_STATUS)
    if text is None:
        return 0
    return _whole(text, _U32_MAX) or 0


def _grpc_status(meta: Mapping[bytes, bytes], metrics: Mapping[bytes, float]) -> bytes:
    """The status as decimal text, empty when there is none."""
    for tag in _GRPC_TAGS:
        if tag in meta:
            text = meta[tag]
            code = _whole(text, _GRPC_MAX)
            if code is None:
                while text.startswith(_GRPC_PREFIX):
                    text = text[len(_GRPC_PREFIX) :]
                code = _GRPC_NAMES.get(text.upper())
            if code is not None:
                return b"%d" % code
    for tag in _GRPC_TAGS:
        if tag in metrics:
            number = metrics[tag]
            if 0.0 <= number <= _GRPC_MAX and number == int(number):
                return b"%d" % int(number)
    return b""


def _whole(text: bytes, number_max: int) -> int | None:
    """A whole number as text; None when it is none or too large."""
    digits = text.removeprefix(b"+")
    if not digits.isdigit():
        return None
    # Of a long run of digits only zeros in front may be many.
    digits = digits.lstrip(b"0")
    if len(digits) > len(str(number_max)):
        return None
    number = int(digits or b"0")
    return number if number <= number_max else None


def _peer_tags(meta: Mapping[bytes, bytes], lower_kind: bytes) -> tuple[bytes, ...]:
    """The tags that name the other side, in the order of their names."""
    if lower_kind in _CALLING_KINDS:
        names = _PEER_TAGS.intersection(meta)
        if not names:
            return _NO_PEER
        return tuple([_tag(name, _quantize(meta[name])) for name in sorted(names)])
    base_service = meta.get(_BASE_SERVICE)
    return _NO_PEER if base_service is None else (_tag(_BASE_SERVICE, base_service),)


def _tag(name: bytes, value: bytes) -> bytes:
    return name + b":" + value if value else name


def _quantize(value: bytes) -> bytes:
    quantized = _QUANTIZED.get(value)
    if quantized is None:
        quantized = encode_text(quantize_peer_ips(value.decode()))
        if len(value) <= _QUANTIZED_BYTES_MAX:
            if len(_QUANTIZED) >= _QUANTIZED_MAX:
                _QUANTIZED.clear()
            _QUANTIZED[value] = quantized
    return quantized
