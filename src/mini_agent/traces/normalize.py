"""A span as the intake expects it: names it can index, times that make sense, tags of a size.

Two places in the walk of a trace, because cutting must come last: a query that was cut in the
middle cannot be obfuscated any more.

- `Normalizer.normalize` stands in front of every other rule. It mends fields and leaves out the
  spans that nothing can mend: those without an id. Spans of another trace than the first become
  a chunk of their own.
- `truncate` is the last rule.

Most names come again and again: what a text becomes is remembered.

Source: reference-agent 4.2; for what is dropped and cut, the Go agent's normalizer and truncator
(peers-features A.5). The differences are in docs/differences.md.
"""

from __future__ import annotations

import unicodedata
from bisect import bisect_right

from mini_agent.traces.express import NormalTexts
from mini_agent.traces.span import UTF8_BYTES_MAX, windows

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from mini_agent.traces.lenient import Findings
    from mini_agent.traces.span import Span, TraceChunk

    # The indices of the spans of each trace, by its id.
    Traces = dict[int, list[int]]
    # What a text becomes, and why if it is another.
    Outcome = tuple[str, tuple[str, ...]]

NO_SERVICE = "unnamed-service"
NO_NAME = "unnamed_operation"

# Limits in bytes. Source: reference-agent 4.2.
SERVICE_BYTES_MAX = NAME_BYTES_MAX = TYPE_BYTES_MAX = 100

# A normal tag value: what is written, in code points and bytes. Source: reference-agent 4.2.
TAG_CHARACTERS_MAX = 200
TAG_BYTES_MAX = 400

# Source: peers-features A.5.
RESOURCE_BYTES_MAX = 5000
TAG_KEY_BYTES_MAX = 200
TAG_VALUE_BYTES_MAX = 25_000

# Earlier starts are mistakes: the year 2000. Source: reference-agent 4.2.
START_NS_MIN = 946_684_800_000_000_000

# Texts whose outcome is remembered, each shorter than this: a megabyte at most. A program has
# some dozens of names and services; when somebody makes them up, the memory starts anew.
REMEMBERED_MAX = 2048
_REMEMBERED_CHARACTERS_MAX = 200

_I64_MAX = (1 << 63) - 1
ENV = "env"
STATUS_CODE = "http.status_code"
_STATUS_CODES = range(100, 600)
_CUT = "..."

_LOWER = frozenset("abcdefghijklmnopqrstuvwxyz:")
_UPPER = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZ")
_INNER = frozenset("0123456789./-")
_NAME = frozenset("0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")


