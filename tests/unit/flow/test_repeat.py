from __future__ import annotations

from kit.clock import HandClock

from mini_agent.flow.repeat import KEYS_MAX, Repeated


def test_a_complaint_is_said_once_and_then_counted():
    clock = HandClock()
    repeated = Repeated(clock, every_s=60)
    assert repeated.may("full") == 0
    assert [repeated.may("full") for _ in range(3)] == [None, None, None]
    clock.move(59.9)
    assert repeated.may("full") is None
    clock.move(0.1)
    assert repeated.may("full") == 4
    assert repeated.may("full") is None


def test_complaints_do_not_silence_each_other():
    repeated = Repeated(HandClock())
    assert repeated.may("full") == 0
    assert repeated.may("refused") == 0


def test_the_memory_of_complaints_is_bounded_and_forgets_the_oldest():
    repeated = Repeated(HandClock())
    for number in range(KEYS_MAX + 1):
        assert repeated.may(f"complaint {number}") == 0
    assert repeated.may(f"complaint {KEYS_MAX}") is None
    assert repeated.may("complaint 1") is None
    assert repeated.may("complaint 0") == 0
