"""traces.tally: both twins come to the same groups, whatever is counted, and forget in time."""

from __future__ import annotations

import gc
import math
import tracemalloc
from random import Random
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kit.chunks import drain
from kit.clock import HandClock
from kit.payloads import BROKEN_TEXT, as_array, encode
from kit.tallies import COMPILED, PLAIN, Tally, needs_compiled, on_both

from mini_agent.ledger import Ledger
from mini_agent.traces import concentrator as limits
from mini_agent.traces import decode, stats, tally
from mini_agent.traces.concentrator import BUCKET_NS, Concentrator
from mini_agent.traces.lenient import Findings
from mini_agent.traces.sender import Sender
from mini_agent.traces.stats import Stats
from mini_agent.traces.stats_key import KEY_META, KEY_METRICS

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from mini_agent.forward.payload import Record

Json = dict[str, Any]

T = 179_000_000 * BUCKET_NS
SENDER = Sender({"datadog-meta-lang": "python"})
MIB = 1 << 20


def test_what_is_compiled_counts() -> None:
    expected = PLAIN if COMPILED is None else COMPILED
    assert (tally.Counts, tally.Group, tally.Sketch) == expected
    assert stats.Counts is expected.Counts


# ---------------------------------------------------------------- sketches and groups


@needs_compiled
def test_both_find_the_same_bin_for_a_million_durations() -> None:
    assert COMPILED is not None
    random = Random(6)
    edges = [step for power in range(63) for step in (2**power - 1, 2**power, 2**power + 1)]
    for decade in range(19):
        values = [int(10 ** random.uniform(decade, decade + 1)) for _ in range(55_000)]
        values += [value for value in edges if 10**decade <= value < 10 ** (decade + 1)]
        compiled, plain = COMPILED.Sketch(), PLAIN.Sketch()
        for value in values:
            compiled.add(value)
            plain.add(value)
        assert compiled.bins == plain.bins


NUMBERS = st.one_of(
    st.integers(0, (1 << 63) - 1), st.floats(0, allow_infinity=False), st.integers(0, 2000)
)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("add"), st.lists(NUMBERS, max_size=60)),
        st.tuples(st.just("spread"), st.integers(-300, 300)),
        st.tuples(st.just("merge"), st.lists(NUMBERS, max_size=60)),
        st.tuples(st.just("encode"), st.none()),
        st.tuples(st.just("copy"), st.none()),
    ),
    max_size=12,
)


def play(sketch: Any, steps: Iterable[tuple[str, Any]]) -> Iterator[object]:
    """Do these things to a sketch and say what it is each time."""
    for step, argument in steps:
        if step == "add":
            for value in argument:
                sketch.add(value)
        elif step == "spread":
            for number in range(900):
                sketch.add(10.0**argument * (1 + number / 9))
        elif step == "merge":
            other = type(sketch)()
            for value in argument:
                other.add(value)
            sketch.merge(other)
        elif step == "encode":
            yield sketch.encode()
        else:
            sketch = type(sketch)(sketch.zeros, sketch.bins)
        yield sketch.zeros, dict(sketch.bins)
    yield sketch.encode()


@needs_compiled
@given(STEPS)
def test_sketches_agree_on_whatever_is_added_and_merged(steps: list[tuple[str, Any]]) -> None:
    assert COMPILED is not None
    assert list(play(COMPILED.Sketch(), steps)) == list(play(PLAIN.Sketch(), steps))


@on_both
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_sketch_takes_no_number_without_a_bin(twin: Tally, value: float) -> None:
    sketch = twin.Sketch()
    with pytest.raises((ValueError, OverflowError)):
        sketch.add(value)
    assert (sketch.zeros, sketch.bins) == (0, {})


@on_both
def test_a_sum_of_times_may_be_larger_than_64_bits(twin: Tally) -> None:
    group = twin.Group()
    for _ in range(5):
        group.add((1 << 63) - 1, False, False)
    assert group.duration == 5 * ((1 << 63) - 1)
    group.merge(group)
    assert group.duration == 10 * ((1 << 63) - 1)
    group.duration = 3
    assert group.duration == 3


