"""Which of the twins run: the compiled modules, or the plain ones they stand beside.

Compiled is what a build with a C compiler gives, and what is imported when it is there. The
environment variable MINI_AGENT_PLAIN, set to anything, passes over all extension modules of this
package: for the tests, which run on both, and for whoever suspects a compiled module.
"""

from __future__ import annotations

import sys
from importlib.machinery import SOURCE_SUFFIXES, FileFinder, SourceFileLoader

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from importlib.machinery import ModuleSpec
    from types import ModuleType

VARIABLE = "MINI_AGENT_PLAIN"

COMPILED, PLAIN = "compiled", "plain"


class PlainFinder:
    """Finds the modules of this package as sources, and no extension of it."""

    @staticmethod
    def find_spec(
        name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """As importlib asks; other packages are left to the others."""
        if path is None or not name.startswith(f"{__package__}."):
            return None
        for folder in path:
            spec = FileFinder(folder, (SourceFileLoader, SOURCE_SUFFIXES)).find_spec(name)
            if spec is not None:
                return spec
        raise ModuleNotFoundError(f"{name} has no plain source", name=name)


def use_plain() -> None:
    """Import plain modules from now on; called before any other module of this package."""
    sys.meta_path.insert(0, PlainFinder)


def running() -> str:
    """COMPILED or PLAIN."""
    try:
        import mini_agent.traces._express  # noqa: F401
    except ImportError:
        return PLAIN
    return COMPILED
