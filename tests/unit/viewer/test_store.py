from __future__ import annotations

import contextlib
import os
import sqlite3
import stat
import subprocess
import sys
import textwrap

import pytest

from mini_agent.errors import DecodeError
from mini_agent.viewer import store as store_module
from mini_agent.viewer.lookup import StoreReader
from mini_agent.viewer.store import StoreUnavailable, TraceStore

posix_only = pytest.mark.skipif(os.name == "nt", reason="modes and limits of POSIX")


@contextlib.contextmanager
def opened(path):
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as db:
        yield db


def kept(path):
    with StoreReader(path) as reader:
        return reader.recent(100_000)


def rows(path, statement):
    with opened(path) as db:
        return db.execute(statement).fetchall()


def test_spans_of_a_body_are_counted_and_kept(store, path, span, body):
    assert store.add_payload(body([span(1), span(2, 1)], [span(3, traceID=9)])) == 3
    assert sorted(trace.span_count for trace in kept(path)) == [1, 2]


def test_the_same_body_again_changes_nothing(store, path, span, body):
    payload = body([span(1, error=1), span(2, 1)], env="prod")
    store.add_payload(payload)
    before = [rows(path, f"SELECT * FROM {t}") for t in ("traces", "trace_services")]
    assert store.add_payload(payload) == 2
    assert before == [rows(path, f"SELECT * FROM {t}") for t in ("traces", "trace_services")]
    assert rows(path, "SELECT count(*) FROM spans") == [(2,)]


def test_a_later_span_takes_the_place_of_one_with_its_id(store, path, span, body):
    store.add_payload(body([span(1, name="early")]))
    store.add_payload(body([span(1, name="late", error=1)]))
    (trace,) = kept(path)
    assert (trace.name, trace.span_count, trace.error_count) == ("late", 1, 1)


def test_parts_of_a_trace_become_one(store, path, span, body):
    late = span(3, 2, service="db", start=1000, duration=700, error=1)
    store.add_payload(body([late], env="prod"))
    store.add_payload(body([span(1, start=900, duration=500, name="root")]))
    store.add_payload(body([span(2, 1, start=950, duration=100)]))
    (trace,) = kept(path)
    assert (trace.start_ns, trace.duration_ns) == (900, 800)
    assert (trace.span_count, trace.error_count) == (3, 1)
    assert (trace.service, trace.name, trace.env) == ("web", "root", "prod")
    assert trace.services == ["db", "web"]


def test_high_bits_may_come_late_and_stay(store, path, span, body):
    store.add_payload(body([span(2, 1)]))
    store.add_payload(body([span(1, meta={"_dd.p.tid": "6741a3f500000000"})]))
    store.add_payload(body([span(3, 1)]))
    assert [trace.trace_id for trace in kept(path)] == ["6741a3f500000000f234567890abcdef"]


def test_priority_and_origin_are_kept_for_a_viewer(store, path, span, body):
    store.add_payload(body([span(1)], priority=2, origin="lambda"))
    store.add_payload(body([span(2, 1)], priority=-128))
    assert rows(path, "SELECT priority, origin FROM traces") == [(2, "lambda")]


@pytest.mark.parametrize(
    ("spans", "root"),
    [
        ([(3, 2, 5), (2, 1, 4), (1, 0, 9)], "1"),
        ([(3, 2, 5), (2, 77, 9)], "2"),
        ([(3, 2, 5), (2, 3, 4)], "2"),
        ([(4, 0, 5), (5, 0, 4)], "5"),
    ],
    ids=["without a parent", "parent not stored", "a circle", "the earliest of several"],
)
def test_a_trace_is_named_after_its_root(store, path, span, body, spans, root):
    store.add_payload(body([span(id_, parent, start=start) for id_, parent, start in spans]))
    assert rows(path, "SELECT root_span_id FROM traces") == [(root.zfill(16),)]


