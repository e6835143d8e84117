"""The concentrator: spans into counts and sketches, per ten seconds, tracer and group.

What this is
    A span is counted in the bucket of ten seconds in which it ended. A bucket is divided by
    *origin* (what a tracer says of itself), and there by *group* (what spans have in common, see
    stats_key.py). A bucket is complete when twenty seconds have passed since it began; what ends
    later for it is counted in the oldest bucket that is still open, so that nothing is ever sent
    twice for one time.

What it is not
    It knows no clock, no disk and no message: times are given to it, buckets are taken from it.

Limits
    time      a span that ends after the current bucket and the next is counted in the current
              one: tracers run on this host, so a later end is a mistake
    groups    as the reference: of one origin and bucket at most GROUPS_MAX groups, and of some
              fields so many different values; later values become BLOCKED, later groups one
              group of BLOCKED fields
    origins   of one bucket ORIGINS_MAX; further ones share an origin of BLOCKED fields
    together  OPEN_GROUPS_MAX groups in all open buckets
    What was counted under BLOCKED is said by `add`.

A bucket that was taken leaves nothing behind, so origins need no eviction of their own.

Source: reference-agent 6.2 to 6.4 and 12.
"""

from __future__ import annotations

from mini_agent.traces.sketch import Sketch
from mini_agent.traces.stats_key import HTTP_ENDPOINT, PEER, RESOURCE, ROOT_NOT_SET

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from mini_agent.traces.stats_key import StatsKey

    # env, version, language, tracer version, service, container id
    Origin = tuple[str, str, str, str, str, str]

    # When it ended, how long it took (both in ns), whether it failed, whether it is top level (both
    # 0 or 1).
    Observation = tuple[int, int, int, int]

BUCKET_NS = 10_000_000_000
# From its begin to when a bucket is complete.
COMPLETE_NS = 2 * BUCKET_NS

BLOCKED = "tracer_blocked_value"
_BLOCKED = BLOCKED.encode()

# Source: reference-agent 12.
GROUPS_MAX = 7000
RESOURCES_MAX = 1024
ENDPOINTS_MAX = 512
PEERS_MAX = 512

# What four full buckets of one origin hold; a kilobyte each, as a rule.
OPEN_GROUPS_MAX = 4 * GROUPS_MAX
# A host runs a few programs; each version or container is another origin.
ORIGINS_MAX = 256

# Texts of a key are cut to this, so that a group has a size. Service, name and type are normal
# before they come here, and a resource is cut there too. Source: peers-features A.5.
TEXT_BYTES_MAX = 200
RESOURCE_BYTES_MAX = 5000

# Times of spans have 64 bits.
_TIME_NS_MIN, _TIME_NS_MAX = -(1 << 63), (1 << 63) - 1

_OVERFLOW_KEY: StatsKey = (
    *(_BLOCKED, _BLOCKED, _BLOCKED, _BLOCKED),
    *(_BLOCKED, _BLOCKED, _BLOCKED, _BLOCKED),
    *(0, b"", False, ROOT_NOT_SET, (_BLOCKED,)),
)
_OVERFLOW_ORIGIN: Origin = (BLOCKED, BLOCKED, BLOCKED, BLOCKED, BLOCKED, BLOCKED)


class Group:
    """What is known of the spans of one group in one bucket."""

    __slots__ = ("duration", "errors", "failed", "hits", "ok", "top_level_hits")

    def __init__(self) -> None:
        self.hits = 0
        self.errors = 0
        self.duration = 0
        self.top_level_hits = 0
        self.ok = Sketch()
        self.failed = Sketch()

    def add(self, duration: int, failed: int, top_level: int) -> None:
        """Count a span; its duration is in nanoseconds and not negative, the others are 0 or 1."""
        self.hits += 1
        self.duration += duration
        if failed:
            self.errors += 1
            self.failed.add(duration)
        else:
            self.ok.add(duration)
        if top_level:
            self.top_level_hits += 1

    def merge(self, other: Group) -> None:
        """Count everything another group counts."""
        self.hits += other.hits
        self.errors += other.errors
        self.duration += other.duration
        self.top_level_hits += other.top_level_hits
        self.ok.merge(other.ok)
        self.failed.merge(other.failed)


class Bucket:
    """The groups of one origin in one bucket of time."""

    __slots__ = ("_known", "groups")

    def __init__(self) -> None:
        self.groups: dict[StatsKey, Group] = {}
        # The values admitted so far, of each field that has a limit; every key shares these.
        self._known: tuple[dict[object, object], ...] = ({}, {}, {})

    def admit(self, key: StatsKey) -> StatsKey:
        """The key, with BLOCKED for a value that is one too many in its field."""
        fields: list[object] = list(key)
        for (field, values_max, blocked), known in zip(_FIELD_LIMITS, self._known, strict=True):
            value = fields[field]
            if value in known or len(known) < values_max:
                fields[field] = known.setdefault(value, value)
            else:
                fields[field] = blocked
        return tuple(fields)  # type: ignore[return-value]


_FIELD_LIMITS: tuple[tuple[int, int, object], ...] = (
    (RESOURCE, RESOURCES_MAX, _BLOCKED),
    (HTTP_ENDPOINT, ENDPOINTS_MAX, _BLOCKED),
    (PEER, PEERS_MAX, (_BLOCKED,)),
)