@needs_compiled
def test_a_group_with_few_spans_is_small() -> None:
    assert COMPILED is not None
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        groups = [COMPILED.Group() for _ in range(1000)]
        for group in groups:
            for duration in (10, 1000, 100_000):
                group.add(duration, duration == 10, True)
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert (after - before) / len(groups) < 300


# ---------------------------------------------------------------- spans

TEXTS = ["", "web", "Server", "CLIENT", "client", "producer", "ürgend", "10.0.0.1", "a,b", "200"]
KINDS = ["server", "client", "Producer", "CONSUMER", "internal", "ürgend", "", "Kelvin"]
STATUSES = ["200", "+404", "00", "4294967296", "-1", "x", ""]
CODES = [
    "0",
    "13",
    "NOT_FOUND",
    "StatusCode.StatusCode.Unavailable",
    "256",
    "what",
    "",
    "cancelled",
    "data_lo\u017f\u017f",
    "unava\u0131lable",
]
META: dict[str, list[str]] = {
    **dict.fromkeys(KEY_META, TEXTS),
    "span.kind": KINDS,
    "http.status_code": STATUSES,
    "grpc.code": CODES,
    "rpc.grpc.status_code": CODES,
    "_dd.origin": ["synthetics", "synthetics-browser", "lambda", ""],
    "http.route": ["/a", "/a/{id}", "", "/long" * 300, "/longer" * 2000],
    "something else": TEXTS,
}
DOUBLES = [0.0, -0.0, 1.0, 2.5, 16.0, 404.0, -1.0, 1e300, math.nan, math.inf, 255.0, 256.0]
METRICS: dict[str, list[float]] = {
    **dict.fromkeys(KEY_METRICS, DOUBLES),
    "_dd.measured": [1, 0, 2.5],
    "_dd.top_level": [1, 0],
    "_top_level": [1.0, 0.0],
    "_dd.partial_version": [-1.0, 0.0, 3.0, math.nan],
    "something else": DOUBLES,
}
DURATIONS = [0, 1, 2, 10**3, 10**6, 10**9, (1 << 63) - 1]
STARTS = [0, 1, -5, T - 10**9, T, T + 10**9, T + BUCKET_NS, T + 5 * BUCKET_NS, (1 << 63) - 1]


def make_span(random: Random) -> Any:
    meta = random.sample(sorted(META), random.choice((0, 1, 2, 4, 9, 30)))
    metrics = random.sample(sorted(METRICS), random.choice((0, 1, 2, 5)))
    span = {
        **{field: random.choice(TEXTS) for field in ("service", "name", "resource", "type")},
        "trace_id": 1,
        "span_id": random.getrandbits(63),
        "parent_id": random.choice((0, 0, 1, 1 << 63)),
        "start": random.choice(STARTS) + random.randrange(100) * (random.random() < 0.5),
        "duration": random.choice(DURATIONS),
        "error": random.choice((0, 0, 1, -1)),
        "meta": {key: random.choice(META[key]) for key in meta},
        "metrics": {key: random.choice(METRICS[key]) for key in metrics},
    }
    span["start"] = min(span["start"], (1 << 63) - 1)
    odd = random.random()
    if odd < 0.01:
        return as_array({**span, "meta_struct": {}, "span_links": [], "span_events": []})
    if odd < 0.02:
        span["meta"]["db.name"] = BROKEN_TEXT
    return span


def make_bodies(random: Random, count: int) -> list[bytes]:
    """Requests in which spans are alike, so that much is found again."""
    pool = [make_span(random) for _ in range(60)]
    return [
        encode([[random.choice(pool) for _ in range(random.choice((1, 3, 10)))] for _ in range(8)])
        for _ in range(count)
    ]


