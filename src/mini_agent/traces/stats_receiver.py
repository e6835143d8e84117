"""Stats that a tracer computed: the requests of `/v0.6/stats`, into records and the answer.

    decode ──► hide ──► mend times, name the sender ──► records ──► keep ──► 202

What a tracer sends is passed on as it was counted. Payloads of several tracers travel to the
intake together; their counts are not added up, because what is answered with 202 is in the
journal, and because many instances of a function without a host name report the same groups
anyway: the intake adds them up. (The Go agent adds up the counts of one host so that each host
has one point per second.)

What is mended, for every bucket: a start that is not on the intake's grid of ten seconds is put
there; one that is older than COMPLETE_NS or later than now is moved, and AgentTimeShift says by
how much. The host name is left out.

Bad input costs as little as it can (docs/decisions/0004): a group that cannot be read is dropped
alone.

A request that takes longer than a turn of the loop is worked on in turns (turns.py), some groups at
a step. Each is encoded when it was read: of thousands only bytes are left then, which the garbage
collector need not look at. Nothing is kept before the whole body was read; then a record at a step.

Source: reference-agent 3.3 and 6.8, of which the reference mends the first bucket alone and hides
nothing; times as in the Go agent's aggregator of client stats, hiding as in its processing of them.
"""

from __future__ import annotations

from mini_agent.errors import JournalFull, ProtocolError
from mini_agent.traces.concentrator import (
    BUCKET_NS,
    COMPLETE_NS,
    RESOURCE_BYTES_MAX,
    TEXT_BYTES_MAX,
    cut_text,
)
from mini_agent.traces.lenient import Findings, attempt_in_steps, fill_in_steps, read_text
from mini_agent.traces.obfuscate.redis import quantize_redis
from mini_agent.traces.obfuscate.replace import replace_group
from mini_agent.traces.obfuscate.sql import obfuscate_sql
from mini_agent.traces.sender import Sender
from mini_agent.traces.stats import SIGNAL
from mini_agent.traces.stats_payload import (
    RECORD_BYTES_MAX,
    U64_MAX,
    new_bucket,
    new_group,
    new_payload,
    records_of,
)
from mini_agent.traces.turns import in_turns
from mini_agent.wire import msgpack
from mini_agent.wire.http import Response
from mini_agent.wire.msgpack import Reader, WrongType
from mini_agent.wire.protobuf import encode_text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from mini_agent.flow.clock import Clock
    from mini_agent.forward.payload import Record
    from mini_agent.ledger import Ledger
    from mini_agent.traces.lenient import Fields, Steps
    from mini_agent.traces.obfuscate.replace import ReplaceRule
    from mini_agent.traces.stats_payload import Json
    from mini_agent.wire.http import Request, Unfinished

    Read = Callable[[Reader, Findings], object]

# Groups and buckets of one request. A tracer sends some hundreds every ten seconds.
GROUPS_MAX = 50_000
BUCKETS_MAX = 1000
# Tags of one group, or of the whole payload.
TAGS_MAX = 100
# How much is read in one step: a tenth of a millisecond, or one where all that is queries or tags.
GROUPS_A_STEP = 8
STEP_BYTES = 2048

# Of a sketch; those of tracers have at most 2048 numbers of eight bytes on either side of zero. A
# record should not be larger.
SKETCH_BYTES_MAX = RECORD_BYTES_MAX
# Bytes of a sketch that are read in one step where each is a number: a third of a millisecond.
OCTETS_A_STEP = 4096

# Types of groups whose resources are queries or commands.
_SQL_TYPES = frozenset({"sql", "cassandra"})
_REDIS_TYPES = frozenset({"redis", "valkey"})

_I32_MAX = (1 << 31) - 1
_U32_MAX = (1 << 32) - 1
_I64_MIN, _I64_MAX = -(1 << 63), (1 << 63) - 1