class Concentrator:
    """The open buckets.

    Args:
        now_ns: The bucket of this time is the oldest at first: what ended earlier may have been
            sent by a process before us.
        new_group: Gives a group that counts nothing; Group, or its compiled twin.

    Attributes:
        epoch: Another object after buckets were taken: groups that `find` gave may be gone.
    """

    def __init__(self, now_ns: int, new_group: Callable[[], Group] = Group) -> None:
        self.epoch = object()
        self._new_group = new_group
        self._oldest_ns = _start_of(now_ns)
        self._buckets: dict[int, dict[Origin, Bucket]] = {}
        self._groups = 0

    @property
    def group_count(self) -> int:
        """Groups in all open buckets."""
        return self._groups

    def add(
        self, origin: Origin, counted: Mapping[StatsKey, Iterable[Observation]], now_ns: int
    ) -> int:
        """Count the spans of one origin.

        Returns:
            How many of them were counted under BLOCKED.
        """
        blocked = 0
        # Nearly always all of one bucket.
        start_ns, first_ns, last_ns = 0, 0, -1
        for key, observations in counted.items():
            found_ns, group, overflows = -1, None, False
            for end_ns, duration, failed, top_level in observations:
                if not first_ns <= end_ns <= last_ns:
                    start_ns, first_ns, last_ns = self.bucket_of(end_ns, now_ns)
                if group is None or start_ns != found_ns:
                    found_ns = start_ns
                    group, overflows = self.find(start_ns, origin, key)
                group.add(duration, failed, top_level)
                blocked += overflows
        return blocked

    def bucket_of(self, end_ns: int, now_ns: int) -> tuple[int, int, int]:
        """The bucket of a span that ended then, as (start, first, last).

        What ended from `first` to `last` is counted in the same bucket, if it is added now.
        """
        oldest_ns = self._oldest_ns
        latest_ns = max(_start_of(now_ns) + BUCKET_NS, oldest_ns)
        start_ns = _start_of(end_ns)
        if start_ns <= oldest_ns:
            return oldest_ns, _TIME_NS_MIN, oldest_ns + BUCKET_NS - 1
        if start_ns > latest_ns:
            return max(latest_ns - BUCKET_NS, oldest_ns), latest_ns + BUCKET_NS, _TIME_NS_MAX
        return start_ns, start_ns, start_ns + BUCKET_NS - 1

    def take(self, now_ns: int, everything: bool = False) -> dict[int, dict[Origin, Bucket]]:
        """The complete buckets by the time they began; they are open no longer.

        A clock that was set back leaves buckets in the future: they are given too.

        Args:
            everything: Also those that are not complete.
        """
        current_ns = _start_of(now_ns)
        taken = {
            start_ns: self._buckets.pop(start_ns)
            for start_ns in sorted(self._buckets)
            if everything or start_ns + COMPLETE_NS <= now_ns or start_ns > current_ns + BUCKET_NS
        }
        self._oldest_ns = current_ns if everything else current_ns - BUCKET_NS
        if taken:
            self.epoch = object()
        for origins in taken.values():
            self._groups -= sum(len(bucket.groups) for bucket in origins.values())
        return taken

    def items(self) -> list[tuple[int, Origin, list[tuple[StatsKey, Group]]]]:
        """The open buckets: when each began, of whom, and its groups, as they are now."""
        return [
            (start_ns, origin, list(bucket.groups.items()))
            for start_ns, origins in self._buckets.items()
            for origin, bucket in origins.items()
        ]

    def restore(self, start_ns: int, origin: Origin, key: StatsKey, group: Group) -> None:
        """Take over a group of a process that is gone, for whatever time."""
        self.find(start_ns, origin, key)[0].merge(group)

    def find(self, start_ns: int, origin: Origin, key: StatsKey) -> tuple[Group, bool]:
        """The group to count under, and whether it is another than was asked for."""
        origins = self._buckets.setdefault(start_ns, {})
        bucket = origins.get(origin)
        if bucket is None:
            if len(origins) >= ORIGINS_MAX:
                bucket = origins.get(_OVERFLOW_ORIGIN)
            if bucket is None:
                origin = origin if len(origins) < ORIGINS_MAX else _OVERFLOW_ORIGIN
                bucket = origins[origin] = Bucket()
        group = bucket.groups.get(key)
        if group is not None:
            return group, False
        admitted = bucket.admit(_cut(key))
        group = bucket.groups.get(admitted)
        if group is None:
            if len(bucket.groups) >= GROUPS_MAX or self._groups >= OPEN_GROUPS_MAX:
                admitted = _OVERFLOW_KEY
            group = bucket.groups.get(admitted)
        if group is None:
            group = bucket.groups[admitted] = self._new_group()
            self._groups += 1
        return group, admitted != key


def _start_of(time_ns: int) -> int:
    return time_ns - time_ns % BUCKET_NS


def cut_text(text: bytes, bytes_max: int) -> bytes:
    """Valid UTF-8 cut to a size, between characters."""
    if len(text) <= bytes_max:
        return text
    return text[:bytes_max].decode("utf-8", "ignore").encode()


def _cut(key: StatsKey) -> StatsKey:
    """The key with texts of a bounded size; nearly always it is that already."""
    if len(key[0]) <= RESOURCE_BYTES_MAX and max(map(len, (*key[1:8], *key[12]))) <= TEXT_BYTES_MAX:
        return key
    texts = (cut_text(text, TEXT_BYTES_MAX) for text in key[1:8])
    peer = tuple(cut_text(tag, TEXT_BYTES_MAX) for tag in key[12])
    cut = (cut_text(key[0], RESOURCE_BYTES_MAX), *texts, *key[8:12], peer)
    return cut  # type: ignore[return-value] # noqa: RET504
