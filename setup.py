"""The compiled twins: optional, so that a machine without a C compiler installs all the same.

`MINI_AGENT_EXTENSIONS` says what a build does: `try` (the default) compiles and leaves out what
does not compile, `disable` makes the wheel that runs everywhere, `require` fails instead of
leaving anything out; releases and tests use the last two.
"""

from __future__ import annotations

import os
from pathlib import Path

from setuptools import Extension, setup

SOURCES = Path("src")

# Aim for few. A .py is one source for both twins, with its C types in a .pxd beside it; a .pyx
# stands beside a plain twin that does the same.
COMPILED: tuple[str, ...] = (
    "mini_agent/traces/_express.pyx",
    "mini_agent/traces/_tally.pyx",
    "mini_agent/traces/obfuscate/collapse.py",
    "mini_agent/traces/obfuscate/redis.py",
    "mini_agent/traces/obfuscate/scan.py",
    "mini_agent/traces/obfuscate/sql.py",
    "mini_agent/traces/ordinary_url.py",
)

MODES = ("try", "disable", "require")


def extensions(mode: str) -> list[Extension]:
    """What is to be compiled; nothing where that is not wanted or there is no Cython."""
    if mode == "disable" or not COMPILED:
        return []
    try:
        from Cython.Build import cythonize
    except ImportError:
        if mode == "require":
            raise
        return []
    modules = [
        Extension(path.rpartition(".")[0].replace("/", "."), [str(SOURCES / path)])
        for path in COMPILED
    ]
    modules = cythonize(
        modules,
        build_dir="build/cython",
        # Ranges are checked by our own lines, so that both twins refuse the same values.
        compiler_directives={
            "language_level": 3,
            "boundscheck": False,
            "wraparound": False,
            "cdivision": True,
            "initializedcheck": False,
            "annotation_typing": False,
        },
    )
    for module in modules:
        # cythonize makes the objects anew, without it.
        module.optional = mode == "try"
    return modules


mode = os.environ.get("MINI_AGENT_EXTENSIONS", "try")
if mode not in MODES:
    raise SystemExit(f"MINI_AGENT_EXTENSIONS is {mode!r}; it may be {', '.join(MODES)}")
setup(ext_modules=extensions(mode))