def test_times_and_ids_may_be_extreme(store, path, span, body):
    lowest, highest = -(1 << 63), (1 << 63) - 1
    top = (1 << 64) - 1
    spans = [span(top, traceID=top, start=lowest), span(1, top, traceID=top, start=highest)]
    store.add_payload(body(spans))
    (trace,) = kept(path)
    assert (trace.start_ns, trace.duration_ns) == (lowest, highest)
    assert trace.decimal_id == str(top)


def test_only_the_latest_traces_are_kept(path, clock, span, body):
    store = TraceStore(path, traces_max=3, clock=clock)
    for trace_id in range(1, 6):
        clock.move(1)
        store.add_payload(body([span(1, traceID=trace_id), span(2, 1, traceID=trace_id)]))
    assert sorted(int(trace.decimal_id) for trace in kept(path)) == [3, 4, 5]
    assert rows(path, "SELECT count(*) FROM spans") == [(6,)]
    assert rows(path, "SELECT count(*) FROM trace_services") == [(3,)]


def test_one_body_may_have_more_traces_than_are_kept(path, clock, span, body):
    store = TraceStore(path, traces_max=3, clock=clock)
    assert store.add_payload(body(*([span(1, traceID=n)] for n in range(1, 9)))) == 8
    assert len(kept(path)) == 3


def test_a_trace_that_goes_on_outlives_one_that_does_not(path, clock, span, body):
    store = TraceStore(path, traces_max=2, clock=clock)
    for trace_id, span_id in ((1, 1), (2, 1), (1, 2), (3, 1)):
        clock.move(1)
        store.add_payload(body([span(span_id, traceID=trace_id)]))
    assert sorted(int(trace.decimal_id) for trace in kept(path)) == [1, 3]


def test_the_file_stays_within_its_bound(path, clock, span, body):
    bytes_max = 400_000
    store = TraceStore(path, traces_max=100_000, clock=clock, bytes_max=bytes_max)
    sizes = []
    for number in range(40):
        clock.move(1)
        traces = range(1 + number * 20, 21 + number * 20)
        payload = body(*([span(1, traceID=t, meta={"a": "x" * 3000})] for t in traces))
        store.add_payload(payload)
        sizes.append(os.path.getsize(path))
        # Pages are filled to two thirds at least.
        assert sizes[-1] < bytes_max + 1.5 * len(payload) + 50_000
    newest = max(int(trace.decimal_id) for trace in kept(path))
    assert newest == 800
    assert sizes[-1] == sizes[20]


def test_one_trace_beyond_the_bound_goes_as_a_whole(path, clock, span, body):
    store = TraceStore(path, traces_max=10, clock=clock, bytes_max=200_000)
    store.add_payload(body([span(n, meta={"a": "x" * 3000}) for n in range(1, 200)]))
    assert kept(path) == []
    store.add_payload(body([span(1)]))
    assert len(kept(path)) == 1


def test_a_trace_without_end_keeps_its_root_and_its_latest_spans(
    store, path, span, body, monkeypatch
):
    monkeypatch.setattr(store_module, "SPANS_PER_TRACE_MAX", 4)
    store.add_payload(body([span(1, start=1)]))
    for number in range(2, 10):
        store.add_payload(body([span(number, 1, start=number)]))
    (trace,) = kept(path)
    assert (trace.span_count, trace.omitted_count) == (4, 5)
    with StoreReader(path) as reader:
        assert [int(s.span_id, 16) for s in reader.spans(trace)] == [1, 7, 8, 9]


def test_a_body_that_is_no_protobuf_is_refused_and_changes_nothing(store, path, span, body):
    store.add_payload(body([span(1)]))
    with pytest.raises(DecodeError):
        store.add_payload(body([span(2)])[:-1])
    assert [trace.span_count for trace in kept(path)] == [1]