class Normalizer:
    """Mends one trace after the other; one owner.

    Args:
        wall_ns: The time now, for spans that say they began before 2000.
    """

    def __init__(self, wall_ns: Callable[[], int]) -> None:
        self._wall_ns = wall_ns
        # Text -> what it becomes and why.
        self._services: dict[str, Outcome] = {}
        self._names: dict[str, Outcome] = {}
        self._envs: dict[str, Outcome] = {}
        # Service, name, type, environment and status of spans whose texts need no mending.
        self._normal: set[tuple[str, str, str, str | None, str | None]] = set()
        # The same rules, for the compiled twin to ask and remember; see TraceChunk.settle.
        self._texts = NormalTexts(
            service=_normal_service,
            name=_normal_name,
            env=_normal_env,
            status_code=_normal_status_code,
            start_ns_min=START_NS_MIN,
            type_bytes_max=TYPE_BYTES_MAX,
            entries_max=REMEMBERED_MAX,
            text_bytes_max=_REMEMBERED_CHARACTERS_MAX,
        )

    def normalize(self, chunk: TraceChunk, findings: Findings) -> list[TraceChunk]:
        """The chunk as chunks of one trace each, mended; perhaps none.

        Args:
            findings: Is told what was changed and what was left out.
        """
        if chunk.settle(self._texts, findings):
            return [chunk]
        traces: Traces = {}
        self._sort(chunk, 0, traces, findings)
        return _divide(chunk, traces)

    def normalize_long(
        self, chunk: TraceChunk, findings: Findings
    ) -> Generator[None, None, list[TraceChunk]]:
        """The same in steps."""
        traces: Traces = {}
        for window in windows(chunk):
            if chunk.settle(self._texts, findings):
                # All are of one trace then.
                _indices_of(chunk.spans[0].trace_id, traces, findings).extend(window)
            else:
                self._sort(chunk, window.start, traces, findings)
            chunk.note_services()
            yield
        return _divide(chunk, traces)

    def _sort(self, chunk: TraceChunk, first: int, traces: Traces, findings: Findings) -> None:
        """Mend the spans of the window, which begins with span `first`, and note their traces."""
        for index, span in enumerate(chunk.spans, first):
            trace_id = span.trace_id
            if not trace_id or not span.span_id:
                findings.leave_out("span_id_zero" if trace_id else "trace_id_zero", 1)
                continue
            _indices_of(trace_id, traces, findings).append(index)
            self._normalize_span(span, findings)

    def _normalize_span(self, span: Span, findings: Findings) -> None:
        texts = (
            span.service,
            span.name,
            span.type,
            span.get_meta(ENV),
            span.get_meta(STATUS_CODE),
        )
        # Of most spans this is all that their texts need.
        if texts not in self._normal and self._normalize_texts(span, findings):
            if len(self._normal) >= REMEMBERED_MAX:
                self._normal.clear()
            self._normal.add(texts)
        if not span.resource:
            span.resource = span.name
            findings.mend(("resource_empty",))
        if span.parent_id == span.span_id == span.trace_id:
            span.parent_id = 0
            findings.mend(("parent_id",))
        if span.start < START_NS_MIN or span.start + span.duration > _I64_MAX:
            self._mend_times(span, findings)

    def _normalize_texts(self, span: Span, findings: Findings) -> bool:
        """Mend the texts of a span; true when nothing was to be mended."""
        reasons: list[str] = []
        text = span.service
        service, why = self._services.get(text) or _remember(
            self._services, text, _normal_service(text)
        )
        if why:
            span.service = service
            reasons += why
        text = span.name
        name, why = self._names.get(text) or _remember(self._names, text, _normal_name(text))
        if why:
            span.name = name
            reasons += why
        if len(span.type) * UTF8_BYTES_MAX > TYPE_BYTES_MAX:
            cut = _cut(span.type, TYPE_BYTES_MAX)
            if cut != span.type:
                span.type = cut
                reasons.append("type_truncate")
        text = span.get_meta(ENV) or ""
        if text:
            env, why = self._envs.get(text) or _remember(self._envs, text, _normal_env(text))
            if why:
                span.set_meta(ENV, env)
                reasons += why
        status = span.get_meta(STATUS_CODE)
        if status is not None:
            normal, why = _normal_status_code(status)
            if not normal:
                span.remove_meta(STATUS_CODE)
                reasons += why
        findings.mend(reasons)
        return not reasons

    def _mend_times(self, span: Span, findings: Findings) -> None:
        if span.start + span.duration > _I64_MAX:
            span.duration = 0
            findings.mend(("invalid_duration",))
        if span.start < START_NS_MIN:
            now_ns = self._wall_ns()
            span.start = now_ns - span.duration if now_ns >= span.duration else now_ns
            findings.mend(("invalid_start_date",))


def _indices_of(trace_id: int, traces: Traces, findings: Findings) -> list[int]:
    """Where the indices of a trace's spans are noted."""
    indices = traces.get(trace_id)
    if indices is None:
        if traces:
            findings.mend(("foreign_span",))
        indices = traces[trace_id] = []
    return indices


def _divide(chunk: TraceChunk, traces: Traces) -> list[TraceChunk]:
    """The chunk itself if all its spans are of one trace, else one for each."""
    if len(traces) == 1 and sum(map(len, traces.values())) == len(chunk):
        return [chunk]
    return [chunk.select(indices) for indices in traces.values()]


def truncate(chunk: TraceChunk, findings: Findings) -> None:
    """Cut what is longer than the intake keeps; the last rule."""
    if not chunk.has_longer_texts(RESOURCE_BYTES_MAX, TAG_KEY_BYTES_MAX, TAG_VALUE_BYTES_MAX):
        return
    for span in chunk.spans:
        resource = span.resource
        cut = _cut(resource, RESOURCE_BYTES_MAX)
        if cut != resource:
            span.resource = cut
            findings.mend(("resource_truncate",))
        if span.has_longer_tags(TAG_KEY_BYTES_MAX, TAG_VALUE_BYTES_MAX):
            _truncate_tags(span, findings)


def _truncate_tags(span: Span, findings: Findings) -> None:
    reasons = []
    for key, value in list(span.meta_items()):
        short_key = _cut_with_mark(key, TAG_KEY_BYTES_MAX)
        # Documents inside a tag cannot be read any more once they are cut.
        whole = key.startswith("_dd.") and key.endswith((".json", ".msgpack", ".protobuf"))
        short_value = value if whole else _cut_with_mark(value, TAG_VALUE_BYTES_MAX)
        if short_key != key:
            span.remove_meta(key)
            reasons.append("meta_key_truncate")
        if short_value != value:
            reasons.append("meta_value_truncate")
        if (short_key, short_value) != (key, value):
            span.set_meta(short_key, short_value)
    for key, number in list(span.metric_items()):
        short_key = _cut_with_mark(key, TAG_KEY_BYTES_MAX)
        if short_key != key:
            span.remove_metric(key)
            span.set_metric(short_key, number)
            reasons.append("metric_key_truncate")
    findings.mend(tuple(dict.fromkeys(reasons)))