_TAKEN = b'{"message":"Successfully buffered stats to be flushed."}'
_FULL = b'{"message":"Too much is waiting to be delivered; try again later"}'


class StatsReceiver:
    """Takes `/v0.6/stats`; one owner, the event loop.

    Args:
        env: For tracers that name no environment.
        keep: Keeps records and books their groups as accepted, or raises JournalFull.
        obfuscate_query: SQL and its database's name into SQL without literals.
        replace_rules: The operator's own rules, as for spans.
    """

    def __init__(
        self,
        env: str,
        keep: Callable[[list[Record]], None],
        ledger: Ledger,
        clock: Clock,
        obfuscate_query: Callable[[str, str], str] = obfuscate_sql,
        replace_rules: Iterable[ReplaceRule] = (),
    ) -> None:
        self._env = env
        self._obfuscate_query = obfuscate_query
        self._replace_rules = tuple(replace_rules)
        self._keep = keep
        self._ledger = ledger
        self._clock = clock
        self._bucket_fields = {**_BUCKET_FIELDS, b"Stats": self._read_groups}
        self._payload_fields = {**_PAYLOAD_FIELDS, b"Stats": self._read_buckets}

    def take_v06(self, request: Request) -> Response | Unfinished:
        """Take a tracer's stats: 202 when they are kept, 429 when there is no room.

        Raises:
            ProtocolError: Nothing of the body can be used; nothing was kept.
        """
        return in_turns(self._take(request), self._clock.steady_s)

    def _take(self, request: Request) -> Iterator[Response | None]:
        findings = Findings()
        payload = new_payload()
        now_ns = self._clock.wall_ns()
        steps = fill_in_steps(payload, self._payload_fields, Reader(request.body), findings)
        if steps is not None:
            yield from steps
        findings.take_span()
        findings.raise_if_all_failed()
        self._mend(payload, Sender(request.headers), now_ns)
        buckets = [(bucket, bucket["Stats"]) for bucket in payload["Stats"]]
        payload["Stats"] = []
        # As always, records that were kept before one finds no room are delivered, and the sender
        # is told to send everything again.
        for record in records_of(payload, buckets):
            yield None
            if record is not None:
                try:
                    self._keep([record])
                except JournalFull as full:
                    self._ledger.refused(SIGNAL, "journal_full", findings.spans)
                    yield Response(429, _FULL, headers=(("Retry-After", str(full.retry_after_s)),))
                    return
        yield None
        # The kept ones were booked where they were kept; these were accepted with them.
        self._ledger.accepted(SIGNAL, findings.dropped)
        self._ledger.dropped(SIGNAL, "field_type", findings.dropped)
        for reason, count in findings.repairs.items():
            self._ledger.repaired(SIGNAL, reason, count)
        yield Response(202, _TAKEN)

    def _mend(self, payload: Json, sender: Sender, now_ns: int) -> None:
        payload["Hostname"] = ""
        payload["Env"] = payload["Env"] or self._env
        payload["Lang"] = payload["Lang"] or sender.language
        payload["TracerVersion"] = payload["TracerVersion"] or sender.tracer_version
        payload["ContainerID"] = payload["ContainerID"] or sender.container_id
        for bucket in payload["Stats"]:
            start_ns = bucket["Start"]
            mended_ns = min(max(start_ns, now_ns - COMPLETE_NS), now_ns)
            bucket["Start"] = mended_ns - mended_ns % BUCKET_NS
            if mended_ns != start_ns:
                bucket["AgentTimeShift"] = max(bucket["Start"] - start_ns, _I64_MIN)

    def _read_buckets(self, reader: Reader, payload: Json, findings: Findings) -> Iterator[None]:
        count = reader.read_array() or 0
        if count > BUCKETS_MAX:
            raise ProtocolError(413, "too_many_buckets", f"more than {BUCKETS_MAX:,} buckets")
        buckets = payload["Stats"] = []
        for index in range(count):
            bucket = new_bucket()
            try:
                steps = fill_in_steps(bucket, self._bucket_fields, reader, findings)
                if steps is not None:
                    yield from steps
            except WrongType as fault:
                raise fault.inside(f"bucket {index}") from None
            buckets.append(bucket)
            yield None

    def _read_groups(self, reader: Reader, bucket: Json, findings: Findings) -> Iterator[None]:
        # Imported here: nothing is encoded before the port is open.
        import msgspec

        encode = msgspec.msgpack.encode
        count = reader.read_array() or 0
        findings.spans += count
        if findings.spans > GROUPS_MAX:
            raise ProtocolError(413, "too_many_groups", f"more than {GROUPS_MAX:,} groups")
        groups = bucket["Stats"] = []
        stop_at = 0
        for index in range(count):
            start = reader.offset
            if start >= stop_at or not index % GROUPS_A_STEP:
                stop_at = start + STEP_BYTES
                yield None
            group = new_group()
            try:
                steps = fill_in_steps(group, _GROUP_FIELDS, reader, findings)
                if steps is not None:
                    yield from steps
            except WrongType as fault:
                findings.drop_span(fault.inside(f"group {index}"))
                reader.offset = start
                yield from reader.skip_in_steps() or ()
            else:
                findings.take_span()
                self._hide(group)
                groups.append(msgspec.Raw(encode(group)))

    def _hide(self, group: Json) -> None:
        """Leave of a resource what a span's would be, so that the two are found together."""
        resource = group["Resource"]
        if group["Type"] in _SQL_TYPES and resource:
            group["Resource"] = self._obfuscate_query(resource, group["DBType"].lower())
        elif group["Type"] in _REDIS_TYPES:
            group["Resource"] = quantize_redis(resource)
        replace_group(group, self._replace_rules)
        # Not before: a query that is cut is another query.
        group["Resource"] = _cut(group["Resource"], RESOURCE_BYTES_MAX)


