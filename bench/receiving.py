"""The trace receiver in this process, wired as the agent wires it, with stopwatches around stages.

The stopwatches stand here and not in the receiver: the functions a stage consists of are replaced,
for the length of one measurement, by ones that note the time. What a stage calls of another stage
counts for that one. A place that is gone, or that cannot be replaced because it is compiled into
its caller, leaves its stage out, and its time stays with the stage around it.
"""

from __future__ import annotations

import contextlib
import importlib
import time
from types import GeneratorType
from typing import TYPE_CHECKING, Any

from programs import SETTINGS

from mini_agent import assembly, identity
from mini_agent.config import Config
from mini_agent.flow.clock import Clock
from mini_agent.ledger import Ledger
from mini_agent.traces.receiver import TraceReceiver
from mini_agent.traces.stats import Stats
from mini_agent.wire.http import Request, Response, Unfinished

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from typing import TypeVar

    from mini_agent.forward.payload import Record

    T = TypeVar("T")

# What a tracer says of itself with every request.
HEADERS = {
    "datadog-meta-lang": "python",
    "datadog-meta-lang-version": "3.13.5",
    "datadog-meta-lang-interpreter": "CPython",
    "datadog-meta-tracer-version": "4.16.0",
}

# Stage, module, path of the function in it.
PLACES = (
    ("decode", "traces.receiver", "decode_v04"),
    ("rules: normalise", "traces.normalize", "Normalizer.normalize"),
    ("rules: obfuscate", "traces.obfuscate", "Obfuscator.obfuscate"),
    ("rules: all others", "traces.receiver", "TraceReceiver._judge"),
    ("rules: all others", "traces.receiver", "TraceReceiver._change"),
    ("rules: all others", "traces.receiver", "truncate"),
    ("stats", "traces.stats", "Counts.add"),
    ("stats", "traces.stats", "Stats.add"),
    ("encode", "traces.encode", "TraceWriter.add"),
    ("encode", "traces.encode", "TraceWriter.records"),
)
REST = "the rest"


class Receiving:
    """A receiver whose records go to `keep`, by default nowhere.

    Attributes:
        stats: Where it counts; None when it does not.
    """

    def __init__(
        self, stats: bool = True, keep: Callable[[list[Record]], None] = lambda _: None
    ) -> None:
        config = Config.read(SETTINGS)
        clock, ledger = Clock(), Ledger()
        self.stats = Stats("none", lambda _: None, ledger, clock) if stats else None
        self._receiver = TraceReceiver(
            keep=keep,
            enrichment=assembly.make_enrichment(config, identity.detect(SETTINGS)),
            ledger=ledger,
            body_bytes_max=assembly.TRACES_BODY_BYTES_MAX,
            clock=clock,
            filters=assembly.make_filters(config),
            obfuscator=assembly.make_obfuscator(config),
            stats=self.stats,
        )

    def take(self, body: bytes) -> None:
        """One request."""
        answer: Response | Unfinished | None
        answer = self._receiver.take_v04(Request("PUT", "/v0.4/traces", "", HEADERS, body))
        if isinstance(answer, Unfinished):
            go_on = answer.go_on
            while (answer := go_on()) is None:
                pass
        assert answer.status == 200, answer.status


def measure(
    rounds: list[list[bytes]], spans: int, choose: Callable[[list[float]], float] = min
) -> tuple[float, float, dict[str, float]]:
    """Microseconds for a span: in all, without stats, and by stage.

    They take turns, so that a machine whose speed drifts is fair to all three.

    Args:
        choose: Of the times of several rounds of bodies the one that counts.
    """
    whole, uncounted = Receiving(), Receiving(stats=False)
    whole_ns: list[float] = []
    uncounted_ns: list[float] = []
    by_stage: list[dict[str, int]] = []
    watch = Stopwatch(PLACES)
    with watch.placed():
        staged = Receiving()
    for bodies in rounds:
        whole_ns.append(cpu_ns(whole.take, bodies))
        uncounted_ns.append(cpu_ns(uncounted.take, bodies))
        with watch.placed():
            # One by one: their clock runs on when somebody else gets the processor.
            for body in bodies:
                watch.start()
                staged.take(body)
                by_stage.append(watch.stop())
    bodies_each = len(rounds[0])
    per_span = 1000 * spans
    stages = by_stage[0]
    return (
        choose(whole_ns) / per_span,
        choose(uncounted_ns) / per_span,
        {
            stage: choose([taken.get(stage, 0) for taken in by_stage]) * bodies_each / per_span
            for stage in stages
        },
    )


def cpu_ns(take: Callable[[T], object], each: Iterable[T]) -> int:
    """CPU time of this process for calling it with each."""
    started_ns = time.process_time_ns()
    for one in each:
        take(one)
    return time.process_time_ns() - started_ns


# What a generator gives that has nothing more.
_END = object()


class Stopwatch:
    """Nanoseconds by stage; what runs inside another stage is taken off the outer one.

    Args:
        places: What to replace by timed ones.
        clock: One that is read quickly for stages of a microsecond, one of CPU time for those
            that wait.
    """

    def __init__(
        self,
        places: Sequence[tuple[str, str, str]],
        clock: Callable[[], int] = time.perf_counter_ns,
    ) -> None:
        self._places = places
        self._clock = clock
        self._taken: dict[str, int] = {}
        self._open = [REST]
        self._since = 0

    @contextlib.contextmanager
    def placed(self) -> Iterator[None]:
        """Replace the places by timed ones for as long as the block runs."""
        originals: list[tuple[Any, str, Any]] = []
        for stage, module, path in self._places:
            *owners, name = path.split(".")
            try:
                owner: Any = importlib.import_module(f"mini_agent.{module}")
                for each in owners:
                    owner = getattr(owner, each)
                original = getattr(owner, name)
                setattr(owner, name, self._timed(stage, original))
            except (ImportError, AttributeError, TypeError):
                continue
            originals.append((owner, name, original))
        try:
            yield
        finally:
            for owner, name, original in originals:
                setattr(owner, name, original)

    def start(self) -> None:
        self._taken = {}
        self._since = self._clock()

    def stop(self) -> dict[str, int]:
        self._note()
        return self._taken

    def _timed(self, stage: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def run(*arguments: Any, **named: Any) -> Any:
            self._note()
            self._open.append(stage)
            try:
                result = call(*arguments, **named)
            finally:
                self._note()
                self._open.pop()
            return self._drive(stage, result) if isinstance(result, GeneratorType) else result

        return run

    def _drive(self, stage: str, generator: Iterator[Any]) -> Iterator[Any]:
        step = self._timed(stage, lambda: next(generator, _END))
        while (item := step()) is not _END:
            yield item

    def _note(self) -> None:
        now = self._clock()
        stage = self._open[-1]
        self._taken[stage] = self._taken.get(stage, 0) + now - self._since
        self._since = now
