"""The one queue of the agent: on disk, bounded, and the same bytes that are delivered.

What this is
    Records are appended to the *open* batch of their kind before their sender is told yes. A
    batch is closed when it is old enough to be sent or as large as the intake allows; a closed
    batch is *taken* for delivery and *settled* as delivered (its file is deleted), kept (it
    waits for another try) or dropped with a reason. What a process leaves behind is adopted by
    the next one (see folder.py). Nothing leaves the disk before its outcome is known, so a crash
    repeats a batch rather than losing it: delivery is at least once.

What this is not
    A database, or safe against loss of power: a record is written to the system's cache and not
    forced to the disk, so it survives the death of this process at any instant and not the death
    of the machine.

Layout of a batch file, named `<created, ns>-<pid>-<number>.<kind>`; numbers are little-endian
    8 bytes   "MAJRNL01"
    records   4 bytes   mark C9 4A 52 D6: where to look for the next record after damage
              4 bytes   length of the headers
              4 bytes   length of the body
              4 bytes   count of units
              4 bytes   CRC-32 of the three numbers above, the headers and the body
              headers   "name:value" lines, UTF-8, each ended by a line feed
              body

Recovery trusts a record whose CRC holds and nothing else. A torn tail is what an unfinished
write leaves; its sender was not told yes. Damage in the middle loses the damaged record: reading
goes on at the next mark whose record is sound.

A batch of a kind that the intake takes as zstd is *packed* where the journal is told a level: its
records are compressed as they come. packed.py says how.

Limits
    bytes on disk     `bytes_max`: the oldest closed batch is dropped, with a count
    bytes in memory   `memory_bytes_max`: further records are refused (JournalFull)
    one batch         the kind's `body_bytes_max`

When the disk refuses
    The agent says so once and keeps batches in memory instead; it asks the disk again every few
    seconds and then moves them there. A folder that was deleted under us is noticed within
    LINK_LOOK_S of the next append or look of the forwarder, and when a batch is closed, by the
    link count of the open file: its records are read back through the open file and kept. Batches
    already closed at that moment are gone and counted as dropped.

Everything here runs on the event loop's thread, except `Batch.read`, which the sender thread
calls on a taken batch: a closed batch never changes.
"""

from __future__ import annotations

import logging
import os

from mini_agent.errors import JournalFull
from mini_agent.forward import packed
from mini_agent.forward.batch import Batch, remove_quietly

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Container, Mapping, Sequence

    from mini_agent.flow.clock import Clock
    from mini_agent.forward.folder import Folder
    from mini_agent.forward.packed import Packer
    from mini_agent.forward.payload import Kind, Record
    from mini_agent.ledger import Ledger

log = logging.getLogger(__name__)

# How long a disk that refused is left alone before it is asked again.
DISK_RETRY_S = 2.0

# How long an open batch may be without its file's name before somebody looks. A look at each
# append cost 1.4 µs of 26 on Linux and half a millisecond under Wine.
LINK_LOOK_S = 0.1

# What a sender is told to wait when nothing more fits in memory.
RETRY_AFTER_S = 2


