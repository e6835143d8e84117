from __future__ import annotations

from collections.abc import Callable

import pytest

from mini_agent.listen.turns import Turns


class Bench:
    """A queue, and a loop that turns when it is told to."""

    def __init__(self) -> None:
        self.asked: list[Callable[[], None]] = []
        self.done: list[str] = []
        self.turns = Turns(self.asked.append, lambda: self.done.append("idle"))

    def add(self, name: str, steps: int) -> None:
        left = iter(range(steps))

        def step() -> bool:
            self.done.append(name)
            return next(left) == steps - 1

        self.turns.add(step)

    def turn(self) -> None:
        due, self.asked[:] = self.asked[:], []
        for call in due:
            call()


def test_each_turn_does_one_step_of_what_came_first() -> None:
    bench = Bench()
    assert bench.turns.is_idle
    bench.add("a", 2)
    bench.add("b", 1)
    for done in (["a"], ["a", "a"], ["a", "a", "b", "idle"]):
        assert len(bench.asked) == 1
        bench.turn()
        assert bench.done == done
    assert bench.asked == []
    assert bench.turns.is_idle


def test_a_step_that_fails_is_the_last_of_its_work() -> None:
    bench = Bench()

    def fail() -> bool:
        raise ValueError("a mistake")

    bench.turns.add(fail)
    bench.add("next", 1)
    with pytest.raises(ValueError, match="a mistake"):
        bench.turn()
    bench.turn()
    assert bench.done == ["next", "idle"]


def test_what_is_given_up_gets_no_turn() -> None:
    bench = Bench()
    bench.add("given up", 2)
    bench.turns.clear()
    bench.turn()
    assert bench.done == []
    bench.add("new", 1)
    bench.turn()
    assert bench.done == ["new", "idle"]
