"""The trace receiver: a request's body into kept records, and the answer.

    decode -> normalize -> chunk rules -> filters -> enrich -> obfuscate -> truncate
           -> encode -> count -> keep -> 200

One trace is decoded, ruled and encoded at a time; nothing is kept before the whole body was
read, so that a sender who is told no may send everything again. What is answered with 200 is in
the journal.

A body that takes longer than TURN_S is worked on in turns, and others are served in between. The
clock is looked at between two traces: one trace is never divided. Each record is kept in a turn of
its own then, and counting has the last.

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
from mini_agent.wire.http import Response, Unfinished

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from mini_agent.forward.payload import Record
    from mini_agent.ledger import Ledger
    from mini_agent.traces.enrich import Enrichment
    from mini_agent.traces.span import TraceChunk
    from mini_agent.traces.stats import Stats
    from mini_agent.traces.tally import Counts
    from mini_agent.wire.http import Request

_SPANS = "spans"

# How long one request may have the loop at a time. Longer turns make the others wait; with shorter
# ones the loop costs more than it gives. A quarter of the 20 ms that nothing on it may take, as a
# trace is finished that has begun.
TURN_S = 0.005
# How many spans are taken between two looks at the clock, if they are in several traces. A look
# takes a tenth of a microsecond, a span with a long query milliseconds where nothing is compiled.
SPANS_A_LOOK = 4

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
        answer = self.take_v04(request)
        if isinstance(answer, Response):
            return _in_a_word(answer)
        take_turn = answer.go_on

        def go_on() -> Response | None:
            later = take_turn()
            return None if later is None else _in_a_word(later)

        return Unfinished(go_on)

    def take_v04(self, request: Request) -> Response | Unfinished:
        """Take a v0.4 payload: 200 when it is kept, 429 when there is no room.

        Raises:
            ProtocolError: Nothing of the body can be used; nothing was kept.
        """
        findings = Findings()
        decode = decode_json if is_json(request.body) else decode_v04
        traces = decode(request.body, findings)
        return self._take(request, self._senders.find(request.headers), traces, findings)

    def take_v05(self, request: Request) -> Response | Unfinished:
        """Take a v0.5 payload, as `take_v04` does."""
        findings = Findings()
        traces = decode_v05(request.body, findings)
        return self._take(request, self._senders.find(request.headers), traces, findings)

    def take_v07(self, request: Request) -> Response | Unfinished:
        """Take a v0.7 payload, as `take_v04` does."""
        findings = Findings()
        sender = Sender(request.headers)
        return self._take(request, sender, decode_v07(request.body, sender, findings), findings)

    def _take(
        self, request: Request, sender: Sender, traces: Iterator[TraceChunk], findings: Findings
    ) -> Response | Unfinished:
        writer = TraceWriter(sender, self._payload_tags, self._body_bytes_max)
        counts = self._stats.begin(sender) if self._stats is not None else None
        if not self._work(traces, sender, findings, writer, counts):
            rest = self._go_on(request, sender, traces, findings, writer, counts)
            return Unfinished(rest.__next__)
        records = writer.records()
        try:
            if records:
                self._keep(records)
        except JournalFull as full:
            return self._refuse(findings, full)
        return self._accept(request, findings, counts)

    def _work(
        self,
        traces: Iterator[TraceChunk],
        sender: Sender,
        findings: Findings,
        writer: TraceWriter,
        counts: Counts | None,
    ) -> bool:
        """Take traces until there are no more or the turn is over; true when there are no more."""
        until_s = self._steady_s() + TURN_S
        look_at = findings.spans + SPANS_A_LOOK
        for arrived in traces:
            for chunk in self._normalizer.normalize(arrived, findings):
                if self._apply_rules(chunk, sender, findings):
                    env, version, *_ = writer.add(chunk)
                    if counts is not None:
                        counts.add(chunk, env, version)
            if findings.spans >= look_at:
                if self._steady_s() >= until_s:
                    return False
                look_at = findings.spans + SPANS_A_LOOK
        return True

    def _go_on(
        self,
        request: Request,
        sender: Sender,
        traces: Iterator[TraceChunk],
        findings: Findings,
        writer: TraceWriter,
        counts: Counts | None,
    ) -> Iterator[Response | None]:
        """What `_take` does with the rest of a request, a turn at each step."""
        while not self._work(traces, sender, findings, writer, counts):
            yield None
        yield None
        # A record is kept with each step. As always, those that were kept before one finds no
        # room are delivered, and the sender is told to send everything again.
        for record in writer.each_record():
            yield None
            try:
                self._keep([record])
            except JournalFull as full:
                yield self._refuse(findings, full)
                return
        yield None
        yield self._accept(request, findings, counts)

    def _accept(self, request: Request, findings: Findings, counts: Counts | None) -> Response:
        """Book and count what was kept."""
        self._book(findings)
        if self._stats is not None and counts is not None:
            self._stats.add(counts)
        return _answer(request)

    def _refuse(self, findings: Findings, full: JournalFull) -> Response:
        self._ledger.refused(_SPANS, "journal_full", findings.spans)
        return Response(429, _FULL, headers=(("Retry-After", str(full.retry_after_s)),))

    def _apply_rules(self, chunk: TraceChunk, sender: Sender, findings: Findings) -> bool:
        """Every rule behind the normalizer; false when a filter drops the chunk."""
        # The chunk rules and the filters see spans as the tracer sent them, but normal.
        for chunk_rule in chunks.RULES:
            chunk_rule(chunk, sender)
        reason = self._filters.judge(chunk)
        if reason is not None:
            findings.leave_out(reason, len(chunk))
            return False
        self._enrichment.enrich_root(chunk, sender)
        self._enrichment.enrich_spans(chunk)
        # Obfuscation also sees the tags we add; what is too long is cut after that.
        self._obfuscator.obfuscate(chunk)
        truncate(chunk, findings)
        return True

    def _book(self, findings: Findings) -> None:
        # The kept ones were booked where they were kept; these were accepted with them.
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


def _in_a_word(answer: Response) -> Response:
    return _OK if answer.status == 200 else answer