class Journal:
    """Open, closed and taken batches, on disk while it works and in memory while it does not.

    Args:
        folder: This process's folder, or None to use memory alone.
        bytes_max: Largest sum of files.
        memory_bytes_max: Largest sum of batches kept in memory.
        batch_age_s_max: Age at which an open batch is closed by `close_due`.
        packing_level: Of zstd, for kinds that can be compressed as their records come; None
            where what is delivered is not compressed.
        ready: Called when a batch was opened or closed, so that a waiting forwarder looks again.
    """

    def __init__(
        self,
        folder: Folder | None,
        *,
        bytes_max: int,
        memory_bytes_max: int,
        batch_age_s_max: float,
        clock: Clock,
        ledger: Ledger,
        packing_level: int | None = None,
        ready: Callable[[], None] = lambda: None,
    ) -> None:
        self._folder = folder
        self._bytes_max = bytes_max
        self._memory_bytes_max = memory_bytes_max
        self._batch_age_s_max = batch_age_s_max
        self._clock = clock
        self._ledger = ledger
        self.ready = ready
        self._open: dict[str, Batch] = {}
        self._closed: list[Batch] = []
        self._closed_disk_bytes = 0
        self._closed_memory_bytes = 0
        # What may be written before the bound must be looked at again.
        self._room_bytes = 0
        self._packing_level = packing_level
        # Those of closed batches, for the next ones: they are large.
        self._packers: list[Packer] = []
        self._number = 0
        self._disk_works = folder is not None
        self._disk_retry_at_s = 0.0
        self._link_look_at_s = 0.0

    # Keeping

    def open(self) -> None:
        """Make the folder; a disk that refuses is no error, memory stands in for it."""
        if self._folder is not None:
            try:
                self._folder.make()
            except OSError as error:
                self._disk_refused(error)

    def append(self, kind: Kind, records: Sequence[Record]) -> None:
        """Keep records; when this returns they survive the death of this process.

        Raises:
            JournalFull: Memory stands in for a disk that refuses, and has no room. Records of
                this call that were kept before that are delivered all the same.
        """
        self._look_at_links()
        for record in records:
            try:
                self._put(kind, record)
            except OSError as error:
                self._disk_refused(error)
                self._put(kind, record)
            self._ledger.accepted(kind.signal, record.count)

    def adopt(self, kind: Kind, path: str) -> None:
        """Take over a file that another process left; it is in our folder already."""
        batch = Batch(kind, os.path.basename(path), self._clock.steady_s())
        if not batch.adopt(path):
            remove_quietly(path)
            return
        self._ledger.adopted(kind.signal, batch.count)
        self._closed.append(batch)
        # Names begin with the time of creation: adopted batches are older than ours.
        self._closed.sort(key=lambda each: each.name)
        self._recount()
        self._drop_oldest_until(self._bytes_max)
        self.ready()

    # Handing on

    def look_after_disk(self) -> None:
        """Ask a disk that refused whether it works again; move what is in memory there."""
        self._look_at_links()
        if not self._disk_works and self._folder is not None:
            self._ask_disk_again()

    def close_due(self) -> None:
        """Close the open batches that are old enough to be sent."""
        due_s = self._clock.steady_s() - self._batch_age_s_max
        for batch in list(self._open.values()):
            if batch.opened_s <= due_s:
                self._close(batch)

    def close_all(self) -> None:
        """Close every open batch, whatever its age."""
        for batch in list(self._open.values()):
            self._close(batch)

    def seconds_to_due(self) -> float | None:
        """How long until `close_due` has something to close; None while nothing is open."""
        if not self._open:
            return None
        opened_s = min(batch.opened_s for batch in self._open.values())
        return max(0.0, opened_s + self._batch_age_s_max - self._clock.steady_s())

    def take(self, passed_over: Container[Batch] = ()) -> list[Batch]:
        """Closed batches to send as one request: of one kind, oldest first, untried before tried.

        Small untried batches are sent together, as far as the intake's limit allows. A batch
        that failed goes behind the others, so that one the intake chokes on blocks nobody.

        Args:
            passed_over: Batches to leave alone.
        """
        free = [batch for batch in self._closed if not batch.taken and batch not in passed_over]
        if not free:
            return []
        first = min(free, key=lambda each: (each.tries, each.name))
        group = [first]
        if not first.tries and not first.alone:
            body_bytes, units = first.body_bytes, first.count
            for batch in free:
                if batch is first or batch.kind is not first.kind or batch.tries or batch.alone:
                    continue
                if not _fits(first.kind, batch, body_bytes, units):
                    break
                body_bytes += batch.body_bytes
                units += batch.count
                group.append(batch)
        for batch in group:
            batch.taken = True
        return group

    def release_taken(self) -> None:
        """Nobody delivers now: what a forwarder that died had taken is to be taken again."""
        for batch in self._closed:
            batch.taken = False

    def settle_delivered(self, batch: Batch, count: int) -> None:
        """The intake has it: delete the file.

        Args:
            count: Units that were readable and sent; the rest is counted as damaged.
        """
        self._ledger.delivered(batch.kind.signal, count)
        if count < batch.count:
            self._ledger.dropped(batch.kind.signal, "journal_damaged", batch.count - count)
        self._forget(batch)

    def settle_kept(self, batch: Batch) -> None:
        """The try failed for now: it waits."""
        batch.taken = False
        batch.tries += 1

    def settle_dropped(self, batch: Batch, reason: str) -> None:
        """Nobody will get it."""
        self._ledger.dropped(batch.kind.signal, reason, batch.count)
        self._forget(batch)

    def settle_apart(self, contents: Mapping[Batch, list[Record]]) -> bool:
        """Send batches that were taken together alone from now on, or one batch in halves.

        Args:
            contents: The taken batches and their sound records.

        Returns:
            False when there is nothing left to divide; the batch is still taken then.
        """
        if len(contents) > 1:
            for batch in contents:
                batch.alone = True
                batch.taken = False
            return True
        ((batch, records),) = contents.items()
        if len(records) < 2:
            return False
        middle = len(records) // 2
        for half in (records[:middle], records[middle:]):
            self._insert(batch.kind, half)
        missing = batch.count - sum(record.count for record in records)
        if missing:
            self._ledger.dropped(batch.kind.signal, "journal_damaged", missing)
        self._forget(batch)
        return True

    # Ending

    def move_to_disk(self) -> None:
        """Move what is kept in memory to the disk, where it lets us."""
        for batch in self._closed:
            if batch.path is None and not batch.taken and self._folder is not None:
                try:
                    batch.move_to(self._folder.path_of(batch.name))
                except OSError as error:
                    self._disk_refused(error)
                    return
                self._recount()

    def close(self) -> None:
        """Count what cannot be left behind as dropped and release the folder; may be repeated."""
        self.close_all()
        self.move_to_disk()
        for batch in [each for each in self._closed if each.path is None]:
            self.settle_dropped(batch, "not_kept_at_stop")
        if self._folder is not None:
            self._folder.release(empty=not self._closed)

    # Telling

    def waiting(self) -> dict[str, int]:
        """Units kept and not yet delivered, by signal."""
        counts: dict[str, int] = {}
        for batch in [*self._open.values(), *self._closed]:
            counts[batch.kind.signal] = counts.get(batch.kind.signal, 0) + batch.count
        return counts

    def statistics(self) -> Mapping[str, object]:
        """Numbers for the status page."""
        batches = [*self._open.values(), *self._closed]
        return {
            "where": "disk" if self._disk_works else "memory",
            "batches": len(batches),
            "disk_bytes": self._disk_bytes(),
            "disk_bytes_max": self._bytes_max if self._folder is not None else 0,
            "memory_bytes": self._memory_bytes(),
            "memory_bytes_max": self._memory_bytes_max,
        }

    # Inside

    def _put(self, kind: Kind, record: Record) -> None:
        batch = self._open_batch(kind, record)
        needed = batch.room_for(record)
        if batch.path is None or needed > self._room_bytes:
            self._make_room(needed, batch)
        kept_bytes = batch.kept_bytes
        batch.add(record)
        self._room_bytes -= batch.kept_bytes - kept_bytes

    def _open_batch(self, kind: Kind, record: Record) -> Batch:
        batch = self._open.get(kind.name)
        if batch is not None:
            if batch.count == 0 or _fits(kind, batch, len(record.body), record.count):
                return batch
            self._close(batch)
        self.look_after_disk()
        batch = Batch(kind, self._name(kind), self._clock.steady_s(), self._packer_for(kind))
        if self._disk_works and self._folder is not None:
            try:
                self._create(batch, self._folder)
            except OSError as error:
                self._disk_refused(error)
        if batch.path is None:
            batch.begin_in_memory()
        self._open[kind.name] = batch
        self._recount()
        self.ready()
        return batch

    def _packer_for(self, kind: Kind) -> Packer | None:
        if self._packing_level is None or not packed.suits(kind):
            return None
        return self._packers.pop() if self._packers else packed.Packer(self._packing_level)

    def _create(self, batch: Batch, folder: Folder) -> None:
        try:
            batch.create(folder.path_of(batch.name))
        except FileNotFoundError:
            log.warning("the journal folder was deleted: making it anew")
            folder.make()
            batch.create(folder.path_of(batch.name))

    def _name(self, kind: Kind) -> str:
        self._number += 1
        return f"{self._clock.wall_ns():020d}-{os.getpid()}-{self._number:06d}.{kind.name}"

    def _close(self, batch: Batch) -> None:
        del self._open[batch.kind.name]
        if self._is_unlinked(batch):
            batch.rescue()
        packer = batch.close()
        if packer is not None:
            self._packers.append(packer)
        if batch.count:
            self._closed.append(batch)
            self._recount()
            self.ready()
        else:
            batch.delete_file()

    def _insert(self, kind: Kind, records: list[Record]) -> None:
        """Make a closed batch of records that are counted as accepted already."""
        batch = Batch(kind, self._name(kind), self._clock.steady_s())
        batch.begin_in_memory()
        batch.alone = True
        for record in records:
            batch.add(record)
        self._closed.append(batch)
        self._recount()
        if self._disk_works:
            self.move_to_disk()

    def _forget(self, batch: Batch) -> None:
        self._closed.remove(batch)
        self._recount()
        batch.delete_file()

    def _recount(self) -> None:
        """Add up the batches; to be called whenever one comes, goes or moves."""
        self._closed_disk_bytes = sum(
            batch.kept_bytes for batch in self._closed if batch.path is not None
        )
        self._closed_memory_bytes = sum(
            batch.kept_bytes for batch in self._closed if batch.path is None
        )
        self._room_bytes = self._bytes_max - self._disk_bytes()

    def _disk_bytes(self) -> int:
        return self._closed_disk_bytes + sum(
            batch.kept_bytes for batch in self._open.values() if batch.path is not None
        )

    def _memory_bytes(self) -> int:
        return self._closed_memory_bytes + sum(
            batch.kept_bytes for batch in self._open.values() if batch.path is None
        )

    def _make_room(self, encoded_bytes: int, batch: Batch) -> None:
        if batch.path is None:
            if self._memory_bytes() + encoded_bytes > self._memory_bytes_max:
                raise JournalFull(
                    f"{self._memory_bytes_max} bytes in memory are taken and the disk refuses",
                    RETRY_AFTER_S,
                )
            return
        self._drop_oldest_until(self._bytes_max - encoded_bytes)
        if self._disk_bytes() + encoded_bytes > self._bytes_max:
            raise JournalFull(f"{self._bytes_max} bytes on disk are taken", RETRY_AFTER_S)
        self._recount()

    def _drop_oldest_until(self, bytes_max: int) -> None:
        if self._disk_bytes() <= bytes_max:
            return
        for batch in [each for each in self._closed if each.path is not None and not each.taken]:
            self.settle_dropped(batch, "journal_full")
            if self._disk_bytes() <= bytes_max:
                return

    # The disk's moods

    def _disk_refused(self, error: OSError) -> None:
        self._disk_retry_at_s = self._clock.steady_s() + DISK_RETRY_S
        for batch in [each for each in self._open.values() if each.path is not None]:
            self._close(batch)
        if self._disk_works:
            self._disk_works = False
            log.warning(
                "the journal folder cannot be written (%s): going on in memory, at most %d bytes; "
                "what is there is lost if the agent is killed",
                error.strerror or error,
                self._memory_bytes_max,
            )

    def _ask_disk_again(self) -> None:
        assert self._folder is not None
        if self._clock.steady_s() < self._disk_retry_at_s:
            return
        try:
            self._folder.make()
            self._disk_works = True
        except OSError as error:
            self._disk_refused(error)
            return
        for batch in [each for each in self._open.values() if each.path is None]:
            self._close(batch)
        self.move_to_disk()
        if self._disk_works:
            log.warning("the journal folder can be written again: going on there")

    def _is_unlinked(self, batch: Batch) -> bool:
        return self._folder is not None and self._folder.can_vanish and batch.is_unlinked()

    def _look_at_links(self) -> None:
        """Notice, once in a while, that somebody deleted the folder.

        What the open files still hold is kept, and the folder is made anew.
        """
        now_s = self._clock.steady_s()
        if now_s < self._link_look_at_s or self._folder is None:
            return
        self._link_look_at_s = now_s + LINK_LOOK_S
        unlinked = [batch for batch in self._open.values() if self._is_unlinked(batch)]
        if not unlinked:
            return
        log.warning("the journal folder was deleted: what it held open is kept")
        for each in unlinked:
            self._close(each)
        try:
            self._folder.make()
        except OSError as error:
            self._disk_refused(error)
        else:
            self.move_to_disk()


def _fits(kind: Kind, batch: Batch, body_bytes: int, units: int) -> bool:
    """Whether a batch and so much more may travel in one request."""
    return (
        batch.body_bytes + body_bytes <= kind.body_bytes_max
        and batch.count + units <= kind.units_max
    )
