"""flow.worker: calls run one after the other, elsewhere."""

from __future__ import annotations

import asyncio
import threading

import pytest

from mini_agent.flow.worker import Worker


def test_a_call_runs_in_the_named_thread_and_gives_its_result() -> None:
    async def act() -> tuple[str, int]:
        worker = Worker("sender")
        name = await worker.call(lambda: threading.current_thread().name)
        result = await worker.call(lambda a, b: a + b, 2, 3)
        worker.close()
        return name, result

    assert asyncio.run(act()) == ("sender", 5)


def test_an_error_reaches_whoever_awaits() -> None:
    async def act() -> None:
        worker = Worker("sender")
        with pytest.raises(ZeroDivisionError):
            await worker.call(lambda: 1 / 0)
        assert await worker.call(lambda: "next") == "next"
        worker.close()

    asyncio.run(act())


def test_a_hanging_call_keeps_nobody_from_leaving() -> None:
    let_go = threading.Event()

    async def act() -> None:
        worker = Worker("sender")
        call = worker.call(let_go.wait, 60)
        call.cancel()
        worker.close()

    asyncio.run(act())
    let_go.set()
