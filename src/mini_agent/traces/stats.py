"""Stats that the agent computes: from the spans of a request to records in the journal.

    receiver ──► Counts, one request's spans ──► concentrator ──► records, when a bucket is
                 (added when all is kept)             │           complete or the agent stops
                                                      └────────► a snapshot, once a second

A request's spans are counted after they were kept: a request that is refused comes again, and
would be counted twice. What is counted and not yet a record survives the end of the process as a
snapshot, see forward/checkpoint.py.

The ledger's unit is the group of a message: it is accepted when its bucket becomes a record.
Until then it is no more than what the accepted spans say.

Source: reference-agent 6.1 and 6.2.
"""

from __future__ import annotations

import logging

from mini_agent.errors import JournalFull
from mini_agent.traces.concentrator import BUCKET_NS, Concentrator
from mini_agent.traces.stats_payload import (
    U64_MAX,
    group_of,
    new_bucket,
    payload_of,
    records_of,
)
from mini_agent.traces.tally import Counts, Group, Sketch

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from mini_agent.flow.clock import Clock
    from mini_agent.forward.payload import Record
    from mini_agent.ledger import Ledger
    from mini_agent.traces.concentrator import Bucket, Origin
    from mini_agent.traces.sender import Sender
    from mini_agent.traces.stats_key import StatsKey
    from mini_agent.traces.stats_payload import Json

log = logging.getLogger(__name__)

SIGNAL = "stats"

# Of the layout of a snapshot; another one is not read.
_SNAPSHOT_VERSION = 1


class Stats:
    """The stats the agent computes; one owner, the event loop.

    Args:
        env: For tracers that name no environment.
        keep: Keeps records and books their groups as accepted, or raises JournalFull.
    """

    def __init__(
        self, env: str, keep: Callable[[list[Record]], None], ledger: Ledger, clock: Clock
    ) -> None:
        self._env = env
        self._keep = keep
        self._ledger = ledger
        self._clock = clock
        self._concentrator = Concentrator(clock.wall_ns(), Group)
        self._changed = False
        # What was taken from the concentrator and is not yet kept.
        self._leaving: list[Iterator[Record]] = []

    @property
    def group_count(self) -> int:
        """Groups counted and not yet in the journal."""
        return self._concentrator.group_count

    def begin(self, sender: Sender) -> Counts | None:
        """Where to note the spans of a request; None when its tracer counted them itself."""
        return None if sender.computed_stats else Counts(sender)

    def add(self, counts: Counts) -> None:
        """Count the spans of a request, after they were kept."""
        counted, blocked = counts.add_to(self._concentrator, self._env, self._clock.wall_ns())
        if counted:
            self._changed = True
            self._ledger.repaired("spans", "stats_cardinality", blocked)

    def flush(self, everything: bool = False) -> Iterator[None]:
        """Hand the complete buckets to the journal, one record at a step.

        Between two steps others may work. What an iteration left, because it was given up, is
        handed over by the next.

        Args:
            everything: Also those that are not complete, when the agent stops.
        """
        taken = self._concentrator.take(self._clock.wall_ns(), everything)
        by_origin: dict[Origin, list[tuple[int, Bucket]]] = {}
        for start_ns, origins in taken.items():
            for origin, bucket in origins.items():
                by_origin.setdefault(origin, []).append((start_ns, bucket))
        for origin, buckets in by_origin.items():
            self._leaving.append(records_of(payload_of(origin), map(_encode_bucket, buckets)))
        while self._leaving:
            self._changed = True
            record = next(self._leaving[0], None)
            if record is None:
                del self._leaving[0]
            else:
                self._keep_or_drop(record)
                yield

    def snapshot(self) -> bytes | None:
        """Everything that is counted and not in the journal; None when that has not changed.

        Empty when nothing is open. None also while buckets leave: the last snapshot has them.
        """
        if self._leaving or not self._changed:
            return None
        self._changed = False
        if not self._concentrator.group_count:
            return b""
        import msgspec

        buckets = [
            (start_ns, origin, [_pack(key, group) for key, group in bucket.groups.items()])
            for start_ns, origins in self._concentrator.buckets().items()
            for origin, bucket in origins.items()
        ]
        return msgspec.msgpack.encode((_SNAPSHOT_VERSION, buckets))

    def restore(self, snapshot: bytes) -> None:
        """Count what a process that is gone had counted.

        Args:
            snapshot: Undamaged, as `snapshot` of whatever version of this program gave it.
        """
        import msgspec

        version, buckets = msgspec.msgpack.decode(snapshot)
        if version != _SNAPSHOT_VERSION:
            log.warning("stats that were left behind have another layout (%s)", version)
            return
        self._changed = True
        for start_ns, origin, groups in buckets:
            for (*fields, peer), *numbers in groups:
                key = (*fields, tuple(peer))
                self._concentrator.restore(start_ns, tuple(origin), key, _unpack(*numbers))

    def _keep_or_drop(self, record: Record) -> None:
        try:
            self._keep([record])
        except JournalFull:
            # The spans that come now are refused for the same reason.
            self._ledger.accepted(SIGNAL, record.count)
            self._ledger.dropped(SIGNAL, "journal_full", record.count)


def _encode_bucket(start_and_bucket: tuple[int, Bucket]) -> tuple[Json, Iterator[Json]]:
    start_ns, bucket = start_and_bucket
    encoded = {**new_bucket(), "Start": start_ns, "Duration": BUCKET_NS}
    return encoded, (group_of(key, group) for key, group in bucket.groups.items())


def _pack(key: StatsKey, group: Group) -> tuple[object, ...]:
    return (
        key,
        group.hits,
        group.errors,
        min(group.duration, U64_MAX),
        group.top_level_hits,
        *(group.ok.zeros, group.ok.bins),
        *(group.failed.zeros, group.failed.bins),
    )


def _unpack(
    hits: int,
    errors: int,
    duration: int,
    top_level_hits: int,
    ok_zeros: int,
    ok_bins: dict[int, int],
    failed_zeros: int,
    failed_bins: dict[int, int],
) -> Group:
    group = Group()
    group.hits = hits
    group.errors = errors
    group.duration = duration
    group.top_level_hits = top_level_hits
    group.ok = Sketch(ok_zeros, ok_bins)
    group.failed = Sketch(failed_zeros, failed_bins)
    return group
