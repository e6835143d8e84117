"""The trace receiver: a request's body into kept records, and the answer.

    decode -> normalize -> chunk rules -> filters -> enrich -> obfuscate -> truncate
           -> encode -> count -> keep -> 200

One trace is decoded, ruled and encoded at a time; nothing is kept before the whole body was
read, so that a sender who is told no may send everything again. What is answered with 200 is in
the journal.

All this is written as steps (turns.py): a body that takes longer than a turn is left now and then,
and others are served in between. The rules for single spans see a long trace in windows; those for
the whole trace see all of it.

Source: reference-agent 3.2 and 4.
"""

from __future__ import annotations

from mini_agent.errors import JournalFull
from mini_agent.flow.clock import Clock
from mini_agent.traces import chunk as chunks
from mini_agent.traces.decode import decode_v04
from mini_agent.traces.decode_json import decode_json, is_json
from mini_agent.traces.decode_v05 import decode_v05
from mini_agent.traces.decode_v07 import decode_v07
from mini_agent.traces.encode import TraceWriter
from mini_agent.traces.filters import Filters
from mini_agent.traces.lenient import Findings
from mini_agent.traces.normalize import Normalizer, truncate
from mini_agent.traces.obfuscate import Obfuscator
from mini_agent.traces.sender import Sender, Senders
from mini_agent.traces.span import windows
from mini_agent.traces.turns import in_turns
from mini_agent.wire.http import Response

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from mini_agent.forward.payload import Record
    from mini_agent.ledger import Ledger
    from mini_agent.traces.enrich import Enrichment
    from mini_agent.traces.span import TraceChunk
    from mini_agent.traces.stats import Stats
    from mini_agent.traces.tally import Counts
    from mini_agent.traces.turns import Steps
    from mini_agent.wire.http import Request, Unfinished

_SPANS = "spans"

# How many spans are taken between two steps, if they are in several traces. A step takes a tenth of
# a microsecond, a span with a long query milliseconds where nothing is compiled.
SPANS_A_LOOK = 4

# Traces of more spans are worked on in windows, and so are those with more links, events and tags
# (Findings.load). Tracers send a long trace in parts of some hundred spans.
SPANS_AT_ONCE_MAX = 128
LOAD_AT_ONCE_MAX = 512

# The records of a longer request are kept one by one: compressing so much takes a millisecond.
KEPT_AT_ONCE_BYTES_MAX = 1024 * 1024

# Keep every trace of every service. Source: reference-agent 3.2.
_RATES = b'{"rate_by_service":{"service:,env:":1}}'

# The rates never change. A tracer that says it knows them is not told again.
# Source: transport-contract 3.7.
_RATES_HEADER = "Datadog-Rates-Payload-Version"
_RATES_VERSION = "1"

# What tracers of v0.3 and older expect.
_OK = Response(200, b"OK\n", "text/plain; charset=utf-8")
_FULL = b'{"message":"Too much is waiting to be delivered; try again later"}'