@posix_only
def test_nobody_else_can_read_the_store(store, path):
    store.prepare()
    folder = os.path.dirname(path)
    modes = {name: os.stat(os.path.join(folder, name)).st_mode for name in os.listdir(folder)}
    assert stat.S_IMODE(os.stat(folder).st_mode) == 0o700
    assert modes
    assert all(stat.S_IMODE(mode) == 0o600 for mode in modes.values())


def test_a_file_of_garbage_is_moved_aside_with_a_warning(store, path, span, body, caplog):
    store.prepare()
    garbage = b"no database" * 1000
    with open(path, "wb") as file:
        file.write(garbage)
    assert store.add_payload(body([span(1)])) == 1
    assert len(kept(path)) == 1
    with open(path + ".damaged", "rb") as file:
        assert file.read() == garbage
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert path in caplog.text


def test_damage_in_the_middle_is_moved_aside_once_it_is_met(store, path, span, body):
    for number in range(1, 200):
        store.add_payload(body([span(number, traceID=number, meta={"a": "x" * 500})]))
    size = os.path.getsize(path)
    with open(path, "r+b") as file:
        file.seek(8192)
        file.write(b"\xa5" * (size - 8192))
    assert store.add_payload(body([span(1)])) == 1
    assert [trace.span_count for trace in kept(path)] == [1]
    assert os.path.getsize(path + ".damaged") == size


def test_tables_of_another_shape_under_our_version_are_moved_aside(store, path, span, body):
    store.prepare()
    with opened(path) as db:
        db.execute("DROP TABLE spans")
    assert store.add_payload(body([span(1)])) == 1
    assert os.path.exists(path + ".damaged")


def test_a_store_of_another_version_is_begun_anew(store, path, span, body, caplog):
    store.add_payload(body([span(1)]))
    with opened(path) as db:
        db.execute("PRAGMA user_version = 99")
    store.add_payload(body([span(1, traceID=5)]))
    assert [trace.decimal_id for trace in kept(path)] == ["5"]
    assert os.path.exists(path + ".v99")
    assert "layout 99" in caplog.text


@pytest.mark.parametrize("journal", ["delete", "wal"])
def test_a_database_of_another_program_stays_untouched(store, path, span, body, journal):
    os.makedirs(os.path.dirname(path))
    with opened(path) as db:
        db.execute(f"PRAGMA journal_mode = {journal}")
        db.execute("CREATE TABLE theirs (a)")
    with open(path, "rb") as file:
        before = file.read()
    with pytest.raises(StoreUnavailable, match="another program"):
        store.add_payload(body([span(1)]))
    with open(path, "rb") as file:
        assert file.read() == before


def test_a_deleted_file_is_made_again(store, path, span, body):
    store.add_payload(body([span(1)]))
    os.remove(path)
    store.add_payload(body([span(1, traceID=5)]))
    assert [trace.decimal_id for trace in kept(path)] == ["5"]


def test_a_locked_store_is_unavailable_and_later_takes_the_body(
    store, path, span, body, monkeypatch
):
    monkeypatch.setattr(store_module, "BUSY_TIMEOUT_S", 0.01)
    store.prepare()
    with opened(path) as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(StoreUnavailable, match="locked"):
            store.add_payload(body([span(1)]))
    assert store.add_payload(body([span(1)])) == 1


def test_a_folder_that_cannot_be_made_makes_the_store_unavailable(tmp_path, clock):
    (tmp_path / "file").write_text("in the way")
    store = TraceStore(str(tmp_path / "file" / "traces.db"), traces_max=1, clock=clock)
    with pytest.raises(StoreUnavailable, match=r"traces\.db"):
        store.prepare()


def test_a_folder_in_the_place_of_the_file_makes_the_store_unavailable(tmp_path, clock):
    with pytest.raises(StoreUnavailable):
        TraceStore(str(tmp_path), traces_max=1, clock=clock).prepare()


