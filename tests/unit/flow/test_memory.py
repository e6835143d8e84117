"""flow.memory: what was used stays at hand, and the garbage collector looks at everything late."""

from __future__ import annotations

import platform
import sys

import pytest
from kit.interpreter import run_alone

from mini_agent.flow.memory import keep_at_hand

ROUNDS = 50
PAGE_BYTES = 4096
PIECE_BYTES = 64 * 1024


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="of glibc's allocator")
def test_bodies_that_come_and_go_fault_in_no_pages() -> None:
    import resource

    def receive() -> None:
        pieces = [bytes(bytearray(PIECE_BYTES)) for _ in range(8)]
        b"".join(pieces)

    keep_at_hand()
    receive()
    before = resource.getrusage(resource.RUSAGE_THREAD).ru_minflt
    for _ in range(ROUNDS):
        receive()
    faults = resource.getrusage(resource.RUSAGE_THREAD).ru_minflt - before
    # Without it each round would have all its pages faulted in.
    assert faults < ROUNDS * 8 * PIECE_BYTES / PAGE_BYTES / 4


@pytest.mark.skipif(sys.version_info >= (3, 14), reason="looks at old objects bit by bit")
def test_old_objects_are_looked_at_when_somebody_has_time() -> None:
    said = run_alone(
        """
import gc, weakref
from mini_agent.flow import memory

class Ring:
    def __init__(self):
        self.me = self

def full():
    return gc.get_stats()[2]["collections"]

memory.look_at_new_objects_only()
assert gc.get_freeze_count() > 1000
before = full()
memory.look_at_the_rest()
assert full() == before, "nothing has come"

ring = Ring()
gc.collect(1)
gone = weakref.ref(ring)
del ring
young, middle, _ = gc.get_threshold()
kept = [[] for _ in range(15 * young * middle)]
assert full() == before, "the collector has looked at everything by itself"
assert gone() is not None
memory.look_at_the_rest()
assert gone() is None
print("yes")
"""
    )
    assert said == "yes"