class TraceReceiver:
    """Takes the trace routes' requests; one owner, the event loop.

    Args:
        keep: Keeps records and books their spans as accepted, or raises JournalFull.
        body_bytes_max: Largest body the intake takes.
        clock: Asked about the time for spans that say they began before 2000, and for how long
            a request has had the loop.
        filters: Which traces are dropped.
        obfuscator: What is hidden; by default what the reference hides.
        stats: Counts the spans; None where the agent computes no stats.
    """

    def __init__(
        self,
        keep: Callable[[list[Record]], None],
        enrichment: Enrichment,
        ledger: Ledger,
        body_bytes_max: int,
        clock: Clock | None = None,
        filters: Filters | None = None,
        obfuscator: Obfuscator | None = None,
        stats: Stats | None = None,
    ) -> None:
        self._keep = keep
        self._senders = Senders()
        self._ledger = ledger
        self._body_bytes_max = body_bytes_max
        self._payload_tags = enrichment.payload_tags
        clock = clock or Clock()
        self._steady_s = clock.steady_s
        self._normalizer = Normalizer(clock.wall_ns)
        self._filters = filters or Filters()
        self._stats = stats
        self._enrichment = enrichment
        self._obfuscator = obfuscator or Obfuscator(documents={})

    def take_v03(self, request: Request) -> Response | Unfinished:
        """Take a v0.3 payload, or one of v0.2: the same as v0.4, answered with a word."""
        steps = self._steps_v04(request)
        return in_turns(map(_in_a_word, steps), self._steady_s)

    def take_v04(self, request: Request) -> Response | Unfinished:
        """Take a v0.4 payload: 200 when it is kept, 429 when there is no room.

        Raises:
            ProtocolError: Nothing of the body can be used; nothing was kept.
        """
        return in_turns(self._steps_v04(request), self._steady_s)

    def _steps_v04(self, request: Request) -> Steps:
        findings = Findings()
        decode = decode_json if is_json(request.body) else decode_v04
        traces = decode(request.body, findings)
        return self._steps(request, self._senders.find(request.headers), traces, findings)

    def take_v05(self, request: Request) -> Response | Unfinished:
        """Take a v0.5 payload, as `take_v04` does."""
        findings = Findings()
        traces = decode_v05(request.body, findings)
        sender = self._senders.find(request.headers)
        return in_turns(self._steps(request, sender, traces, findings), self._steady_s)

    def take_v07(self, request: Request) -> Response | Unfinished:
        """Take a v0.7 payload, as `take_v04` does."""
        findings = Findings()
        sender = Sender(request.headers)
        traces = decode_v07(request.body, sender, findings)
        return in_turns(self._steps(request, sender, traces, findings), self._steady_s)

    def _steps(
        self,
        request: Request,
        sender: Sender,
        traces: Iterator[TraceChunk | None],
        findings: Findings,
    ) -> Steps:
        writer = TraceWriter(sender, self._payload_tags, self._body_bytes_max)
        counts = self._stats.begin(sender) if self._stats is not None else None
        normalize, judge, change = self._normalizer.normalize, self._judge, self._change
        look_at = SPANS_A_LOOK
        # That of the traces so far.
        load = 0
        for arrived in traces:
            if arrived is None:
                yield None
                continue
            load, before = findings.load, load
            if len(arrived) > SPANS_AT_ONCE_MAX or load - before > LOAD_AT_ONCE_MAX:
                each = (load - before) / len(arrived)
                yield from self._take_long(arrived, each, sender, findings, writer, counts)
                continue
            for chunk in normalize(arrived, findings):
                if judge(chunk, sender, findings):
                    change(chunk, sender)
                    truncate(chunk, findings)
                    env, version, *_ = writer.add(chunk)
                    if counts is not None:
                        counts.add(chunk, env, version)
            if findings.spans >= look_at:
                yield None
                look_at = findings.spans + SPANS_A_LOOK
        try:
            if writer.bytes_added <= KEPT_AT_ONCE_BYTES_MAX:
                records = writer.records()
                if records:
                    self._keep(records)
            else:
                for record in writer.each_record():
                    yield None
                    if record is not None:
                        self._keep([record])
                yield None
        except JournalFull as full:
            # What was kept before is delivered, and the sender is told to send everything again.
            yield self._refuse(findings, full)
            return
        # The kept ones were booked where they were kept; others were accepted with them.
        self._book(findings)
        if self._stats is not None and counts is not None:
            yield from self._stats.add(counts)
        yield _answer(request)

    def _take_long(
        self,
        arrived: TraceChunk,
        load_each: float,
        sender: Sender,
        findings: Findings,
        writer: TraceWriter,
        counts: Counts | None,
    ) -> Iterator[None]:
        """Take a long trace window by window; `load_each` is what each span has of `load`."""
        normal = yield from self._normalizer.normalize_long(arrived, findings)
        for chunk in normal:
            for chunk_rule in chunks.RULES:
                yield
                chunk_rule(chunk, sender)
            if not self._admit(chunk, sender, findings):
                continue
            encoded = {}
            for window in windows(chunk, load_each, root_first=True):
                yield
                self._change(chunk, sender)
                yield
                truncate(chunk, findings)
                encoded[window.start] = yield from writer.encode_window(chunk)
            yield
            in_order = [encoded[first] for first in sorted(encoded)]
            env, version, *_ = writer.add_windows(chunk, in_order)
            for _ in windows(chunk, load_each):
                yield
                if counts is not None:
                    counts.add(chunk, env, version)
                chunk.forget_window()
            yield

    def _refuse(self, findings: Findings, full: JournalFull) -> Response:
        self._ledger.refused(_SPANS, "journal_full", findings.spans)
        return Response(429, _FULL, headers=(("Retry-After", str(full.retry_after_s)),))

    def _judge(self, chunk: TraceChunk, sender: Sender, findings: Findings) -> bool:
        """The rules for the chunk as a whole; false when a filter drops it."""
        for chunk_rule in chunks.RULES:
            chunk_rule(chunk, sender)
        return self._admit(chunk, sender, findings)

    def _admit(self, chunk: TraceChunk, sender: Sender, findings: Findings) -> bool:
        """Ask the filters, and tag the root if they keep the chunk."""
        # They see tags as the tracer sent them, but normal.
        reason = self._filters.judge(chunk)
        if reason is not None:
            findings.leave_out(reason, len(chunk))
            return False
        self._enrichment.enrich_root(chunk, sender)
        return True

    def _change(self, chunk: TraceChunk, sender: Sender) -> None:
        """The rules for each span of its window, but for the limits of lengths."""
        chunks.mark_top_level(chunk, sender)
        self._enrichment.enrich_spans(chunk)
        # Obfuscation also sees the tags we add; what is too long is cut after that.
        self._obfuscator.obfuscate(chunk)

    def _book(self, findings: Findings) -> None:
        if findings.dropped:
            self._ledger.accepted(_SPANS, findings.dropped)
            self._ledger.dropped(_SPANS, "field_type", findings.dropped)
        for reason, count in findings.left_out.items():
            self._ledger.accepted(_SPANS, count)
            self._ledger.dropped(_SPANS, reason, count)
        for reason, count in findings.repairs.items():
            self._ledger.repaired(_SPANS, reason, count)
        if findings.empty_traces:
            self._ledger.repaired("requests", "empty_trace")
        for reason in findings.request_repairs:
            self._ledger.repaired("requests", reason)


def _answer(request: Request) -> Response:
    """The sampling rates, for those who do not know them yet."""
    known = request.headers.get(_RATES_HEADER.lower())
    if not known:
        return Response(200, _RATES)
    body = b"{}" if known == _RATES_VERSION else _RATES
    return Response(200, body, headers=((_RATES_HEADER, _RATES_VERSION),))


def _in_a_word(answer: Response | None) -> Response | None:
    return _OK if answer is not None and answer.status == 200 else answer
