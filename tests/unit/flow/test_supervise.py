"""flow.supervise: a part that dies is noticed; one that ends when told is not."""

from __future__ import annotations

import asyncio

import pytest

from mini_agent.flow.supervise import Parts

CEILING_S = 20


async def forever() -> None:
    await asyncio.Event().wait()


async def fall() -> None:
    raise RuntimeError("a bug")


async def leave() -> None:
    return None


@pytest.mark.parametrize("work", [fall, leave])
def test_an_end_nobody_asked_for_is_a_death(work: object) -> None:
    async def act() -> str:
        parts = Parts()
        parts.start("good", forever())
        parts.start("bad", work())  # type: ignore[operator]
        name = await asyncio.wait_for(parts.wait_death(), CEILING_S)
        await parts.cancel()
        return name

    assert asyncio.run(act()) == "bad"


def test_a_part_that_may_end_dies_only_of_an_error() -> None:
    async def act() -> str:
        parts = Parts()
        parts.start("done", leave(), may_end=True)
        parts.start("fallen", fall(), may_end=True)
        name = await asyncio.wait_for(parts.wait_death(), CEILING_S)
        await parts.cancel()
        return name

    assert asyncio.run(act()) == "fallen"


def test_cancelling_is_no_death() -> None:
    async def act() -> str | None:
        parts = Parts()
        parts.start("one", forever())
        await parts.cancel()
        return parts.dead

    assert asyncio.run(act()) is None


def test_waiting_for_an_end_can_be_hurried_and_runs_out() -> None:
    async def act() -> list[bool]:
        parts, hurry = Parts(), asyncio.Event()
        stop = asyncio.Event()

        async def until_told() -> None:
            await stop.wait()

        parts.start("part", until_told())
        ran_out = await parts.wait_end("part", 0.0, hurry)
        stop.set()
        ended = await parts.wait_end("part", CEILING_S, hurry)
        parts.start("stuck", forever())
        hurry.set()
        hurried = await parts.wait_end("stuck", CEILING_S, hurry)
        await parts.cancel()
        assert parts.dead is None
        return [ran_out, ended, hurried]

    assert asyncio.run(act()) == [False, True, False]
