"""forward.forwarder: every outcome settles every batch, and nothing waits for ever."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path

import pytest
from kit.clock import HandClock
from kit.loopback import decompress

from mini_agent.flow.worker import Worker
from mini_agent.forward import forwarder, packed
from mini_agent.forward.folder import Folder, Owner
from mini_agent.forward.forwarder import Forwarder
from mini_agent.forward.intake import Delivered, Outcome, Refused, RetryLater, TooLarge
from mini_agent.forward.journal import Journal
from mini_agent.forward.payload import Kind, Record
from mini_agent.ledger import Ledger

KIND = Kind(
    "traces", "spans", "/traces", "application/x-protobuf", b"<", 1000, frozenset({"x-dropped"})
)

# Every wait of a test ends after this; a good run needs milliseconds.
CEILING_S = 20


@pytest.fixture(autouse=True)
def _look_often(monkeypatch: pytest.MonkeyPatch) -> None:
    """The clock is moved by hand; the loop must not doze for a real second before it looks."""
    monkeypatch.setattr(forwarder, "DISK_LOOK_S", 0.001)


@pytest.fixture(autouse=True, params=[None, 1], ids=["plain", "packed"])
def _packing(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether records are compressed as they come makes no difference to what is delivered."""
    packed.load_zstd()
    monkeypatch.setattr(Scene, "packing_level", request.param)


class Script:
    """A destination that answers as it is told and remembers what it got, unpacked."""

    takes_packed = True

    def __init__(self, *outcomes: Outcome | Exception) -> None:
        self.outcomes = list(outcomes)
        self.url = "script"
        self.got: list[tuple[dict[str, str], bytes]] = []
        self.packed: list[bool] = []
        self.hold = threading.Event()
        self.hold.set()
        self.entered = threading.Event()

    def deliver(
        self, kind: Kind, headers: Mapping[str, str], body: bytes, packed: bool = False
    ) -> Outcome:
        self.entered.set()
        self.hold.wait(CEILING_S)
        self.packed.append(packed)
        plain = decompress(body, kind.compression) if packed else body
        self.got.append((dict(headers), plain))
        outcome = self.outcomes.pop(0) if self.outcomes else Delivered()
        if isinstance(outcome, Exception):
            raise outcome
        return outcome


class Scene:
    packing_level: int | None = None

    def __init__(self, base: Path, script: Script) -> None:
        self.clock = HandClock()
        self.ledger = Ledger()
        self.script = script
        self.refused_keys = 0
        self.journal = Journal(
            Folder(str(base), Owner("app", "script", "key")),
            bytes_max=1 << 20,
            memory_bytes_max=1 << 20,
            batch_age_s_max=0.0,
            clock=self.clock,
            ledger=self.ledger,
            packing_level=self.packing_level,
        )
        self.journal.open()
        self.worker = Worker("sender")
        self.forwarder = Forwarder(
            self.journal, script, self.worker, self.clock, key_refused=self._key_refused
        )

    def _key_refused(self) -> None:
        self.refused_keys += 1

    def keep(self, *bodies: bytes, **headers: str) -> None:
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        self.journal.append(KIND, [Record(1, sent, body) for body in bodies])

    async def until(self, condition: Callable[[], object]) -> None:
        async with asyncio.timeout(CEILING_S):
            while not condition():
                await asyncio.sleep(0)

    def books(self) -> dict[str, object]:
        return self.ledger.snapshot(self.journal.waiting()).get("spans", {})


def play(base: Path, script: Script, act: Callable[[Scene], Awaitable[None]]) -> Scene:
    """Run the loop beside an act, then stop it in order; the books must balance throughout."""

    async def scene_of() -> Scene:
        scene = Scene(base, script)
        running = asyncio.ensure_future(scene.forwarder.run())
        await act(scene)
        script.hold.set()
        scene.forwarder.stop()
        await asyncio.wait_for(running, CEILING_S)
        assert scene.ledger.imbalance(scene.journal.waiting()) == {}
        scene.journal.close()
        scene.worker.close()
        assert scene.ledger.imbalance(scene.journal.waiting()) == {}
        return scene

    return asyncio.run(scene_of(), debug=True)


