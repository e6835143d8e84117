"""Which twin counts: the compiled one of `_tally.pyx` where a build has it, or the plain classes.

Both come to the same counts, sketches and snapshots.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mini_agent.traces.concentrator import Group
    from mini_agent.traces.counts import Counts
    from mini_agent.traces.sketch import Sketch
else:
    try:
        from mini_agent.traces._tally import Counts, Group, Sketch
    except ImportError:
        from mini_agent.traces.concentrator import Group
        from mini_agent.traces.counts import Counts
        from mini_agent.traces.sketch import Sketch

__all__ = ["Counts", "Group", "Sketch"]
