"""What a request says about the tracer that sent it: in its headers, and v0.7 in the body too.

Source: reference-agent 3.2 and 4.10.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

# The counts of traces and spans a tracer left out; added up over a batch.
SUMMED_HEADERS = frozenset({"datadog-client-dropped-p0-traces", "datadog-client-dropped-p0-spans"})

_TEXT_HEADERS = (
    "datadog-meta-lang",
    "datadog-meta-lang-version",
    "datadog-meta-lang-interpreter",
    "datadog-meta-lang-interpreter-vendor",
    "datadog-meta-tracer-version",
    "datadog-container-id",
)
_COMPUTED_STATS = "datadog-client-computed-stats"
_COMPUTED_TOP_LEVEL = "datadog-client-computed-top-level"

_ALL_HEADERS = (*_TEXT_HEADERS, _COMPUTED_STATS, _COMPUTED_TOP_LEVEL, *sorted(SUMMED_HEADERS))

# A host runs a few programs; each has its own.
SENDERS_MAX = 64

# Longer ones are taken as absent: they are repeated in every record a request becomes. The
# longest real value, a container id with its prefixes, stays below a tenth of this.
_TEXT_CHARACTERS_MAX = 1024

_FALSE = frozenset({"", "0", "f", "F", "false", "False", "FALSE"})
_COUNT_MAX = (1 << 64) - 1


class Sender:
    """The tracer behind one request.

    Attributes:
        container_id, language, language_version, tracer_version: Text, empty when not known.
        computed_stats: The tracer counts its spans itself.
        computed_top_level: The tracer has marked its top-level spans.
        env, version, hostname, runtime_id: Of the whole payload; empty when it does not say.
        tags: Of the whole payload.
        headers: What the intake is told again with each record of this request.
        dropped_headers: The same, for counts; with one record only, since they are added up.
        frames: What encode.py made of all this, by what chunks say besides.
    """

    __slots__ = (
        "computed_stats",
        "computed_top_level",
        "container_id",
        "dropped_headers",
        "env",
        "frames",
        "headers",
        "hostname",
        "language",
        "language_version",
        "runtime_id",
        "tags",
        "tracer_version",
        "version",
    )

    def __init__(self, headers: Mapping[str, str]) -> None:
        texts = {name: _text(headers.get(name, "")) for name in _TEXT_HEADERS}
        self.container_id = texts["datadog-container-id"]
        self.language = texts["datadog-meta-lang"]
        self.language_version = texts["datadog-meta-lang-version"]
        self.tracer_version = texts["datadog-meta-tracer-version"]
        self.env = self.hostname = self.runtime_id = self.version = ""
        self.tags: dict[str, str] = {}
        self.computed_stats = _is_true(headers.get(_COMPUTED_STATS, ""))
        self.computed_top_level = _is_true(headers.get(_COMPUTED_TOP_LEVEL, ""))
        self.headers = {name: text for name, text in texts.items() if text}
        for name in (_COMPUTED_STATS, _COMPUTED_TOP_LEVEL):
            if _is_true(headers.get(name, "")):
                self.headers[name] = "true"
        counts = {name: _count(headers.get(name, "")) for name in sorted(SUMMED_HEADERS)}
        self.dropped_headers = {name: str(count) for name, count in counts.items() if count}
        self.frames: dict[tuple[str, ...], tuple[bytes, bytes]] = {}


class Senders:
    """The senders of late requests: a tracer says the same with each of them.

    Only for versions whose bodies say nothing more of the sender: it is shared.
    """

    __slots__ = ("_known", "_last", "_last_headers")

    def __init__(self) -> None:
        self._known: dict[tuple[str | None, ...], Sender] = {}
        self._last_headers: Mapping[str, str] | None = None
        self._last = Sender({})

    def find(self, headers: Mapping[str, str]) -> Sender:
        """The sender that says this, in headers that nobody changes any more."""
        # A head that is known comes with the same mapping each time.
        if headers is self._last_headers:
            return self._last
        said = tuple([headers.get(name) for name in _ALL_HEADERS])
        sender = self._known.get(said)
        if sender is None:
            if len(self._known) >= SENDERS_MAX:
                self._known.clear()
            sender = self._known[said] = Sender(headers)
        self._last_headers, self._last = headers, sender
        return sender


def _text(value: str) -> str:
    return value if value.isascii() and len(value) <= _TEXT_CHARACTERS_MAX else ""


def _is_true(value: str) -> bool:
    # Anything that is not a known "no" is a yes, "no" included: tracers rely on the first half.
    return value.isascii() and value not in _FALSE


def _count(value: str) -> int:
    digits = value.removeprefix("+")
    if not (digits.isascii() and digits.isdigit() and len(digits) <= len(str(_COUNT_MAX))):
        return 0
    count = int(digits)
    return count if count <= _COUNT_MAX else 0