def normalize_tag(text: str) -> str:
    """The text as a tag value the intake can index; perhaps nothing is left of it."""
    written: list[str] = []
    written_bytes = 0
    # Nothing was written, or a separator was: another one is not needed.
    separated = True
    for character in text:
        if len(written) >= TAG_CHARACTERS_MAX or written_bytes >= TAG_BYTES_MAX:
            break
        if character in _LOWER:
            kept = character
        elif character in _UPPER:
            kept = character.lower()
        elif character in _INNER:
            kept = character if written else ""
        elif character.isascii():
            kept = "" if separated else "_"
        else:
            kept = _normal_letter(character, bool(written)) or ("" if separated else "_")
        if kept:
            written.append(kept)
            written_bytes += 1 if kept.isascii() else len(kept.encode())
            separated = kept == "_"
    if separated and written:
        written.pop()
    return "".join(written)


def normalize_metric_name(text: str) -> str:
    """The text as a metric's name; perhaps nothing is left of it.

    The reference leaves stale letters where separators follow each other (11, 32); this is what
    was meant, and what the Go agent does.
    """
    written: list[str] = []
    for character in text:
        if character in _NAME:
            # The first is a letter.
            if written or not character.isdigit():
                written.append(character)
        elif not written:
            continue
        elif character == ".":
            if written[-1] == "_":
                written[-1] = "."
            else:
                written.append(".")
        elif written[-1] not in "._":
            written.append("_")
    if written and written[-1] == "_":
        written.pop()
    return "".join(written)


def _normal_service(text: str) -> Outcome:
    if not text:
        return NO_SERVICE, ("service_empty",)
    return _normal(text, SERVICE_BYTES_MAX, normalize_tag, NO_SERVICE, "service")


def _normal_name(text: str) -> Outcome:
    if not text:
        return NO_NAME, ("name_empty",)
    return _normal(text, NAME_BYTES_MAX, normalize_metric_name, NO_NAME, "name")


def _normal_env(text: str) -> Outcome:
    normal = normalize_tag(text)
    return normal, ("env_normalized",) if normal != text else ()


def _normal_status_code(text: str) -> Outcome:
    """The same text, or nothing: then the tag goes."""
    return (text, ()) if _is_status_code(text) else ("", ("invalid_http_status_code",))


def _normal(
    text: str, bytes_max: int, normalize: Callable[[str], str], fallback: str, field: str
) -> Outcome:
    cut = _cut(text, bytes_max)
    normal = normalize(cut)
    reasons = []
    if cut != text:
        reasons.append(f"{field}_truncate")
    if not normal:
        normal = fallback
        reasons.append(f"{field}_invalid")
    elif normal != cut:
        reasons.append(f"{field}_normalized")
    return normal, tuple(reasons)


def _remember(memory: dict[str, Outcome], text: str, outcome: Outcome) -> Outcome:
    if len(text) <= _REMEMBERED_CHARACTERS_MAX:
        if len(memory) >= REMEMBERED_MAX:
            memory.clear()
        memory[text] = outcome
    return outcome


def _cut(text: str, bytes_max: int) -> str:
    """The text up to so many bytes, whole characters only."""
    encoded = text.encode()
    return text if len(encoded) <= bytes_max else encoded[:bytes_max].decode("utf-8", "ignore")


def _cut_with_mark(text: str, bytes_max: int) -> str:
    cut = _cut(text, bytes_max)
    return text if cut == text else cut + _CUT


def _is_status_code(text: str) -> bool:
    digits = text.removeprefix("+")
    if not (digits.isascii() and digits.isdigit()):
        return False
    significant = digits.lstrip("0")
    return len(significant) == 3 and int(significant) in _STATUS_CODES


def _normal_letter(character: str, is_inside: bool) -> str:
    """What a character beyond ASCII becomes in a tag value; empty if it is a separator."""
    if character.islower():
        return character
    if character.isupper():
        lower = character.lower()[0]
        return lower if len(lower.encode()) <= len(character.encode()) else character
    category = unicodedata.category(character)
    # Letters, and numbers that are letters too.
    if category[0] == "L" or category == "Nl" or _is_alphabetic_mark(ord(character)):
        return character
    return character if category[0] == "N" and is_inside else ""


