"""forward.journal: what is kept, what is bounded, and what a failing disk does."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from kit.clock import HandClock

from mini_agent.errors import JournalFull
from mini_agent.forward import packed
from mini_agent.forward.batch import Batch, read_folder
from mini_agent.forward.folder import Folder, Owner
from mini_agent.forward.journal import DISK_RETRY_S, LINK_LOOK_S, Journal
from mini_agent.forward.payload import Kind, Record
from mini_agent.ledger import Ledger

KIND = Kind("traces", "spans", "/traces", "application/x-protobuf", b"PFX", 1000)


@pytest.fixture(autouse=True)
def _zstd() -> None:
    """As it is after the first delivery."""
    packed.load_zstd()


class Bench:
    """A journal and what stands around it."""

    def __init__(
        self,
        base: Path,
        bytes_max: int = 1 << 20,
        memory: int = 1 << 20,
        packing_level: int | None = None,
    ) -> None:
        self.base = base
        self.packing_level = packing_level
        self.clock = HandClock()
        self.ledger = Ledger()
        self.folder = Folder(str(base), Owner("app", "http://intake", "key"))
        self.journal = self._journal(bytes_max, memory)
        self.journal.open()

    def _journal(self, bytes_max: int, memory: int) -> Journal:
        return Journal(
            self.folder,
            bytes_max=bytes_max,
            memory_bytes_max=memory,
            batch_age_s_max=3.0,
            clock=self.clock,
            ledger=self.ledger,
            packing_level=self.packing_level,
        )

    def keep(self, body: bytes, count: int = 1) -> None:
        self.journal.append(KIND, [Record(count, {}, body)])

    def taken_bodies(self) -> list[bytes]:
        return [record.body for batch in self.journal.take() for record in batch.read()]

    def on_disk(self) -> list[bytes]:
        return [record.body for _, records in read_folder(str(self.base)) for record in records]

    def assert_balanced(self) -> None:
        assert self.ledger.imbalance(self.journal.waiting()) == {}


@pytest.fixture(params=[None, 1], ids=["plain", "packed"])
def bench(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Bench]:
    bench = Bench(tmp_path / "journal", packing_level=request.param)
    yield bench
    bench.assert_balanced()
    bench.journal.close()
    bench.assert_balanced()


def deliver(journal: Journal, group: list[Batch]) -> None:
    for batch in group:
        journal.settle_delivered(batch, sum(record.count for record in batch.read()))


def test_a_kept_record_is_on_disk_before_append_returns(bench: Bench) -> None:
    bench.keep(b"one")
    assert bench.on_disk() == [b"one"]
    assert bench.journal.waiting() == {"spans": 1}


def test_a_batch_is_closed_when_it_is_old_enough(bench: Bench) -> None:
    bench.keep(b"one")
    bench.journal.close_due()
    assert bench.journal.take() == []
    assert bench.journal.seconds_to_due() == 3.0
    bench.clock.move(3.0)
    bench.journal.close_due()
    assert bench.taken_bodies() == [b"one"]
    assert bench.journal.seconds_to_due() is None


def test_a_batch_never_grows_past_the_intakes_limit(bench: Bench) -> None:
    for _ in range(5):
        bench.keep(b"x" * 400)
    bench.journal.close_all()
    sizes = []
    while group := bench.journal.take():
        sizes.append([batch.body_bytes for batch in group])
    assert sizes == [[803], [803], [403]]


def test_a_record_larger_than_the_limit_travels_alone(bench: Bench) -> None:
    bench.keep(b"small")
    bench.keep(b"x" * 5000)
    bench.keep(b"small")
    bench.journal.close_all()
    groups = []
    while group := bench.journal.take():
        groups.append([batch.count for batch in group])
    assert groups == [[1, 1], [1]] or groups == [[1], [1], [1]]


def test_small_batches_travel_together_oldest_first(bench: Bench) -> None:
    for n in range(4):
        bench.keep(bytes([n]) * 300)
        bench.clock.move(1)
        bench.journal.close_all()
    assert [body[0] for body in bench.taken_bodies()] == [0, 1, 2]
    assert [body[0] for body in bench.taken_bodies()] == [3]


def test_delivered_means_the_file_is_gone(bench: Bench) -> None:
    bench.keep(b"one", count=7)
    bench.journal.close_all()
    deliver(bench.journal, bench.journal.take())
    assert bench.on_disk() == []
    assert bench.journal.waiting() == {}
    assert bench.ledger.total("spans", "delivered") == 7


def test_a_batch_that_failed_goes_behind_the_others(bench: Bench) -> None:
    bench.keep(b"a" * 900)
    bench.keep(b"b" * 900)
    bench.journal.close_all()
    (first,) = bench.journal.take()
    bench.journal.settle_kept(first)
    assert bench.taken_bodies() == [b"b" * 900]
    assert bench.taken_bodies() == [b"a" * 900]


def test_over_the_bound_the_oldest_batch_is_dropped_with_a_count(tmp_path: Path) -> None:
    bench = Bench(tmp_path / "journal", bytes_max=5000)
    for n in range(20):
        bench.keep(bytes([n]) * 900)
        bench.clock.move(1)
    kept = bench.on_disk()
    assert kept[-1][0] == 19
    assert sum(map(len, kept)) <= 5000
    assert bench.ledger.snapshot({})["spans"]["dropped"] == {"journal_full": 20 - len(kept)}
    bench.assert_balanced()
    bench.journal.close()


def test_a_batch_under_delivery_is_never_dropped_for_room(tmp_path: Path) -> None:
    bench = Bench(tmp_path / "journal", bytes_max=5000)
    bench.keep(b"first" * 150)
    bench.journal.close_all()
    (taken,) = bench.journal.take()
    for _ in range(20):
        bench.keep(b"x" * 900)
    assert [record.body for record in taken.read()] == [b"first" * 150]
    deliver(bench.journal, [taken])
    bench.assert_balanced()
    bench.journal.close()


def test_a_group_that_is_too_large_is_sent_batch_by_batch_then_in_halves(bench: Bench) -> None:
    for n in range(4):
        bench.journal.append(KIND, [Record(1, {}, bytes([n]) * 100)])
    bench.journal.close_all()
    (batch,) = bench.journal.take()
    assert bench.journal.settle_apart({batch: batch.read()})
    bench.assert_balanced()
    halves = []
    while group := bench.journal.take():
        assert len(group) == 1
        halves.append([record.body[0] for record in group[0].read()])
    assert halves == [[0, 1], [2, 3]]


def test_one_record_that_is_too_large_cannot_be_divided(bench: Bench) -> None:
    bench.keep(b"one")
    bench.journal.close_all()
    (batch,) = bench.journal.take()
    assert not bench.journal.settle_apart({batch: batch.read()})
    bench.journal.settle_dropped(batch, "refused_413")
    assert bench.ledger.snapshot({})["spans"]["dropped"] == {"refused_413": 1}


def test_a_damaged_record_is_counted_and_the_rest_delivered(tmp_path: Path) -> None:
    bench = Bench(tmp_path / "journal")
    bench.journal.append(KIND, [Record(1, {}, b"a" * 50), Record(1, {}, b"b" * 50)])
    bench.journal.close_all()
    (batch,) = bench.journal.take()
    assert batch.path is not None
    path = Path(batch.path)
    content = bytearray(path.read_bytes())
    content[content.index(b"a" * 50)] ^= 1
    path.write_bytes(content)
    deliver(bench.journal, [batch])
    assert bench.ledger.snapshot({})["spans"]["dropped"] == {"journal_damaged": 1}
    assert bench.ledger.total("spans", "delivered") == 1
    bench.assert_balanced()
    bench.journal.close()


def test_in_a_packed_batch_damage_costs_what_stands_behind_it(tmp_path: Path) -> None:
    bench = Bench(tmp_path / "journal", packing_level=1)
    for count in (1, 2, 4):
        bench.keep(b"%d" % count * 50, count)
    bench.journal.close_all()
    (batch,) = bench.journal.take()
    assert batch.path is not None
    path = Path(batch.path)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    assert [record.count for record in batch.read()] == [1]
    deliver(bench.journal, [batch])
    assert bench.ledger.snapshot({})["spans"]["dropped"] == {"journal_damaged": 6}
    bench.assert_balanced()
    bench.journal.close()


def test_until_zstd_is_loaded_nothing_waits_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packed, "_zstd", None)
    bench = Bench(tmp_path / "journal", packing_level=1)
    bench.keep(b"one")
    bench.journal.close_all()
    packed.load_zstd()
    bench.keep(b"two")
    bench.journal.close_all()
    assert [batch.packed for batch in bench.journal.take()] == [False, True]
    assert bench.on_disk() == [b"one", b"two"]
    bench.journal.close()


def test_a_kind_that_is_counted_is_never_packed(tmp_path: Path) -> None:
    bench = Bench(tmp_path / "journal", packing_level=1)
    counted = Kind("stats", "groups", "/s", "application/msgpack", b"P", 1000, counted=True)
    gzipped = Kind("more", "groups", "/s", "application/msgpack", b"P", 1000, compression="gzip")
    for kind in (KIND, counted, gzipped):
        bench.journal.append(kind, [Record(1, {}, b"x")])
    bench.journal.close_all()
    found = {}
    while group := bench.journal.take():
        found.update({batch.kind.name: batch.packed for batch in group})
        deliver(bench.journal, group)
    assert found == {"traces": True, "stats": False, "more": False}
    bench.journal.close()


def test_a_packed_batch_takes_a_fraction_of_the_disk(tmp_path: Path) -> None:
    kind = Kind("traces", "spans", "/traces", "application/x-protobuf", b"PFX", 1 << 20)
    bench = Bench(tmp_path / "journal", packing_level=1)
    for n in range(100):
        bench.journal.append(kind, [Record(1, {"lang": "python"}, b"the same again %d " % n * 50)])
    assert bench.journal.statistics()["disk_bytes"] < 100 * 900 / 10  # type: ignore[operator]
    bench.journal.close()


def test_the_folder_is_looked_at_once_in_a_while(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = Bench(tmp_path / "journal")
    looks: list[int] = []
    real_fstat = os.fstat

    def fstat(fd: int) -> os.stat_result:
        looks.append(fd)
        return real_fstat(fd)

    monkeypatch.setattr(os, "fstat", fstat)
    for _ in range(100):
        bench.keep(b"x")
        bench.clock.move(LINK_LOOK_S / 10)
    assert 9 <= len(looks) <= 11
    bench.journal.close()


def test_where_no_open_file_can_be_deleted_nobody_looks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = Bench(tmp_path / "journal")
    monkeypatch.setattr(Folder, "can_vanish", False)
    with monkeypatch.context() as watched:
        watched.setattr(os, "fstat", lambda _: pytest.fail("half a millisecond under Wine"))
        for _ in range(3):
            bench.clock.move(LINK_LOOK_S)
            bench.keep(b"x")
        bench.journal.close_all()
    bench.journal.close()


@pytest.mark.skipif(os.name == "nt", reason="Windows deletes and moves no open file")
def test_a_deleted_folder_is_noticed_without_a_further_record(bench: Bench) -> None:
    bench.keep(b"before")
    shutil.rmtree(bench.base)
    bench.clock.move(LINK_LOOK_S)
    bench.journal.look_after_disk()
    assert bench.on_disk() == [b"before"]


@pytest.mark.skipif(os.name == "nt", reason="Windows deletes and moves no open file")
def test_what_is_closed_from_a_deleted_folder_is_kept(bench: Bench) -> None:
    bench.keep(b"before")
    bench.clock.move(LINK_LOOK_S)
    bench.keep(b"looked")
    shutil.rmtree(bench.base)
    bench.keep(b"not looked")
    bench.journal.close_all()
    assert bench.taken_bodies() == [b"before", b"looked", b"not looked"]


@pytest.mark.skipif(os.name == "nt", reason="Windows deletes and moves no open file")
def test_a_deleted_folder_loses_nothing_that_was_open(bench: Bench) -> None:
    bench.keep(b"before")
    shutil.rmtree(bench.base)
    bench.clock.move(LINK_LOOK_S)
    bench.keep(b"after")
    assert sorted(bench.on_disk()) == [b"after", b"before"]


@pytest.mark.skipif(os.name == "nt", reason="Windows deletes and moves no open file")
def test_a_folder_deleted_between_batches_is_made_anew(bench: Bench) -> None:
    bench.keep(b"one")
    bench.journal.close_all()
    deliver(bench.journal, bench.journal.take())
    shutil.rmtree(bench.base)
    bench.keep(b"two")
    assert bench.on_disk() == [b"two"]


def make_unusable(base: Path) -> None:
    """A file where the folder should be: no user, not even root, can write below it."""
    shutil.rmtree(base)
    base.write_text("in the way")


@pytest.mark.skipif(os.name == "nt", reason="Windows deletes and moves no open file")
def test_an_unusable_folder_means_memory_until_it_is_usable_again(bench: Bench) -> None:
    bench.keep(b"disk")
    make_unusable(bench.base)
    bench.clock.move(LINK_LOOK_S)
    bench.keep(b"memory")
    assert bench.journal.statistics()["where"] == "memory"
    assert bench.journal.waiting() == {"spans": 2}
    bench.base.unlink()
    bench.clock.move(DISK_RETRY_S)
    bench.journal.look_after_disk()
    assert bench.journal.statistics()["where"] == "disk"
    assert sorted(bench.on_disk()) == [b"disk", b"memory"]


def test_memory_is_bounded_and_the_sender_is_told(tmp_path: Path) -> None:
    base = tmp_path / "journal"
    base.write_text("in the way")
    bench = Bench(base, memory=3000)

    def keep_for_ever() -> None:
        while True:
            bench.keep(b"x" * 500)

    with pytest.raises(JournalFull) as full:
        keep_for_ever()
    assert full.value.retry_after_s >= 1
    bench.assert_balanced()
    bench.journal.close()
    dropped = bench.ledger.snapshot({})["spans"]["dropped"]
    assert dropped == {"not_kept_at_stop": bench.ledger.total("spans", "accepted")}


def test_without_a_folder_memory_is_used(tmp_path: Path) -> None:
    ledger = Ledger()
    journal = Journal(
        None,
        bytes_max=0,
        memory_bytes_max=3000,
        batch_age_s_max=1,
        clock=HandClock(),
        ledger=ledger,
    )
    journal.open()
    journal.append(KIND, [Record(1, {}, b"one")])
    journal.close_all()
    deliver(journal, journal.take())
    journal.close()
    assert ledger.report({}) == (
        "spans: adopted=0 accepted=1 delivered=1 waiting=0 dropped=0 refused=0 repaired=0; balanced"
    )


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full, a Linux device")
def test_a_full_disk_means_memory(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.keep(b"before")
    real_open = os.open

    def open_full(path: str, flags: int, *mode: int) -> int:
        return (
            real_open("/dev/full", os.O_RDWR)
            if str(path).endswith(".traces")
            else real_open(path, flags, *mode)
        )

    bench.journal.close_all()
    with monkeypatch.context() as full:
        full.setattr(os, "open", open_full)
        bench.keep(b"after")
    assert bench.journal.statistics()["where"] == "memory"
    assert bench.on_disk() == [b"before"]
    bench.clock.move(DISK_RETRY_S)
    bench.journal.look_after_disk()
    assert sorted(bench.on_disk()) == [b"after", b"before"]


@pytest.mark.skipif(os.name == "nt", reason="Windows deletes and moves no open file")
@pytest.mark.parametrize("level", [None, 1], ids=["plain", "packed"])
def test_a_successor_adopts_what_a_dead_process_left(tmp_path: Path, level: int | None) -> None:
    first = Bench(tmp_path / "journal", packing_level=level)
    for n in range(3):
        first.keep(bytes([n]) * 900)
    first.folder.release(empty=False)  # As death does: the lock goes, the files stay.
    second = Bench(tmp_path / "journal")
    for path in second.folder.leftovers({"traces"}):
        second.journal.adopt(KIND, path)
    assert second.ledger.total("spans", "adopted") == 3
    bodies = []
    while group := second.journal.take():
        bodies += [record.body[0] for batch in group for record in batch.read()]
        deliver(second.journal, group)
    assert bodies == [0, 1, 2]
    second.assert_balanced()
    second.journal.close()
    assert [name for name in os.listdir(tmp_path / "journal") if not name.endswith(".lock")] == []


def test_a_batch_never_holds_more_units_than_the_intake_takes(bench: Bench) -> None:
    kind = Kind("stats", "groups", "/stats", "application/msgpack", b"P", 1000, units_max=5)
    for count in (2, 3, 1, 9, 1):
        bench.journal.append(kind, [Record(count, {}, b"x")])
    bench.journal.close_all()
    counts = []
    while group := bench.journal.take():
        counts.append([record.count for batch in group for record in batch.read()])
        deliver(bench.journal, group)
    assert counts == [[2, 3], [1], [9], [1]]
