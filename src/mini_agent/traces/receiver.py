"""The trace receiver: a request's body into kept records, and the answer.

    decode -> chunk rules -> span rules -> encode -> keep -> 200

One trace is decoded, ruled and encoded at a time; nothing is kept before the whole body was
read, so that a sender who is told no may send everything again. What is answered with 200 is in
the journal.

Source: reference-agent 3.2 and 4.
"""

from __future__ import annotations

from mini_agent.errors import JournalFull
from mini_agent.traces import chunk as chunks
from mini_agent.traces.decode import decode_v04
from mini_agent.traces.encode import TraceWriter
from mini_agent.traces.lenient import Findings
from mini_agent.traces.sender import Sender
from mini_agent.traces.span import TraceChunk
from mini_agent.wire.http import Response

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from mini_agent.forward.payload import Record
    from mini_agent.ledger import Ledger
    from mini_agent.traces.chunk import ChunkRule
    from mini_agent.traces.enrich import Enrichment
    from mini_agent.traces.span import Span
    from mini_agent.wire.http import Request

    SpanRule = Callable[[Span], None]

_SPANS = "spans"

# Keep every trace of every service. Source: reference-agent 3.2.
_RATES = b'{"rate_by_service":{"service:,env:":1}}'
_FULL = b'{"message":"Too much is waiting to be delivered; try again later"}'


class TraceReceiver:
    """Takes the trace routes' requests; one owner, the event loop.

    Args:
        keep: Keeps records and books their spans as accepted, or raises JournalFull.
        body_bytes_max: Largest body the intake takes.
    """

    def __init__(
        self,
        keep: Callable[[list[Record]], None],
        enrichment: Enrichment,
        ledger: Ledger,
        body_bytes_max: int,
    ) -> None:
        self._keep = keep
        self._ledger = ledger
        self._body_bytes_max = body_bytes_max
        self._payload_tags = enrichment.payload_tags
        # A chunk's rules see its spans as the tracer sent them, the span rules come behind:
        # a rule that normalizes spans belongs in front of these chunk rules, one that obfuscates
        # them behind these span rules, where it also sees the tags we add.
        self._chunk_rules: tuple[ChunkRule, ...] = (*chunks.RULES, enrichment.enrich_root)
        self._span_rules: tuple[SpanRule, ...] = (enrichment.enrich_span,)

    def take_v04(self, request: Request) -> Response:
        """Take a v0.4 payload: 200 when it is kept, 429 when there is no room.

        Raises:
            ProtocolError: Nothing of the body can be used; nothing was kept.
        """
        sender = Sender(request.headers)
        findings = Findings()
        writer = TraceWriter(sender, self._payload_tags, self._body_bytes_max)
        for spans in decode_v04(request.body, findings):
            chunk = TraceChunk(spans)
            self._apply_rules(chunk, sender)
            writer.add(chunk)
        records = writer.records()
        try:
            if records:
                self._keep(records)
        except JournalFull as full:
            self._ledger.refused(_SPANS, "journal_full", findings.spans)
            return Response(429, _FULL, headers=(("Retry-After", str(full.retry_after_s)),))
        self._book(findings)
        return Response(200, _RATES)

    def _apply_rules(self, chunk: TraceChunk, sender: Sender) -> None:
        for chunk_rule in self._chunk_rules:
            chunk_rule(chunk, sender)
        for span_rule in self._span_rules:
            for span in chunk.spans:
                span_rule(span)

    def _book(self, findings: Findings) -> None:
        # The kept ones were booked where they were kept; these were accepted with them.
        self._ledger.accepted(_SPANS, findings.dropped)
        self._ledger.dropped(_SPANS, "field_type", findings.dropped)
        for reason, count in findings.repairs.items():
            self._ledger.repaired(_SPANS, reason, count)
        if findings.empty_traces:
            self._ledger.repaired("requests", "empty_trace")
