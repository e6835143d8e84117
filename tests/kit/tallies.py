"""The classes that count, of either twin: tests hold both to the same promises."""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest

from mini_agent.traces import concentrator, counts, sketch

try:
    from mini_agent.traces import _tally
except ImportError:
    _tally = None  # type: ignore[assignment]


class Tally(NamedTuple):
    """A twin."""

    Counts: Any
    Group: Any
    Sketch: Any


PLAIN = Tally(counts.Counts, concentrator.Group, sketch.Sketch)
COMPILED = None if _tally is None else Tally(_tally.Counts, _tally.Group, _tally.Sketch)

needs_compiled = pytest.mark.skipif(COMPILED is None, reason="nothing is compiled here")
on_both = pytest.mark.parametrize(
    "twin",
    [pytest.param(PLAIN, id="plain"), pytest.param(COMPILED, id="compiled", marks=needs_compiled)],
)
