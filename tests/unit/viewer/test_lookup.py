from __future__ import annotations

import os
import sqlite3
import sys

import pytest

from mini_agent.viewer import lookup
from mini_agent.viewer.lookup import NothingStored, StoreReader
from mini_agent.viewer.store import StoreUnavailable, TraceStore

FULL_ID = "6741a3f500000000f234567890abcdef"


@pytest.fixture
def filled(store, span, body):
    store.add_payload(
        body(
            [span(1, start=30, meta={"_dd.p.tid": "6741a3f500000000"}), span(2, 1, service="db")],
            [span(1, start=20, traceID=0xF234000000000001)],
            [span(1, start=10, traceID=77)],
        )
    )
    return store


def found(path, text):
    with StoreReader(path) as reader:
        return [trace.trace_id for trace in reader.find(text)]


@pytest.mark.parametrize(
    "text",
    [
        FULL_ID,
        FULL_ID.upper(),
        "0x" + FULL_ID,
        "f234567890abcdef",
        "0XF234567890ABCDEF",
        str(0xF234567890ABCDEF),
        str(int(FULL_ID, 16)),
        "f2345",
        "0xf2345",
        "6741A3",
        FULL_ID[:25],
        f"  {FULL_ID}\n",
    ],
)
def test_a_trace_is_found_however_its_id_is_written(filled, path, text):
    assert found(path, text) == [FULL_ID]


@pytest.mark.parametrize("text", ["77", "4d", "0x4d", "000000000000004d"])
def test_small_ids_need_no_leading_zeros(filled, path, text):
    assert found(path, text) == ["4d".zfill(32)]


def test_an_id_with_high_bits_finds_the_trace_whose_high_bits_nobody_told(filled, path):
    assert found(path, "6741a3f5" + "0" * 22 + "4d") == ["4d".zfill(32)]


def test_other_high_bits_are_another_trace(filled, path):
    assert found(path, "1111a3f500000000f234567890abcdef") == []


def test_a_prefix_of_several_finds_them_newest_first(filled, path):
    assert found(path, "f234") == [FULL_ID, "f234000000000001".zfill(32)]


def test_a_prefix_of_many_finds_some(store, path, span, body):
    store.add_payload(body(*([span(1, traceID=0xABC << 52 | n)] for n in range(1, 30))))
    assert len(found(path, "abc")) == lookup.CANDIDATES_MAX


@pytest.mark.parametrize(
    "text",
    ["", "  ", "0x", "nonsense", "f234567890abcdefg", "-77", "7_7", "%", "9" * 5000, "f" * 33],
)
def test_what_is_no_id_finds_nothing(filled, path, text):
    assert found(path, text) == []


def test_a_decimal_id_is_meant_before_a_prefix(store, path, span, body):
    store.add_payload(body([span(1, traceID=77)], [span(1, traceID=0x77 << 56)]))
    assert found(path, "77") == ["4d".zfill(32)]


def test_short_ids_find_their_trace_and_no_other(store, path, span, body):
    ids = [1, 2, 17, 0xFFFFFFFF, 0xF234567890ABCDEF, 0xF234567890ABCD00, 0xF2345678 << 32]
    store.add_payload(body(*([span(1, traceID=trace_id)] for trace_id in ids)))
    with StoreReader(path) as reader:
        for trace in reader.recent(100):
            assert [other.trace_id for other in reader.find(trace.short_id)] == [trace.trace_id]


def test_recent_traces_come_newest_first(filled, path):
    with StoreReader(path) as reader:
        assert [trace.start_ns for trace in reader.recent(2)] == [30, 20]


def test_recent_traces_can_be_those_of_a_service(filled, path):
    with StoreReader(path) as reader:
        assert [trace.trace_id for trace in reader.recent(9, "db")] == [FULL_ID]
        assert len(reader.recent(9, "web")) == 3
        assert reader.recent(9, "nobody") == []


def test_spans_come_by_start(store, path, span, body):
    store.add_payload(body([span(1, start=5), span(2, 1, start=9), span(3, 1, start=7)]))
    with StoreReader(path) as reader:
        (trace,) = reader.recent(1)
        assert [s.start_ns for s in reader.spans(trace)] == [5, 7, 9]


def test_a_missing_store_is_said_and_not_made(path):
    with pytest.raises(NothingStored, match=r"no trace store at .*traces\.db"):
        StoreReader(path)
    assert not os.path.exists(path)


def test_an_empty_file_is_nothing_stored(tmp_path):
    empty = tmp_path / "traces.db"
    empty.touch()
    with pytest.raises(NothingStored):
        StoreReader(str(empty))


def test_a_file_of_garbage_is_said_and_stays(tmp_path):
    garbage = tmp_path / "traces.db"
    garbage.write_bytes(b"no database" * 1000)
    with pytest.raises(StoreUnavailable, match="cannot be read"):
        StoreReader(str(garbage))
    assert garbage.stat().st_size == 11_000


def test_a_store_of_another_version_is_said(store, path):
    store.prepare()
    db = sqlite3.connect(path)
    db.execute("PRAGMA user_version = 99")
    db.close()
    with pytest.raises(StoreUnavailable, match="layout 99"):
        StoreReader(path)


def test_a_database_of_another_program_is_said(tmp_path):
    theirs = str(tmp_path / "theirs.db")
    db = sqlite3.connect(theirs)
    db.execute("CREATE TABLE theirs (a)")
    db.close()
    with pytest.raises(StoreUnavailable, match="another program"):
        StoreReader(theirs)


def test_a_locked_store_is_said_after_a_while(store, path, monkeypatch):
    store.prepare()
    monkeypatch.setattr(lookup, "BUSY_TIMEOUT_S", 0.01)
    db = sqlite3.connect(path, isolation_level=None)
    db.execute("BEGIN EXCLUSIVE")
    with pytest.raises(StoreUnavailable, match="locked"):
        StoreReader(path)
    db.close()


def test_a_reader_cannot_write(filled, path):
    before = os.stat(path).st_mtime_ns
    with StoreReader(path) as reader:
        reader.recent(10)
    assert os.stat(path).st_mtime_ns == before


# Windows allows no question mark in a name.
ODD_NAMES = ["a b", "100%", "#1", "ümläut", "a%20b", *(["what?"] if os.name != "nt" else [])]


@pytest.mark.parametrize("name", ODD_NAMES)
def test_paths_may_have_any_characters(tmp_path, clock, span, body, name):
    path = str(tmp_path / name / "traces.db")
    TraceStore(path, traces_max=5, clock=clock).add_payload(body([span(1)]))
    assert len(found(path, "f2")) == 1


@pytest.mark.skipif(sys.platform != "linux", reason="others take no such names")
def test_paths_need_not_be_utf8(tmp_path, clock, span, body):
    path = os.fsdecode(os.fsencode(tmp_path) + b"/\xff.db")
    TraceStore(path, traces_max=5, clock=clock).add_payload(body([span(1)]))
    assert len(found(path, "f2")) == 1
