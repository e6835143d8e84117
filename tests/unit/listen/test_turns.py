from __future__ import annotations

from collections.abc import Callable

import pytest
from kit.clock import HandClock

from mini_agent.listen.turns import AT_ONCE_S_MAX, NOTICED_S, Turns


class Bench:
    """A queue, and a loop that turns when it is told to."""

    def __init__(self) -> None:
        self.asked: list[Callable[[], None]] = []
        self.done: list[str] = []
        self.clock = HandClock()
        self.turns = Turns(self.asked.append, lambda: self.done.append("idle"), self.clock.steady_s)

    def add(self, name: str, steps: int) -> None:
        self.turns.add(self._make(name, steps, 0.0))

    def add_short(self, name: str, steps: int = 1, takes_s: float = 0.0) -> None:
        self.turns.add_short(self._make(name, steps, takes_s))

    def _make(self, name: str, steps: int, takes_s: float) -> Callable[[], bool]:
        left = iter(range(steps))

        def step() -> bool:
            self.done.append(name)
            self.clock.move(takes_s)
            return next(left) == steps - 1

        return step

    def work(self, seconds: float) -> None:
        """Do something at once."""
        began_s = self.clock.steady_s()
        self.clock.move(seconds)
        self.turns.count(began_s)

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


def test_what_is_done_at_once_uses_the_turn_up_and_the_next_has_it_anew() -> None:
    bench = Bench()
    for _ in range(3):
        bench.work(AT_ONCE_S_MAX / 2 - 1e-4)
        assert not bench.turns.is_spent
        # Time in which nobody worked for a request, such as reading one, counts as well by now.
        bench.clock.move(AT_ONCE_S_MAX / 2)
        bench.work(2e-4)
        assert bench.turns.is_spent
        assert len(bench.asked) == 1
        bench.turn()
        assert not bench.turns.is_spent
        assert bench.asked == []
    assert bench.done == [], "nothing was queued"


def test_little_work_costs_no_turn_and_is_spent_by_no_wait() -> None:
    bench = Bench()
    for _ in range(9):
        bench.work(NOTICED_S / 10)
        bench.clock.move(100.0)
    assert not bench.turns.is_spent
    assert bench.asked == []
    # Nobody knows that these were turns of their own.
    bench.work(NOTICED_S / 5)
    assert not bench.turns.is_spent
    assert len(bench.asked) == 1


def test_a_turn_does_as_many_short_ones_as_it_has_time_for() -> None:
    bench = Bench()
    for name in "abcde":
        bench.add_short(name, takes_s=AT_ONCE_S_MAX * 0.6)
    for done in ("ab", "abcd"):
        bench.turn()
        assert "".join(bench.done) == done
        assert bench.turns.is_spent, "who comes now would be before those who wait"
    bench.turn()
    assert bench.done == [*"abcde", "idle"]
    assert not bench.turns.is_spent
    # What is done at once in the same turn counts with it.
    bench.work(AT_ONCE_S_MAX * 0.6)
    assert bench.turns.is_spent
    bench.turn()
    assert not bench.turns.is_spent
    assert bench.asked == []
    assert bench.done[-1:] == ["idle"]


def test_short_ones_do_not_wait_for_long_ones_nor_the_other_way_round() -> None:
    bench = Bench()
    bench.add("long", 3)
    bench.add_short("a", takes_s=2 * AT_ONCE_S_MAX)
    bench.add_short("b", takes_s=2 * AT_ONCE_S_MAX)
    bench.turn()
    assert bench.done == ["long", "a"]
    bench.turn()
    assert bench.done == ["long", "a", "long", "b"]
    bench.turn()
    assert bench.done[4:] == ["long", "idle"]


def test_a_short_one_that_takes_long_goes_behind_the_long_ones() -> None:
    bench = Bench()
    bench.add_short("a", steps=2)
    bench.add("long", 2)
    for done in (["long", "a"], ["long", "a", "long"], ["long", "a", "long", "a", "idle"]):
        bench.turn()
        assert bench.done == done