class Scene:
    """What becomes of requests with one of the twins."""

    def __init__(self, twin: Tally, seed: int = 0) -> None:
        self.twin = twin
        self.random = Random(seed)
        self.concentrator = Concentrator(T, twin.Group)
        self.now_ns = T
        self.seen: list[object] = []

    def note(self, body: bytes, said: Sequence[str] = ("prod",)) -> Any:
        """A request that is not kept yet, whose chunks say one of these environments."""
        counts = self.twin.Counts(SENDER)
        for chunk in drain(decode.decode_v04(body, Findings())):
            counts.add(chunk, self.random.choice(said), self.random.choice(said))
        return counts

    def add(self, counts: Any) -> None:
        lots = list(counts.add_to(self.concentrator, "none", self.now_ns))
        self.seen.append((sum(lot[0] for lot in lots), sum(lot[1] for lot in lots)))

    def take(self, everything: bool = False) -> None:
        taken = self.concentrator.take(self.now_ns, everything)
        self.seen.append(
            [
                (start_ns, origin, key, *figures(group))
                for start_ns, origins in taken.items()
                for origin, bucket in origins.items()
                for key, group in bucket.groups.items()
            ]
        )

    def groups(self) -> list[tuple[Any, ...]]:
        """The groups of the last `take`."""
        found = self.seen[-1]
        assert isinstance(found, list)
        return found


def figures(group: Any) -> tuple[object, ...]:
    return (
        *(group.hits, group.errors, group.duration, group.top_level_hits),
        *(group.ok.encode(), group.failed.encode()),
    )


def run(twin: Tally, seed: int) -> list[object]:
    """Hostile requests, of which some are refused and some finish out of turn; time goes on."""
    scene = Scene(twin, seed)
    random = Random(-seed)
    waiting: list[Any] = []
    for body in make_bodies(random, 60):
        waiting.append(scene.note(body, ("", "", "prod", "dev")))
        if random.random() < 0.8:
            random.shuffle(waiting)
            scene.add(waiting.pop())
        if random.random() < 0.1:
            waiting.clear()
        if random.random() < 0.2:
            scene.now_ns += random.randrange(-2, 20) * 10**9
            scene.take()
    scene.take(everything=True)
    assert scene.concentrator.group_count == 0
    return scene.seen


