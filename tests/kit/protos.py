"""The intake's messages under the official protobuf runtime.

The oracle for everything the agent encodes by hand: compiled from `proto/` when first asked
for, so that no generated file is kept.
"""

from __future__ import annotations

import functools
import importlib
import sys
import tempfile
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import ModuleType

SOURCES = Path(__file__).with_name("proto")


def load() -> ModuleType:
    """The trace messages: AgentPayload, TracerPayload, TraceChunk, Span and what they hold."""
    return _compiled("trace")


def load_stats() -> ModuleType:
    """The stats messages: StatsPayload and what it holds."""
    return _compiled("stats")


def load_sketch() -> ModuleType:
    """The sketch message, DDSketch."""
    return _compiled("sketch")


@functools.cache
def _compiled(name: str) -> ModuleType:
    # Imported on first use: most tests do not need the compiler.
    from grpc_tools import protoc

    module_name = f"{name}_pb2"
    with tempfile.TemporaryDirectory(prefix="kit-protos-") as folder:
        bundled = str(resources.files("grpc_tools") / "_proto")
        arguments = ["protoc", f"-I{SOURCES}", f"-I{bundled}", f"--python_out={folder}"]
        status = protoc.main([*arguments, f"{name}.proto"])
        if status != 0:
            raise RuntimeError(f"protoc of {name}.proto ended with {status}")
        sys.path.insert(0, folder)
        try:
            importlib.invalidate_caches()
            return importlib.import_module(module_name)
        finally:
            sys.path.remove(folder)
