"""Stats that the agent computes: from the spans of a request to records in the journal.

    receiver ──► Counts, one request's spans ──► concentrator ──► records, when a bucket is
                 (added when all is kept)             │           complete or the agent stops
                                                      └────────► a snapshot, once a second

A request's spans are counted after they were kept: a request that is refused comes again, and
would be counted twice. What is counted and not yet a record survives the end of the process as a
snapshot, see forward/checkpoint.py.

What takes long is done in steps, between which the event loop serves others: `flush`, `snapshot`
and `restore` are iterators, of which one is under way at a time. Spans may be added in between.

The ledger's unit is the group of a message: it is accepted when its bucket becomes a record.
Until then it is no more than what the accepted spans say.

Source: reference-agent 6.1 and 6.2.
"""

from __future__ import annotations

import logging

from mini_agent.errors import JournalFull
from mini_agent.traces.concentrator import BUCKET_NS, Concentrator
from mini_agent.traces.stats_payload import (
    STEP_GROUPS_MAX,
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

# Of the layout of a snapshot, a list of pieces by themselves; another one is not read.
_SNAPSHOT_VERSION = 2


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
        self._leaving: list[Iterator[Record | None]] = []

    @property
    def group_count(self) -> int:
        """Groups counted and not yet in the journal."""
        return self._concentrator.group_count

    def begin(self, sender: Sender) -> Counts | None:
        """Where to note the spans of a request; None when its tracer counted them itself."""
        return None if sender.computed_stats else Counts(sender)

    def add(self, counts: Counts) -> Iterator[None]:
        """Count the spans of a request, after they were kept."""
        lots = counts.add_to(self._concentrator, self._env, self._clock.wall_ns())
        for index, (_, blocked) in enumerate(lots):
            self._changed = True
            self._ledger.repaired("spans", "stats_cardinality", blocked)
            # Nearly always there is only one.
            if index:
                yield

    def flush(self, everything: bool = False) -> Iterator[None]:
        """Hand the complete buckets to the journal.

        What an iteration left, because it was given up, is handed over by the next.

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
            records = self._leaving[0]
            for record in records:
                if record is not None:
                    self._keep_or_drop(record)
                yield
            # Unless the next iteration, of somebody else, has finished it meanwhile.
            if records in self._leaving:
                self._leaving.remove(records)

    def snapshot(self, write: Callable[[bytes], None]) -> Iterator[None]:
        """Give `write` everything that is counted and not in the journal.

        Nothing is written when that has not changed, nor while buckets leave: the last snapshot
        has them. It is empty when nothing is open.
        """
        if self._leaving or not self._changed:
            return
        import msgspec

        encode = msgspec.msgpack.encode
        self._changed = False
        # A bucket comes in several pieces; what reads them does not mind.
        pieces = []
        try:
            for start_ns, origin, items in self._concentrator.items():
                for begin in range(0, len(items), STEP_GROUPS_MAX):
                    lot = [
                        _pack(key, group) for key, group in items[begin : begin + STEP_GROUPS_MAX]
                    ]
                    pieces.append(encode((start_ns, origin, lot)))
                    yield
        except GeneratorExit:
            self._changed = True
            raise
        write(encode((_SNAPSHOT_VERSION, pieces)) if pieces else b"")

    def restore(self, snapshot: bytes) -> Iterator[None]:
        """Count what a process that is gone had counted.

        Args:
            snapshot: Undamaged, as `snapshot` of whatever version of this program gave it.
        """
        import msgspec

        version, pieces = msgspec.msgpack.decode(snapshot)
        if version != _SNAPSHOT_VERSION:
            log.warning("stats that were left behind have another layout (%s)", version)
            return
        self._changed = True
        for piece in pieces:
            start_ns, origin, groups = msgspec.msgpack.decode(piece)
            for (*fields, peer), *numbers in groups:
                key = (*fields, tuple(peer))
                self._concentrator.restore(start_ns, tuple(origin), key, _unpack(*numbers))
            yield

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
