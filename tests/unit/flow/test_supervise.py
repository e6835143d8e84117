"""flow.supervise: a part that dies is started again or given up; one that is told to end is not."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from kit.clock import HandClock

from mini_agent.flow import supervise
from mini_agent.flow.supervise import RECOVERED_S, RESTARTS_MAX, Parts

CEILING_S = 20


@pytest.fixture(autouse=True)
def _restart_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervise, "RESTART_S_MIN", 0.0)


async def forever() -> None:
    await asyncio.Event().wait()


class Fragile:
    """Work that dies so many times and then goes on."""

    def __init__(self, deaths: int, *, by_error: bool = True) -> None:
        self.deaths = deaths
        self.begun = 0
        self.by_error = by_error
        self.well = asyncio.Event()

    async def __call__(self) -> None:
        self.begun += 1
        if self.begun <= self.deaths:
            if self.by_error:
                raise RuntimeError("a bug")
            return
        self.well.set()
        await forever()


def play(act: Callable[[Parts], Awaitable[None]]) -> Parts:
    async def scene() -> Parts:
        parts = Parts(HandClock())
        await asyncio.wait_for(act(parts), CEILING_S)
        await parts.cancel()
        return parts

    return asyncio.run(scene())


@pytest.mark.parametrize("by_error", [True, False])
def test_a_part_that_dies_is_started_again(by_error: bool) -> None:
    async def act(parts: Parts) -> None:
        work = Fragile(RESTARTS_MAX, by_error=by_error)
        parts.start("part", work)
        await work.well.wait()
        assert work.begun == RESTARTS_MAX + 1

    assert play(act).dead is None


def test_a_part_that_dies_again_and_again_is_given_up() -> None:
    async def act(parts: Parts) -> None:
        work = Fragile(1000)
        parts.start("other", forever)
        parts.start("part", work)
        await parts.wait_death()
        assert work.begun == RESTARTS_MAX + 1

    assert play(act).dead == "part"


def test_a_part_that_recovered_has_all_its_restarts_again() -> None:
    async def scene() -> int:
        clock = HandClock()
        parts = Parts(clock)
        begun = 0

        async def work() -> None:
            nonlocal begun
            begun += 1
            if begun == RESTARTS_MAX:
                clock.move(RECOVERED_S)
            raise RuntimeError("a bug")

        parts.start("part", work)
        await asyncio.wait_for(parts.wait_death(), CEILING_S)
        return begun

    assert asyncio.run(scene()) == 2 * RESTARTS_MAX


def test_a_part_that_cannot_begin_anew_is_given_up_at_once() -> None:
    async def act(parts: Parts) -> None:
        work = Fragile(1)
        parts.start("part", work, restarts_max=0)
        await parts.wait_death()
        assert work.begun == 1

    assert play(act).dead == "part"


def test_a_part_that_may_end_dies_only_of_an_error() -> None:
    async def act(parts: Parts) -> None:
        parts.start("done", Fragile(1, by_error=False), may_end=True)
        parts.start("fallen", Fragile(1), may_end=True, restarts_max=0)
        await parts.wait_death()

    assert play(act).dead == "fallen"


def test_a_part_that_waits_for_something_cancelled_has_died() -> None:
    async def act(parts: Parts) -> None:
        async def wait_in_vain() -> None:
            awaited = asyncio.get_running_loop().create_future()
            awaited.cancel()
            await awaited

        parts.start("part", wait_in_vain, restarts_max=1)
        await parts.wait_death()

    assert play(act).dead == "part"


def test_an_end_that_was_asked_for_is_no_death() -> None:
    async def act(parts: Parts) -> None:
        told = asyncio.Event()

        async def until_told() -> None:
            await told.wait()

        parts.start("part", until_told)
        parts.start("cancelled", forever)
        parts.let_end("part")
        told.set()
        assert await parts.wait_end("part", CEILING_S, asyncio.Event())

    assert play(act).dead is None


def test_waiting_for_an_end_can_be_hurried_and_runs_out() -> None:
    async def act(parts: Parts) -> None:
        parts.start("stuck", forever)
        hurry = asyncio.Event()
        assert not await parts.wait_end("stuck", 0.0, hurry)
        hurry.set()
        assert not await parts.wait_end("stuck", CEILING_S, hurry)

    assert play(act).dead is None
