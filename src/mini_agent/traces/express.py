"""The express lane: what a build with a C compiler does faster, or nothing.

Most spans are in order: every field is there and of its type, and what the rules make of their
texts was found out for an earlier span. `_express.pyx` takes such a trace from MessagePack to
protobuf in C memory. It holds no rule: it asks the rules once for each text and remembers, and
whatever is out of the ordinary it leaves to the plain modules.

Without it these names do nothing, and every span goes the plain way.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mini_agent.traces._express import NormalTexts, SettledTexts, read_table, read_trace
else:
    try:
        from mini_agent.traces._express import NormalTexts, SettledTexts, read_table, read_trace
    except ImportError:

        class NormalTexts:
            """Nothing is remembered here; plain chunks never ask."""

            def __init__(self, **rules: object) -> None: ...

        SettledTexts = NormalTexts

        def read_trace(reader: object, findings: object) -> None:
            """Leave every trace to the plain decoder."""

        def read_table(reader: object) -> None:
            """Leave the table, and the traces that point into it, to the plain decoder."""


__all__ = ["NormalTexts", "SettledTexts", "read_table", "read_trace"]
