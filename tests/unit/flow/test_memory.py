"""flow.memory: what was used stays at hand."""

from __future__ import annotations

import platform

import pytest

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
