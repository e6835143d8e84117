"""The spans of one request that are counted, until the request was kept.

Source: reference-agent 6.1 and 6.3.
"""

from __future__ import annotations

from mini_agent.traces.span import TraceChunk
from mini_agent.traces.stats_key import KnownKeys, is_counted, is_top_level

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from mini_agent.traces.concentrator import Concentrator, Observation, Origin
    from mini_agent.traces.sender import Sender
    from mini_agent.traces.span import Span
    from mini_agent.traces.stats_key import StatsKey

# How many spans are counted between two places to stop at, and under how many keys: of either so
# many take the plain twin a millisecond.
SPANS_A_LOT = 1000
GROUPS_A_LOT = 100

# What an observation has.
_SIZE = 4

BASE_SERVICE = "_dd.base_service"

_known_keys = KnownKeys()


def origin_of(
    sender: Sender, env: str, version: str, service: str, said_first: tuple[str, str], default: str
) -> Origin:
    """Where spans come from.

    Args:
        env: Of their chunk, empty when it has none; so for the version and the service.
        said_first: The first environment and version of the request, for chunks without.
        default: The environment when nobody says one.
    """
    return (
        sender.env or env or said_first[0] or default,
        sender.version or version or said_first[1],
        sender.language,
        sender.tracer_version,
        service,
        sender.container_id,
    )


def tags_of(span: Span) -> tuple[dict[str, str], dict[str, float]]:
    """The tags of a span of either twin; a plain one simply has them."""
    return dict(span.meta_items()), dict(span.metric_items())


class Counts:
    """The spans of one request by environment and version, then by key."""

    __slots__ = ("_by_source", "_env", "_sender", "_service", "_version")

    def __init__(self, sender: Sender) -> None:
        self._sender = sender
        self._service = ""
        self._env = ""
        self._version = ""
        # Observations one behind the other, not each a tuple: the garbage collector would look at
        # all of those.
        self._by_source: dict[tuple[str, str], dict[StatsKey, list[int]]] = {}

    def add(self, chunk: TraceChunk, env: str, version: str) -> None:
        """Note a chunk all rules have seen.

        Args:
            env: Of the chunk, empty when it has none; so for the version.
        """
        self._service = self._service or chunk.root.get_meta(BASE_SERVICE) or ""
        self._env = self._env or env
        self._version = self._version or version
        groups = self._by_source.setdefault((env, version), {})
        key_of = _known_keys.key_of
        is_plain = isinstance(chunk, TraceChunk)
        for span in chunk.spans:
            meta, metrics = (span.meta, span.metrics) if is_plain else tags_of(span)
            top_level = is_top_level(metrics)
            if is_counted(meta, metrics, top_level):
                key = key_of(span, meta, metrics)
                duration = span.duration
                seen = (span.start + duration, duration, span.error != 0, top_level)
                observations = groups.get(key)
                if observations is None:
                    groups[key] = [*seen]
                else:
                    observations += seen

    def add_to(
        self, concentrator: Concentrator, env_default: str, now_ns: int
    ) -> Iterator[tuple[int, int]]:
        """Count everything noted, once; what a chunk did not say is what the request first said.

        Yields:
            After every lot, how many spans it had, and how many of them were counted under
            BLOCKED.
        """
        said_first = (self._env, self._version)
        for (env, version), groups in self._by_source.items():
            origin = origin_of(self._sender, env, version, self._service, said_first, env_default)
            lot: dict[StatsKey, Iterable[Observation]] = {}
            count = 0
            for key, observations in groups.items():
                for first in range(0, len(observations), _SIZE * SPANS_A_LOT):
                    piece = observations[first : first + _SIZE * SPANS_A_LOT]
                    each = iter(piece)
                    lot[key] = zip(each, each, each, each, strict=True)
                    count += len(piece) // _SIZE
                    if count >= SPANS_A_LOT or len(lot) >= GROUPS_A_LOT:
                        yield count, concentrator.add(origin, lot, now_ns)
                        lot, count = {}, 0
            if count:
                yield count, concentrator.add(origin, lot, now_ns)
