"""Memory: what was used stays at hand, and looking for garbage keeps nobody waiting."""

from __future__ import annotations

import gc

# Twice this is what the allocator keeps for a thread: a few bodies of 500 kB on their way through.
# With more of it nothing was faster, and an idle agent would be larger.
KEPT_BLOCK_BYTES = 2 * 1024 * 1024

# The collector's own measure, at which it looks at everything: so many times it has looked at what
# had come and not gone, 7,000 objects each time.
_DUE = 10
# Should nobody ever find the time: memory is bounded all the same.
_OVERDUE = 1000


def keep_at_hand() -> None:
    """Have the allocator keep what large blocks leave, instead of giving it back each time.

    glibc maps a block of more than 128 KiB anew and unmaps it when it is freed, and it gives the
    end of its heap back when that is twice as long; the next request then faults its pages in
    again, one by one. It raises both limits by itself to the largest mapped block that it has
    seen freed, so one is freed here; its pages are never touched. Measured: 500 µs of CPU for
    receiving 500 kB before, 60 to 110 after. Other allocators take no notice.

    Source: mallopt(3), M_MMAP_THRESHOLD, "the dynamic mmap threshold".
    """
    block = bytes(KEPT_BLOCK_BYTES)
    del block


def look_at_new_objects_only() -> None:
    """From now on the garbage collector leaves what is old alone; see `look_at_the_rest`.

    While it looks at all objects nothing else runs: for 7 ms at what is loaded, which is never
    garbage, and for 60 ms more at the 200,000 links of a body that is being read. Garbage is rare
    here: nearly everything is freed when it is let go.

    Python 3.14 looks at old objects bit by bit, and takes no notice of the last threshold.

    Source: Python's reference, `gc.freeze` and `gc.set_threshold`.
    """
    gc.freeze()
    young, middle, _ = gc.get_threshold()
    gc.set_threshold(young, middle, _OVERDUE)


def look_at_the_rest() -> None:
    """Look at the old objects too, if many have come; between requests, when few are alive."""
    if gc.get_count()[2] >= _DUE:
        gc.collect()