def _cut(text: str, bytes_max: int) -> str:
    if len(text) <= bytes_max and text.isascii():
        return text
    # What an operator's rule wrote may hold what is no character.
    return cut_text(encode_text(text), bytes_max).decode()


def _text(bytes_max: int) -> Read:
    def read(reader: Reader, findings: Findings) -> object:
        return _cut(read_text(reader, findings, bytes_max), bytes_max)

    return read


def _read_resource(reader: Reader, findings: Findings) -> object:
    """Cut when it is hidden."""
    return read_text(reader, findings)


def _number(low: int, high: int) -> Read:
    def read(reader: Reader, findings: Findings) -> object:
        start = reader.offset
        if reader.kind() == msgpack.FLOAT:
            # JavaScript's numbers are floats; those of its own that are whole are meant so.
            number = reader.read_number() or 0.0
            value = int(number) if number.is_integer() else high + 1
        else:
            value = reader.read_integer() or 0
        if low <= value <= high:
            return value
        raise WrongType(f"an integer from {low} to {high}", "another number", start)

    return read


def _read_flag(reader: Reader, findings: Findings) -> object:
    return reader.read_boolean() or False


def _read_texts(reader: Reader, findings: Findings) -> object:
    start = reader.offset
    count = reader.read_array() or 0
    if count > TAGS_MAX:
        raise WrongType(f"at most {TAGS_MAX} tags", "more", start)
    return [_WORD(reader, findings) for _ in range(count)]


def _summary(key: str) -> Callable[[Reader, Json, Findings], Steps]:
    """A sketch; some encoders write bytes as text, others as an array of numbers."""

    def read(reader: Reader, group: Json, findings: Findings) -> Steps:
        if reader.kind() == msgpack.ARRAY:
            return _read_octets(reader, group, key)
        start = reader.offset
        octets = reader.read_text() or b""
        _check_size(len(octets), start)
        group[key] = octets
        return None

    return read


def _check_size(octets: int, start: int) -> None:
    if octets > SKETCH_BYTES_MAX:
        raise WrongType(f"a sketch of at most {SKETCH_BYTES_MAX:,} bytes", "a larger one", start)