def test_a_batch_is_the_prefix_and_the_records_in_order(tmp_path: Path) -> None:
    async def act(scene: Scene) -> None:
        scene.keep(b"a", b"b", b"c")
        await scene.until(lambda: scene.books()["delivered"] == 3)

    scene = play(tmp_path, Script(), act)
    assert [body for _, body in scene.script.got] == [b"<abc"]
    assert scene.script.packed == [scene.packing_level is not None]


def test_batches_that_travel_together_are_one_body(tmp_path: Path) -> None:
    async def act(scene: Scene) -> None:
        scene.script.hold.clear()
        scene.keep(b"x")
        await scene.until(scene.script.entered.is_set)
        for body in (b"a", b"b"):
            scene.keep(body)
            scene.journal.close_all()
        scene.script.hold.set()
        await scene.until(lambda: scene.books()["delivered"] == 3)

    scene = play(tmp_path, Script(), act)
    assert [body for _, body in scene.script.got] == [b"<x", b"<ab"]
    assert scene.script.packed[1] is False


def test_headers_are_sent_when_all_agree_and_counts_are_added(tmp_path: Path) -> None:
    async def act(scene: Scene) -> None:
        scene.script.hold.clear()
        scene.keep(b"x")
        await scene.until(scene.script.entered.is_set)
        scene.keep(b"a", lang="python", tracer="1", x_dropped="2")
        scene.keep(b"b", lang="python", tracer="2", x_dropped="3")
        scene.script.hold.set()
        await scene.until(lambda: len(scene.script.got) == 2)

    scene = play(tmp_path, Script(), act)
    assert scene.script.got[1] == ({"lang": "python", "x-dropped": "5"}, b"<ab")


def test_a_failure_keeps_the_batch_and_waits(tmp_path: Path) -> None:
    async def act(scene: Scene) -> None:
        scene.keep(b"a")
        await scene.until(lambda: scene.forwarder.statistics()["failures_in_a_row"] == 1)
        assert scene.books()["waiting"] == 1
        assert len(scene.script.got) == 1

    scene = play(tmp_path, Script(RetryLater("status_503")), act)
    assert [body for _, body in scene.script.got] == [b"<a", b"<a"]
    assert scene.books()["delivered"] == 1


def test_retry_after_is_obeyed(tmp_path: Path) -> None:
    async def act(scene: Scene) -> None:
        scene.keep(b"a")
        await scene.until(lambda: scene.forwarder.statistics()["failures_in_a_row"] == 1)
        assert 120 <= float(str(scene.forwarder.statistics()["resumes_in_s"])) <= 132

    play(tmp_path, Script(RetryLater("status_429", 120.0)), act)


def test_waits_double_and_are_bounded(tmp_path: Path) -> None:
    async def act(scene: Scene) -> None:
        waits = []
        for failures in range(1, 12):
            scene.keep(b"a")
            await scene.until(
                lambda wanted=failures: scene.forwarder.statistics()["failures_in_a_row"] == wanted
            )
            waits.append(float(str(scene.forwarder.statistics()["resumes_in_s"])))
            scene.clock.move(60)
        assert 0.2 <= waits[0] <= 0.5
        assert 1.0 <= waits[2] <= 2.0
        assert all(15.0 <= wait <= 30.0 for wait in waits[7:])

    play(tmp_path, Script(*[RetryLater("network") for _ in range(11)]), act)


def test_a_refused_key_keeps_everything_and_is_noted(tmp_path: Path) -> None:
    async def act(scene: Scene) -> None:
        scene.keep(b"a")
        await scene.until(lambda: scene.refused_keys == 1)
        assert float(str(scene.forwarder.statistics()["resumes_in_s"])) >= 50

    scene = play(tmp_path, Script(RetryLater("status_403", slowly=True)), act)
    assert scene.books()["delivered"] == 1


