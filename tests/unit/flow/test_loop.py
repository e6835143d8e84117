from __future__ import annotations

import asyncio
import socket
import sys

import pytest
from kit.interpreter import run_alone

from mini_agent.flow.loop import EVENTS_MAX, make_loop


def test_asyncio_works_and_has_not_loaded_tls() -> None:
    code = (
        "import mini_agent.flow.loop, asyncio; asyncio.run(asyncio.sleep(0)); "
        "print('asyncio.base_events' in sys.modules, 'ssl' in sys.modules, '_ssl' in sys.modules)"
    )
    assert run_alone(code) == "True False False"


def test_tls_can_be_loaded_later_and_is_whole() -> None:
    code = (
        "import mini_agent.flow.loop, http.client, ssl; "
        "print(ssl.create_default_context().check_hostname, http.client.HTTPSConnection.__name__)"
    )
    assert run_alone(code) == "True HTTPSConnection"


def test_an_application_that_has_loaded_tls_keeps_it() -> None:
    code = (
        "import ssl, mini_agent.flow.loop, asyncio.sslproto; "
        "print(sys.modules['ssl'] is ssl, asyncio.sslproto.ssl is ssl)"
    )
    assert run_alone(code) == "True True"


def test_the_loop_is_one_that_asyncio_can_run() -> None:
    async def count() -> int:
        return await asyncio.to_thread(lambda: 3)

    with asyncio.Runner(loop_factory=make_loop) as runner:
        assert runner.run(count()) == 3


@pytest.mark.skipif(sys.platform != "linux", reason="the others have asyncio's own")
def test_some_are_served_in_a_turn_and_those_who_waited_come_next() -> None:
    turns = 3

    async def serve() -> list[list[int]]:
        loop = asyncio.get_running_loop()
        served: list[list[int]] = [[]]
        pairs = [socket.socketpair() for _ in range(turns * EVENTS_MAX)]
        for number, (ours, theirs) in enumerate(pairs):
            theirs.send(b"x")
            # Nobody reads it: all of them are ready in every turn.
            loop.add_reader(ours, lambda number=number: served[-1].append(number))
        # We are called before those whom the same turn has found ready.
        for _ in range(turns + 1):
            await asyncio.sleep(0)
            served.append([])
        for ours, theirs in pairs:
            loop.remove_reader(ours)
            ours.close()
            theirs.close()
        return served[1:-1]

    with asyncio.Runner(loop_factory=make_loop) as runner:
        served = runner.run(serve())
    assert [len(numbers) for numbers in served] == [EVENTS_MAX] * turns
    assert sorted(number for numbers in served for number in numbers) == list(
        range(turns * EVENTS_MAX)
    )
