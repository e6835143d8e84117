"""A flame graph of our hot path, drawn from samples of a run under load.

py-spy (installed into an environment of its own) looks at the stack of every thread that works, a
few hundred times a second, functions in C included. Here the stacks are added up and drawn as a
picture of rectangles: each is a function, as wide as its share of the samples, above the one that
called it. What begins outside of our code, in the interpreter and the event loop, is left out
below, so that the picture starts where ours does.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from driver import Driver
from measures import wait_arrived
from programs import ROOT, install

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from measures import Bodies
    from programs import Program
    from sink import Sink

PICTURE = ROOT / "docs" / "benchmarks" / "flame.svg"

SAMPLER_PACKAGE = "py-spy==0.4.3"
SAMPLES_PER_S = 400
# The load lasts longer at both ends.
SAMPLED_S = 8
LOAD_S = 11
CLIENTS = 2

# Where our own code begins to work, seen from the interpreter.
_OURS = re.compile(r"mini_agent/(listen|traces|forward|flow|wire)/")
_OUTSIDE = "interpreter, event loop"
# Functions of the interpreter and of the C library say no more than the one that called them.
_FOREIGN = re.compile(r"^0x|\((lib(python|c|pthread)\b|ld-)|^_?Py|\(<string>")

# A thread that waits; the sampler cannot always tell that it does.
_WAITING = re.compile(r"SimpleQueue_get|epoll_(poll|wait)|futex|lock_acquire")
# How near to the end of a stack that stands.
WAITING_FRAMES = 5

WIDTH, ROW_HEIGHT, MARGIN = 1200, 17, 10
# Narrower ones could not be read, and there are thousands.
SHARE_MIN = 0.002
CHARACTER_WIDTH = 6.6
COLOURS = {"mini_agent": "#f2a65a", "asyncio": "#9bc1bc", "": "#e6d3a3"}


class Node:
    """A function under those that called it."""

    def __init__(self, name: str = "all", where: str = "") -> None:
        self.name = name
        self.where = where
        self.samples = 0
        self.callees: dict[str, Node] = {}

    def add(self, stack: Iterable[str], samples: int) -> None:
        self.samples += samples
        node = self
        for frame in stack:
            if frame not in node.callees:
                name, _, where = frame.partition(" (")
                node.callees[frame] = Node(name, where.rstrip(")"))
            node = node.callees[frame]
            node.samples += samples


def draw(program: Program, sink: Sink, bodies: Bodies) -> None:
    """Sample a run of a program of ours under load and write the picture."""
    folder = install("tools", SAMPLER_PACKAGE)
    sink.forget()
    with (
        tempfile.TemporaryDirectory(prefix="mini-agent-bench-") as place,
        program.running(Path(place), sink.url) as agent,
    ):
        # What is loaded on first use is loaded.
        Driver(agent.port, bodies.large, count=1).result()
        wait_arrived(sink, spans=1, hits=1)
        sink.forget(keep=False)
        driver = Driver(agent.port, bodies.large, CLIENTS, seconds=LOAD_S)
        raw = Path(place) / "stacks"
        sampler = [str(folder / "bin" / "py-spy"), "record", "--native", "--format", "raw"]
        options = ["--rate", str(SAMPLES_PER_S), "--duration", str(SAMPLED_S)]
        subprocess.run(
            [*sampler, *options, "--pid", str(agent.pid), "--output", str(raw)],
            check=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        driver.result()
        root = read(raw.read_text().splitlines())
    PICTURE.parent.mkdir(exist_ok=True)
    title = f"mini-agent, {program.name}: {root.samples} samples under load"
    PICTURE.write_text(picture(root, title))


def read(lines: Iterable[str]) -> Node:
    """Stacks, one a line, outermost function first and the number of samples last."""
    root = Node()
    for line in lines:
        stack, _, samples = line.rpartition(" ")
        frames = stack.split(";")
        if not any(map(_WAITING.search, frames[-WAITING_FRAMES:])):
            root.add(_shorten(frames), int(samples))
    return root


def _shorten(frames: list[str]) -> list[str]:
    begin = next((at for at, frame in enumerate(frames) if _OURS.search(frame)), None)
    if begin is None:
        return [_OUTSIDE]
    return [
        # Without the line: the function counts as a whole.
        re.sub(r":\d+\)$", ")", frame)
        for frame in frames[begin:]
        if not _FOREIGN.search(frame)
    ]


def picture(root: Node, title: str) -> str:
    """The graph as SVG, callers below; a rectangle's title has its share."""
    placed = list(_place(root, 0, 0.0))
    rows = 1 + max(depth for _, depth, _ in placed)
    height = rows * ROW_HEIGHT + 4 * MARGIN
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" '
        f'font-family="monospace" font-size="11"><text x="{MARGIN}" y="{2 * MARGIN}">'
        f"{escape(title)}</text>"
    ]
    for node, depth, left in placed:
        share = node.samples / root.samples
        x, width = MARGIN + left * (WIDTH - 2 * MARGIN), share * (WIDTH - 2 * MARGIN)
        y = height - MARGIN - (depth + 1) * ROW_HEIGHT
        colour = COLOURS.get(node.where.partition("/")[0], COLOURS[""])
        shown = node.name[: int((width - 4) / CHARACTER_WIDTH)] if width > 20 else ""
        parts.append(
            f"<g><title>{escape(node.name)} {escape(node.where)} {share:.1%}</title>"
            f'<rect x="{x:.1f}" y="{y}" width="{width:.1f}" height="{ROW_HEIGHT - 1}" '
            f'fill="{colour}" stroke="#fff" stroke-width=".5"/>'
            f'<text x="{x + 2:.1f}" y="{y + 12}">{escape(shown)}</text></g>'
        )
    return "\n".join([*parts, "</svg>"]) + "\n"


def _place(
    node: Node, depth: int, left: float, whole: int = 0
) -> Iterator[tuple[Node, int, float]]:
    """Every function wide enough, with its depth and where it begins, from 0 to 1."""
    whole = whole or node.samples
    yield node, depth, left
    for callee in sorted(node.callees.values(), key=lambda each: -each.samples):
        if callee.samples / whole >= SHARE_MIN:
            yield from _place(callee, depth + 1, left, whole)
        left += callee.samples / whole