def test_a_refused_batch_is_dropped_with_its_status_and_the_next_goes_on(tmp_path: Path) -> None:
    async def act(scene: Scene) -> None:
        scene.keep(b"bad")
        await scene.until(lambda: len(scene.script.got) == 1)
        scene.keep(b"good")
        await scene.until(lambda: scene.books()["delivered"] == 1)

    scene = play(tmp_path, Script(Refused(400)), act)
    assert scene.books()["dropped"] == {"refused_400": 1}


def test_a_destination_that_takes_nothing_packed_gets_plain_bodies(tmp_path: Path) -> None:
    async def act(scene: Scene) -> None:
        scene.keep(b"first")
        await scene.until(lambda: len(scene.script.got) == 1)

    script = Script()
    script.takes_packed = False
    play(tmp_path, script, act)
    assert script.packed == [False]
    assert script.got[0][1].endswith(b"first")


def test_what_is_too_large_is_divided_down_to_one_record(tmp_path: Path) -> None:
    class Small(Script):
        def deliver(
            self, kind: Kind, headers: Mapping[str, str], body: bytes, packed: bool = False
        ) -> Outcome:
            outcome = super().deliver(kind, headers, body, packed)
            return outcome if len(self.got[-1][1]) <= 40 else TooLarge()

    async def act(scene: Scene) -> None:
        scene.keep(*[bytes([65 + n]) * 20 for n in range(8)], b"Z" * 100)
        await scene.until(lambda: scene.books()["waiting"] == 0)

    scene = play(tmp_path, Small(), act)
    assert scene.books()["delivered"] == 8
    assert scene.books()["dropped"] == {"refused_413": 1}


def test_an_unexpected_error_ends_neither_the_loop_nor_the_batch(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def act(scene: Scene) -> None:
        scene.keep(b"a")
        await scene.until(lambda: scene.forwarder.statistics()["failures_in_a_row"] == 1)

    scene = play(tmp_path, Script(RuntimeError("a bug")), act)
    assert scene.books()["delivered"] == 1
    assert "unexpectedly" in caplog.text


def test_a_batch_whose_file_is_gone_is_counted(tmp_path: Path) -> None:
    async def act(scene: Scene) -> None:
        scene.script.hold.clear()
        scene.keep(b"first")
        await scene.until(scene.script.entered.is_set)
        scene.keep(b"second")
        scene.journal.close_all()
        for path in tmp_path.glob("*/*.traces"):
            path.unlink()
        scene.script.hold.set()
        await scene.until(lambda: scene.books()["waiting"] == 0)

    scene = play(tmp_path, Script(), act)
    assert scene.books()["dropped"] == {"journal_removed": 1}
    assert scene.books()["delivered"] == 1


def test_stop_gives_every_batch_one_try_and_leaves_the_rest(tmp_path: Path) -> None:
    async def act(scene: Scene) -> None:
        scene.keep(b"a" * 900)
        await scene.until(lambda: scene.forwarder.statistics()["failures_in_a_row"] == 1)
        scene.keep(b"b" * 900)
        scene.keep(b"c" * 900)

    scene = play(
        tmp_path,
        Script(RetryLater("network"), RetryLater("network"), Delivered(), RetryLater("network")),
        act,
    )
    assert len(scene.script.got) == 4
    assert scene.books()["delivered"] == 1
    assert scene.books()["waiting"] == 2


def test_a_hanging_intake_does_not_hold_the_stop(tmp_path: Path) -> None:
    async def scene_of() -> None:
        scene = Scene(tmp_path, Script())
        scene.script.hold.clear()
        running = asyncio.ensure_future(scene.forwarder.run())
        scene.keep(b"a")
        await scene.until(scene.script.entered.is_set)
        scene.forwarder.stop()
        running.cancel()
        await asyncio.wait([running], timeout=CEILING_S)
        assert scene.books()["waiting"] == 1
        scene.journal.close()
        assert scene.books()["waiting"] == 1
        assert scene.ledger.imbalance(scene.journal.waiting()) == {}
        scene.script.hold.set()
        scene.worker.close()

    asyncio.run(scene_of())
    assert len(list(tmp_path.glob("*/*.traces"))) == 1
