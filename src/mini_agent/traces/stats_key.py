"""Which spans are counted, and under which key: what spans of one group have in common.

The rules are functions of a span's tags and texts, and say by name which tags they look at. So
their answers can be remembered: most spans are like one before, and find their key by a few
look-ups (`KnownKeys`, and Answers in _tally_answers.pxi). Texts of a key are UTF-8, as they leave.

Source: reference-agent 4.5, 6.3 and 6.5.
"""

from __future__ import annotations

from operator import itemgetter

from mini_agent.traces.info import PEER_TAGS
from mini_agent.traces.obfuscate.ip import quantize_peer_ips
from mini_agent.wire.protobuf import encode_text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from mini_agent.traces.span import Span

    # Takes tags out of a span's `meta`.
    Taker = Callable[[dict[str, str]], object]

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

_PEER_TAGS = frozenset(PEER_TAGS)
_BASE_SERVICE = "_dd.base_service"
_NO_PEER: tuple[bytes, ...] = ()

# Kinds that are counted whatever else they are, and those that call somebody.
_COUNTED_KINDS = frozenset({"server", "client", "producer", "consumer"})
_CALLING_KINDS = _COUNTED_KINDS - {"server"}

_HTTP_STATUS = "http.status_code"
_U32_MAX = (1 << 32) - 1

_GRPC_TAGS = ("rpc.grpc.status_code", "grpc.code", "rpc.grpc.status.code", "grpc.status.code")
_GRPC_MAX = 255
_GRPC_PREFIX = "StatusCode."
_GRPC_NAMES = {
    name: code
    for code, names in enumerate(
        (
            "OK",
            "CANCELLED CANCELED",
            "UNKNOWN",
            "INVALID_ARGUMENT",
            "DEADLINE_EXCEEDED",
            "NOT_FOUND",
            "ALREADY_EXISTS",
            "PERMISSION_DENIED",
            "RESOURCE_EXHAUSTED",
            "FAILED_PRECONDITION",
            "ABORTED",
            "OUT_OF_RANGE",
            "UNIMPLEMENTED",
            "INTERNAL",
            "UNAVAILABLE",
            "DATA_LOSS",
            "UNAUTHENTICATED",
        )
    )
    for spelling in names.split()
    for name in (spelling, spelling.replace("_", ""))
}

# The tags that the functions below look at, for twins that remember their answers: spans that are
# alike in the first two are counted alike; those that are alike in the others, in their four
# texts and in being a root or not, have the same key.
COUNTED_BY_META = ("span.kind",)
COUNTED_BY_METRICS = ("_top_level", "_dd.top_level", "_dd.measured", "_dd.partial_version")
KEY_META = (
    *COUNTED_BY_META,
    *("http.method", "http.endpoint", "http.route", "_dd.svc_src", "_dd.origin"),
    *(_HTTP_STATUS, *_GRPC_TAGS, *sorted(_PEER_TAGS)),
)
KEY_METRICS = (_HTTP_STATUS, *_GRPC_TAGS)
_KEY_METRICS = frozenset(KEY_METRICS)

# Shapes of spans, and keys, that are remembered; a program has some dozens of either.
_SHAPES_MAX = 256
_KEYS_MAX = 4096
# Keys that found no room before all are forgotten: those that come again are worth more than the
# latest, until they come no more.
_WITHOUT_ROOM_MAX = 4 * _KEYS_MAX
# Tags of a span have some 400 together; what has more is not remembered.
_SHAPE_TAGS_MAX = 256
_SPAN_CHARACTERS_MAX = 4096

# Values of peer tags and what they become; a program calls some dozens of hosts.
_QUANTIZED: dict[str, str] = {}
_QUANTIZED_MAX = 1024
_QUANTIZED_CHARACTERS_MAX = 256


def is_top_level(metrics: Mapping[str, float]) -> bool:
    """Whether work enters a service with the span of these numeric tags."""
    return metrics.get("_top_level") == 1.0 or metrics.get("_dd.top_level") == 1.0


def is_counted(meta: Mapping[str, str], metrics: Mapping[str, float], top_level: bool) -> bool:
    """Whether the span of these tags counts at all."""
    if not top_level and metrics.get("_dd.measured") != 1.0:
        kind = meta.get("span.kind")
        if not kind or kind.lower() not in _COUNTED_KINDS:
            return False
    # A snapshot of a span that goes on is not; the whole span is counted when it comes.
    return not metrics.get("_dd.partial_version", -1.0) >= 0.0


def stats_key(span: Span, meta: Mapping[str, str], metrics: Mapping[str, float]) -> StatsKey:
    """What a span that is counted is counted under.

    Args:
        meta, metrics: The span's tags.
    """
    kind = meta.get("span.kind", "")
    endpoint = meta.get("http.endpoint")
    if endpoint is None:
        endpoint = meta.get("http.route", "")
    return (
        encode_text(span.resource),
        encode_text(span.service),
        encode_text(span.name),
        encode_text(span.type),
        encode_text(kind),
        encode_text(meta.get("http.method", "")),
        encode_text(endpoint),
        encode_text(meta.get("_dd.svc_src", "")),
        _http_status(meta, metrics),
        _grpc_status(meta, metrics),
        meta.get("_dd.origin", "").startswith("synthetics"),
        ROOT_FALSE if span.parent_id else ROOT_TRUE,
        _peer_tags(meta, kind.lower()),
    )