# Vowel signs and other marks that count as alphabetic without being letters, as first-last in
# hexadecimal digits; `unicodedata` does not know the property.
# Source: Other_Alphabetic of Unicode 14.
_MARKS = (
    "5b0-5bd 5bf 5c1-5c2 5c4-5c5 5c7 610-61a 64b-657 659-65f 670 6d6-6dc 6e1-6e4 6e7-6e8 6ed "
    "711 730-73f 7a6-7b0 816-817 81b-823 825-827 829-82c 8d4-8df 8e3-8e9 8f0-903 93a-93b "
    "93e-94c 94e-94f 955-957 962-963 981-983 9be-9c4 9c7-9c8 9cb-9cc 9d7 9e2-9e3 a01-a03 "
    "a3e-a42 a47-a48 a4b-a4c a51 a70-a71 a75 a81-a83 abe-ac5 ac7-ac9 acb-acc ae2-ae3 afa-afc "
    "b01-b03 b3e-b44 b47-b48 b4b-b4c b56-b57 b62-b63 b82 bbe-bc2 bc6-bc8 bca-bcc bd7 c00-c03 "
    "c3e-c44 c46-c48 c4a-c4c c55-c56 c62-c63 c81-c83 cbe-cc4 cc6-cc8 cca-ccc cd5-cd6 ce2-ce3 "
    "d00-d03 d3e-d44 d46-d48 d4a-d4c d57 d62-d63 d81-d83 dcf-dd4 dd6 dd8-ddf df2-df3 e31 "
    "e34-e3a e4d eb1 eb4-eb9 ebb-ebc ecd f71-f81 f8d-f97 f99-fbc 102b-1036 1038 103b-103e "
    "1056-1059 105e-1060 1062-1064 1067-106d 1071-1074 1082-108d 108f 109a-109d 1712-1713 "
    "1732-1733 1752-1753 1772-1773 17b6-17c8 1885-1886 18a9 1920-192b 1930-1938 1a17-1a1b "
    "1a55-1a5e 1a61-1a74 1abf-1ac0 1acc-1ace 1b00-1b04 1b35-1b43 1b80-1b82 1ba1-1ba9 "
    "1bac-1bad 1be7-1bf1 1c24-1c36 1de7-1df4 2de0-2dff a674-a67b a69e-a69f a802 a80b "
    "a823-a827 a880-a881 a8b4-a8c3 a8c5 a8ff a926-a92a a947-a952 a980-a983 a9b4-a9bf a9e5 "
    "aa29-aa36 aa43 aa4c-aa4d aa7b-aa7d aab0 aab2-aab4 aab7-aab8 aabe aaeb-aaef aaf5 "
    "abe3-abea fb1e 10376-1037a 10a01-10a03 10a05-10a06 10a0c-10a0f 10d24-10d27 10eab-10eac "
    "11000-11002 11038-11045 11073-11074 11082 110b0-110b8 110c2 11100-11102 11127-11132 "
    "11145-11146 11180-11182 111b3-111bf 111ce-111cf 1122c-11234 11237 1123e 112df-112e8 "
    "11300-11303 1133e-11344 11347-11348 1134b-1134c 11357 11362-11363 11435-11441 "
    "11443-11445 114b0-114c1 115af-115b5 115b8-115be 115dc-115dd 11630-1163e 11640 "
    "116ab-116b5 1171d-1172a 1182c-11838 11930-11935 11937-11938 1193b-1193c 11940 11942 "
    "119d1-119d7 119da-119df 119e4 11a01-11a0a 11a35-11a39 11a3b-11a3e 11a51-11a5b "
    "11a8a-11a97 11c2f-11c36 11c38-11c3e 11c92-11ca7 11ca9-11cb6 11d31-11d36 11d3a "
    "11d3c-11d3d 11d3f-11d41 11d43 11d47 11d8a-11d8e 11d90-11d91 11d93-11d96 11ef3-11ef6 "
    "16f4f 16f51-16f87 16f8f-16f92 16ff0-16ff1 1bc9e 1e000-1e006 1e008-1e018 1e01b-1e021 "
    "1e023-1e024 1e026-1e02a 1e947 "
)
_MARK_RANGES = [entry.partition("-") for entry in _MARKS.split()]
_MARK_STARTS = [int(first, 16) for first, _, _ in _MARK_RANGES]
_MARK_ENDS = [int(last or first, 16) for first, _, last in _MARK_RANGES]


def _is_alphabetic_mark(point: int) -> bool:
    index = bisect_right(_MARK_STARTS, point) - 1
    return index >= 0 and point <= _MARK_ENDS[index]