def test_two_agents_may_share_a_store(path, clock, span, body):
    stores = [TraceStore(path, traces_max=10, clock=clock) for _ in range(2)]
    for number in range(1, 7):
        stores[number % 2].add_payload(body([span(number)]))
    assert [trace.span_count for trace in kept(path)] == [6]


def child(code, *arguments, **options):
    """Another process with some of our modules at hand."""
    command = [sys.executable, "-c", textwrap.dedent(code), *arguments]
    return subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, **options
    )


@posix_only
def test_a_full_disk_makes_the_store_unavailable_and_loses_nothing(store, path, span, body):
    store.add_payload(body([span(1)]))
    large = os.path.join(os.path.dirname(path), "large")
    with open(large, "wb") as file:
        file.write(body([span(n, 1, meta={"a": str(n) * 300}) for n in range(2, 3000)]))
    full = child(
        """
        import resource, sys
        from mini_agent.flow.clock import Clock
        from mini_agent.viewer.store import StoreUnavailable, TraceStore
        resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
        try:
            with open(sys.argv[2], "rb") as file:
                TraceStore(sys.argv[1], 1000, Clock()).add_payload(file.read())
        except StoreUnavailable as error:
            print(error)
        """,
        path,
        large,
    )
    said, _ = full.communicate(timeout=30)
    assert full.returncode == 0
    assert path in said
    assert [trace.span_count for trace in kept(path)] == [1]
    with open(large, "rb") as file:
        assert store.add_payload(file.read()) == 2998
    assert [trace.span_count for trace in kept(path)] == [2999]


def test_a_writer_killed_in_the_middle_loses_no_stored_body(store, path, span, body):
    store.add_payload(body([span(n, meta={"a": "x" * 500}) for n in range(1, 500)]))
    killed = child(
        """
        import sqlite3, sys
        db = sqlite3.connect(sys.argv[1], isolation_level=None)
        db.execute("PRAGMA synchronous = OFF")
        # So little memory that the file is written before the end.
        db.execute("PRAGMA cache_size = 1")
        db.execute("BEGIN IMMEDIATE")
        db.execute("UPDATE spans SET meta = 'torn', trace_key = 77")
        db.execute("UPDATE traces SET span_count = 0")
        print("written", flush=True)
        sys.stdin.read()
        """,
        path,
    )
    with killed:
        assert killed.stdout.readline() == "written\n"
        killed.kill()
    # Whoever opens the file next undoes what was begun, be it a reader.
    assert os.path.getsize(path + "-journal") > 0
    (trace,) = kept(path)
    assert trace.span_count == 499
    with StoreReader(path) as reader:
        assert "torn" not in {s.meta for s in reader.spans(trace)}
    store.add_payload(body([span(1000)]))
    assert [trace.span_count for trace in kept(path)] == [500]


def test_reading_and_writing_processes_do_not_disturb_each_other(path, clock, span, body):
    TraceStore(path, traces_max=20, clock=clock).prepare()
    bodies = os.path.join(os.path.dirname(path), "body")
    with open(bodies, "wb") as file:
        file.write(body(*([span(n, traceID=t) for n in range(1, 11)] for t in range(1, 31))))
    writing = child(
        """
        import sys
        from mini_agent.flow.clock import Clock
        from mini_agent.viewer.store import TraceStore
        store = TraceStore(sys.argv[1], 20, Clock())
        with open(sys.argv[2], "rb") as file:
            body = file.read()
        for _ in range(20):
            store.add_payload(body)
        print("done")
        """,
        path,
        bodies,
    )
    with writing:
        while writing.poll() is None:
            with StoreReader(path) as reader:
                traces = reader.recent(100)
                # One view: every trace is whole, and none goes away while it is read.
                assert len(traces) in (0, 20)
                assert all(len(reader.spans(trace)) == 10 for trace in traces)
        assert writing.stdout.read() == "done\n"
    assert writing.returncode == 0