@needs_compiled
@pytest.mark.parametrize("seed", range(1, 21))
def test_twins_agree_on_hostile_spans(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    assert COMPILED is not None
    compiled = run(COMPILED, seed)
    assert run(PLAIN, seed) == compiled
    # Also from spans that are plain themselves.
    monkeypatch.setattr(decode, "read_trace", lambda reader, findings: None)
    assert run(PLAIN, seed) == compiled
    assert run(COMPILED, seed) == compiled


def many(count: int, **vary: str) -> bytes:
    """A request with so many different spans; `{}` in a value is the number of the span."""
    meta_keys = {"http_route": "http.route", "peer_service": "peer.service"}
    spans = []
    for number in range(count):
        texts = {key: text.format(number) for key, text in vary.items()}
        meta = {meta_keys[key]: texts.pop(key) for key in meta_keys if key in texts}
        span = {"service": "s", "name": "n", "resource": "r", "start": T, "duration": number}
        spans.append([{**span, **texts, "meta": {"span.kind": "client", **meta}}])
    return encode(spans)


@needs_compiled
@pytest.mark.parametrize(
    "body",
    [
        many(limits.RESOURCES_MAX + 30, resource="r{}"),
        many(limits.ENDPOINTS_MAX + 30, http_route="/{}"),
        many(limits.PEERS_MAX + 30, peer_service="p{}"),
        many(limits.GROUPS_MAX + 3000, name="n{}", resource="r{}", http_route="/{}"),
        many(40, resource="é" * 400 + "{}", http_route="/" + "x" * 9000 + "{}"),
    ],
    ids=["resources", "endpoints", "peers", "groups", "long texts"],
)
def test_twins_reach_the_limits_alike(body: bytes) -> None:
    assert COMPILED is not None
    seen = []
    for twin in (PLAIN, COMPILED):
        scene = Scene(twin)
        for _ in range(3):
            scene.add(scene.note(body))
        scene.take(everything=True)
        seen.append(scene.seen)
    plain, compiled = seen
    assert compiled == plain
    assert any(blocked for _, blocked in plain[:-1])


@needs_compiled
def test_more_keys_than_are_remembered_are_counted_all_the_same() -> None:
    assert COMPILED is not None
    # So many that what is remembered is forgotten in between.
    bodies = [many(6000, name=f"n{part}.{{}}") for part in range(8)]
    seen = []
    for twin in (PLAIN, COMPILED):
        scene = Scene(twin)
        for body in (*bodies, *bodies[-1:]):
            scene.add(scene.note(body))
            scene.take(everything=True)
        seen.append(scene.seen)
    assert seen[0] == seen[1]


@on_both
def test_a_request_that_was_not_kept_leaves_nothing(twin: Tally) -> None:
    scene = Scene(twin)
    scene.note(many(20, name="n{}"))
    scene.add(scene.note(encode([])))
    assert scene.seen == [(0, 0)]
    assert scene.concentrator.group_count == 0


@on_both
def test_spans_of_a_request_are_added_to_the_buckets_that_are_open(twin: Tally) -> None:
    """A group that has left is not counted into again."""
    scene = Scene(twin)
    scene.add(scene.note(many(3, name="n")))
    scene.take(everything=True)
    assert [hits for *_, hits, _, _, _, _, _ in scene.groups()] == [3]
    scene.add(scene.note(many(2, name="n")))
    scene.take(everything=True)
    assert [hits for *_, hits, _, _, _, _, _ in scene.groups()] == [2]


@needs_compiled
@pytest.mark.parametrize("compiled_first", [False, True])
def test_a_snapshot_of_one_twin_is_read_by_the_other(
    compiled_first: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def start(twin: Tally) -> Stats:
        for name in twin._fields:
            monkeypatch.setattr(stats, name, getattr(twin, name))
        return Stats("none", records.extend, Ledger(), HandClock(T))

    def finish(running: Stats) -> list[bytes]:
        for _ in running.flush(everything=True):
            pass
        bodies = [record.body for record in records]
        records.clear()
        return bodies

    assert COMPILED is not None
    records: list[Record] = []
    twins = (COMPILED, PLAIN) if compiled_first else (PLAIN, COMPILED)
    first = start(twins[0])
    for body in make_bodies(Random(3), 20):
        counts = first.begin(SENDER)
        assert counts is not None
        for chunk in drain(decode.decode_v04(body, Findings())):
            counts.add(chunk, "prod", "1")
        assert list(first.add(counts)) == []
    written: list[bytes] = []
    for _ in first.snapshot(written.append):
        pass
    second = start(twins[1])
    for _ in second.restore(written[0]):
        pass
    assert finish(second) == finish(first) != []


@on_both
def test_concentrators_are_told_apart(twin: Tally) -> None:
    first, second = Scene(twin), Scene(twin)
    for scene in (first, second, first):
        scene.add(scene.note(many(1, name="n")))
    for scene in (first, second):
        scene.take(everything=True)
    assert [group[3] for group in first.groups()] == [2]
    assert [group[3] for group in second.groups()] == [1]


@needs_compiled
def test_what_is_remembered_is_bounded_and_what_is_counted_is_let_go() -> None:
    """Requests of ever new keys, in the traced memory of this process."""
    assert COMPILED is not None

    def send(bodies: list[bytes]) -> int:
        for body in bodies:
            scene.add(scene.note(body))
            scene.concentrator.take(scene.now_ns, everything=True)
        gc.collect()
        return tracemalloc.get_traced_memory()[0]

    bodies = [many(3000, name=f"n{part}.{{}}", resource="r" * 300) for part in range(10)]
    scene = Scene(COMPILED)
    tracemalloc.start()
    try:
        first = send(bodies[:3])
        last = send(bodies[3:])
    finally:
        tracemalloc.stop()
    # 8192 keys; how many of them are held depends on where in a lot of so many we look.
    assert max(first, last) < 16 * MIB