def _read_octets(reader: Reader, group: Json, key: str) -> Iterator[None]:
    start = reader.offset
    octets = bytearray()
    are_octets = True
    left = reader.read_array() or 0
    _check_size(left, start)
    while left:
        # In their usual formats as many as come, or one in another.
        numbers = reader.read_indices(min(left, OCTETS_A_STEP)) or [reader.read_integer() or 0]
        left -= len(numbers)
        if min(numbers) >= 0 and max(numbers) < 256:
            octets += bytes(numbers)
        else:
            are_octets = False
        yield None
    if not are_octets:
        raise WrongType("the bytes of a sketch", "other numbers", start)
    group[key] = bytes(octets)


def _pass_over(reader: Reader, target: Json, findings: Findings) -> Steps:
    """Holds the place of what the receiver reads itself."""
    return reader.skip_in_steps()


def _fields(reads: dict[str, Read], lenient: bool = False) -> Fields[Json]:
    """How to read a struct: each field into the target's key of the same name.

    Args:
        lenient: A value of a wrong type is left out.
    """

    def field(key: str, read: Read) -> Callable[[Reader, Json, Findings], Steps]:
        def strictly(reader: Reader, target: Json, findings: Findings) -> None:
            target[key] = read(reader, findings)

        def leniently(reader: Reader, target: Json, findings: Findings) -> Steps:
            value, steps = attempt_in_steps(read, "field_type", reader, findings)
            target[key] = target[key] if value is None else value
            return steps

        return leniently if lenient else strictly

    return {key.encode(): field(key, read) for key, read in reads.items()}


_WORD = _text(TEXT_BYTES_MAX)
_COUNT = _number(0, U64_MAX)

# In the order of the messages: a struct may come as the array of its values.
_GROUP_FIELDS: Fields[Json] = {
    **_fields(
        {
            "Service": _WORD,
            "Name": _WORD,
            "Resource": _read_resource,
            "HTTPStatusCode": _number(0, _U32_MAX),
            "Type": _WORD,
            "DBType": _WORD,
            "Hits": _COUNT,
            "Errors": _COUNT,
            "Duration": _COUNT,
        }
    ),
    b"OkSummary": _summary("OkSummary"),
    b"ErrorSummary": _summary("ErrorSummary"),
    **_fields(
        {
            "Synthetics": _read_flag,
            "TopLevelHits": _COUNT,
            "SpanKind": _WORD,
            "PeerTags": _read_texts,
            "IsTraceRoot": _number(0, _I32_MAX),
            "GRPCStatusCode": _WORD,
            "HTTPMethod": _WORD,
            "HTTPEndpoint": _WORD,
            "srv_src": _WORD,
            "SpanDerivedPrimaryTags": _read_texts,
            "AdditionalMetricTags": _read_texts,
        }
    ),
}
_BUCKET_FIELDS: Fields[Json] = {
    **_fields({"Start": _COUNT, "Duration": _COUNT}),
    b"Stats": _pass_over,
    **_fields({"AgentTimeShift": _number(_I64_MIN, _I64_MAX)}),
}
_PAYLOAD_FIELDS: Fields[Json] = {
    **_fields({"Hostname": _WORD, "Env": _WORD, "Version": _WORD}, lenient=True),
    b"Stats": _pass_over,
    **_fields(
        {
            "Lang": _WORD,
            "TracerVersion": _WORD,
            "RuntimeID": _WORD,
            "Sequence": _COUNT,
            "AgentAggregation": _WORD,
            "Service": _WORD,
            "ContainerID": _WORD,
            "Tags": _read_texts,
            "GitCommitSha": _WORD,
            "ImageTag": _WORD,
            "ProcessTagsHash": _COUNT,
            "ProcessTags": _text(RESOURCE_BYTES_MAX),
        },
        lenient=True,
    ),
}