class KnownKeys:
    """Keys by what they depend on: a few look-ups for a span like one before.

    Spans with the same names of tags in the same order have one shape. To a shape belongs what
    takes out the tags that a key depends on. Spans that say their status in numbers are rare, and
    their keys are not remembered.
    """

    __slots__ = ("_keys", "_takers", "_takers_by_shape", "_without_room")

    def __init__(self) -> None:
        self._takers_by_shape: dict[tuple[str, ...], Taker] = {}
        # By the names they take, so that shapes share them.
        self._takers: dict[tuple[str, ...], Taker] = {}
        self._keys: dict[tuple[object, ...], StatsKey] = {}
        self._without_room = 0

    def key_of(self, span: Span, meta: dict[str, str], metrics: Mapping[str, float]) -> StatsKey:
        """The key of a span that is counted, as `stats_key` gives it."""
        if len(meta) > _SHAPE_TAGS_MAX or not _KEY_METRICS.isdisjoint(metrics):
            return stats_key(span, meta, metrics)
        shape = (*meta,)
        take = self._takers_by_shape.get(shape)
        if take is None:
            take = self._learn_shape(shape)
        texts = (span.resource, span.service, span.name, span.type)
        inputs = (texts, not span.parent_id, take, take(meta))
        key = self._keys.get(inputs)
        if key is None:
            key = stats_key(span, meta, metrics)
            if sum(map(len, (*texts, *meta.values()))) <= _SPAN_CHARACTERS_MAX:
                self._learn_key(inputs, key)
        return key

    def _learn_key(self, inputs: tuple[object, ...], key: StatsKey) -> None:
        if len(self._keys) >= _KEYS_MAX:
            self._without_room += 1
            if self._without_room < _WITHOUT_ROOM_MAX:
                return
            self._keys.clear()
            self._without_room = 0
        self._keys[inputs] = key

    def _learn_shape(self, shape: tuple[str, ...]) -> Taker:
        names = tuple(name for name in KEY_META if name in shape)
        take = self._takers.get(names)
        if take is None:
            take = itemgetter(*names) if names else _take_nothing
        if sum(map(len, shape)) <= _SPAN_CHARACTERS_MAX:
            if len(self._takers_by_shape) >= _SHAPES_MAX:
                self._takers_by_shape.clear()
                self._takers.clear()
                self._keys.clear()
            self._takers_by_shape[shape] = self._takers[names] = take
        return take


def _take_nothing(meta: dict[str, str]) -> object:
    return None


def _http_status(meta: Mapping[str, str], metrics: Mapping[str, float]) -> int:
    status = metrics.get(_HTTP_STATUS)
    if status is not None:
        # Not a number fails both comparisons.
        return int(status) if 0.0 < status <= _U32_MAX else _U32_MAX if status > 0.0 else 0
    text = meta.get(_HTTP_STATUS)
    if text is None:
        return 0
    return _whole(text, _U32_MAX) or 0


def _grpc_status(meta: Mapping[str, str], metrics: Mapping[str, float]) -> bytes:
    """The status as decimal text, empty when there is none."""
    for tag in _GRPC_TAGS:
        if tag in meta:
            text = meta[tag]
            code = _whole(text, _GRPC_MAX)
            if code is None:
                while text.startswith(_GRPC_PREFIX):
                    text = text[len(_GRPC_PREFIX) :]
                # Some other letters become these when they are made upper.
                code = _GRPC_NAMES.get(text.upper()) if text.isascii() else None
            if code is not None:
                return b"%d" % code
    for tag in _GRPC_TAGS:
        if tag in metrics:
            number = metrics[tag]
            if 0.0 <= number <= _GRPC_MAX and number == int(number):
                return b"%d" % int(number)
    return b""


def _whole(text: str, number_max: int) -> int | None:
    """A whole number as text; None when it is none or too large."""
    digits = text.removeprefix("+")
    if not (digits.isascii() and digits.isdigit()):
        return None
    # Of a long run of digits only zeros in front may be many.
    digits = digits.lstrip("0")
    if len(digits) > len(str(number_max)):
        return None
    number = int(digits or "0")
    return number if number <= number_max else None


def _peer_tags(meta: Mapping[str, str], lower_kind: str) -> tuple[bytes, ...]:
    """The tags that name the other side, in the order of their names."""
    if lower_kind in _CALLING_KINDS:
        names = _PEER_TAGS.intersection(meta)
        if not names:
            return _NO_PEER
        return tuple([_tag(name, _quantize(meta[name])) for name in sorted(names)])
    base_service = meta.get(_BASE_SERVICE)
    return _NO_PEER if base_service is None else (_tag(_BASE_SERVICE, base_service),)


def _tag(name: str, value: str) -> bytes:
    return encode_text(f"{name}:{value}" if value else name)


def _quantize(value: str) -> str:
    quantized = _QUANTIZED.get(value)
    if quantized is None:
        quantized = quantize_peer_ips(value)
        if len(value) <= _QUANTIZED_CHARACTERS_MAX:
            if len(_QUANTIZED) >= _QUANTIZED_MAX:
                _QUANTIZED.clear()
            _QUANTIZED[value] = quantized
    return quantized
