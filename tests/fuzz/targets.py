"""What `make fuzz` plays: functions over bytes that come from outside, and what must hold.

Every target gives a value or the one named error; anything else that is raised is a fault. Where
two of our functions, or ours and an official one, say the same thing, they are compared.

A target is made in the process that plays it, so that only its own modules are measured.
"""

from __future__ import annotations

import json
import zlib
from functools import partial
from ipaddress import AddressValueError, IPv6Address
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
from kit import protos, stats, tables
from kit.clock import HandClock
from kit.http_client import MemoryClient, chunked, request
from kit.payloads import SPAN_KEYS, as_array, encode, make_payload, make_span, make_traces
from kit.queries import DATABASES, PARTS, hostile
from kit.twins import assert_same

from mini_agent.config import Config
from mini_agent.errors import ConfigError, ProtocolError
from mini_agent.forward.batch import MAGIC, encode_record, read_records
from mini_agent.forward.payload import Kind, Record
from mini_agent.ledger import Ledger
from mini_agent.listen.http import HttpLimits, HttpServer
from mini_agent.traces import stats_payload
from mini_agent.traces.decode import decode_v04
from mini_agent.traces.decode_json import decode_json
from mini_agent.traces.decode_v05 import decode_v05
from mini_agent.traces.decode_v07 import decode_v07
from mini_agent.traces.encode import AGENT_PAYLOAD_PREFIX
from mini_agent.traces.enrich import Enrichment
from mini_agent.traces.filters import Filters
from mini_agent.traces.lenient import Findings
from mini_agent.traces.normalize import normalize_metric_name, normalize_tag
from mini_agent.traces.obfuscate import Obfuscator
from mini_agent.traces.obfuscate.automaton import Automaton
from mini_agent.traces.obfuscate.cards import is_card
from mini_agent.traces.obfuscate.documents import DocumentRules, obfuscate_document
from mini_agent.traces.obfuscate.ip import is_ipv6, quantize_peer_ips
from mini_agent.traces.obfuscate.memcached import obfuscate_memcached
from mini_agent.traces.obfuscate.redis import (
    obfuscate_redis,
    quantize_redis,
    remove_redis_arguments,
)
from mini_agent.traces.obfuscate.replace import read_rules
from mini_agent.traces.obfuscate.sql import obfuscate_sql
from mini_agent.traces.obfuscate.url import obfuscate_url
from mini_agent.traces.receiver import TraceReceiver
from mini_agent.traces.sender import Sender
from mini_agent.traces.stats import Stats
from mini_agent.traces.stats_receiver import StatsReceiver
from mini_agent.viewer.read import read_payload
from mini_agent.wire.http import Request, Response, Route

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

CORPUS = Path(__file__).resolve().parents[1] / "corpus"

BODY_BYTES_MAX = 3_200_000
SPANS_A_PIECE = 10
STATS_KIND = Kind(
    "stats", "stats", "/p", "t", stats_payload.PREFIX, BODY_BYTES_MAX,
    suffix=stats_payload.suffix(False), counted=True,
)  # fmt: skip

# No rule of ours makes a text longer than this many times, and a few characters: a character of
# four bytes is twelve once it is escaped in a URL.
GROWTH_MAX = 12
SLACK = 64


class Target:
    """One thing to play.

    Args:
        run: Raises when something does not hold.
        seeds: What is tried first.
        words: What inputs are likely to hold.
    """

    def __init__(
        self, run: Callable[[bytes], object], seeds: Iterable[bytes], words: Iterable[str] = ()
    ) -> None:
        self.run = run
        self.seeds = list(seeds)
        self.words = list(words)


# Bodies of tracers


def _traces() -> list[list[dict[str, Any]]]:
    rich = make_span(
        type="sql",
        resource="SELECT 1",
        meta={"_dd.p.tid": "640cfd8d00000000", "http.url": "http://u:p@h/1?a=b", "card": "4111"},
        meta_struct={"a": b"\x80"},
        span_links=[{"trace_id": 1, "span_id": 2, "attributes": {"a": "b"}, "flags": 1}],
        span_events=[
            {
                "time_unix_nano": 1,
                "name": "e",
                "attributes": {
                    "a": {"type": 0, "string_value": "x"},
                    "b": {"type": 4, "array_value": {"values": [{"type": 2, "int_value": 1}]}},
                    "c": 1.5,
                },
            }
        ],
    )
    kinds = ("redis", "valkey", "memcached", "mongodb", "elasticsearch", "cassandra", "http")
    typed = [make_span(type=kind, resource="GET a", meta={"db.type": "mysql"}) for kind in kinds]
    return [*make_traces(2, 2), [rich], typed]


def _recorded(version: str) -> list[bytes]:
    return [path.read_bytes() for path in sorted(CORPUS.glob(f"{version}-*.msgpack"))]


def _recorded_in_pieces() -> list[bytes]:
    """What was recorded on v0.4, cut to pieces that are not too long to be changed in many ways."""
    traces = [trace for body in _recorded("v04") for trace in msgspec.msgpack.decode(body)]
    return [
        encode([trace[start : start + SPANS_A_PIECE]])
        for trace in traces
        for start in range(0, len(trace), SPANS_A_PIECE)
    ]


def _v04_seeds() -> list[bytes]:
    traces = _traces()
    arrays = [[as_array(span) for span in trace] for trace in traces]
    each = [encode([trace]) for trace in traces]
    return [*_recorded_in_pieces(), encode(traces), encode(arrays), make_payload(1, 1), *each]


def _json_seeds() -> list[bytes]:
    traces = [[{**span, "meta_struct": None} for span in trace] for trace in _traces()]
    return [json.dumps(traces).encode(), *(json.dumps([trace]).encode() for trace in traces)]


def _v05_seeds() -> list[bytes]:
    span = [1, 2, 3, 11, 12, 13, 14, 15, 1, {4: 5}, {6: 2.5}, 4]
    texts = ["", "web", "request", "GET /", "sql", "env", "size"]
    return [*_recorded("v05"), encode([texts, [[span, span]]])]


def _v07_seeds() -> list[bytes]:
    chunks = [
        {"priority": 1, "origin": "rum", "spans": trace, "tags": {"a": "b"}, "dropped_trace": False}
        for trace in _traces()
    ]
    frame = {
        "container_id": "c",
        "language_name": "go",
        "language_version": "1",
        "tracer_version": "2",
        "runtime_id": "r",
        "tags": {"a": "b"},
        "env": "prod",
        "hostname": "box",
        "app_version": "7",
    }
    return [encode({**frame, "chunks": chunks}), encode({"chunks": chunks[:1], **frame})]


_V07_KEYS = ("chunks", "spans", "priority", "origin", "tags", "dropped_trace", "env", "hostname")
_JSON_BLANKS = b" " * 33_000
_JSON_WORDS = (*(f'"{key}":' for key in SPAN_KEYS), "[", "{", "null", "1e999", "NaN", '"\\ud800"')


def _decode(decode: Callable[[bytes, Findings], Iterable[Any]], body: bytes) -> None:
    findings = Findings()
    try:
        units = [unit for unit in decode(body, findings) if unit is not None]
    except ProtocolError:
        return
    assert findings.dropped <= findings.spans
    # Some of a span is read only when it is asked for.
    for unit in units:
        for span in getattr(unit, "spans", unit):
            assert isinstance(span.service + span.name + span.resource + span.type, str)
            assert all(isinstance(each, str) for item in span.meta_items() for each in item)
            assert all(isinstance(number, float | int) for _, number in span.metric_items())


def decode_v04_target() -> Target:
    return Target(partial(_decode, decode_v04), _v04_seeds(), SPAN_KEYS)


def twins_target(version: str, seeds: Callable[[], Iterable[bytes]]) -> Target:
    """Compiled and plain, as far as there is something compiled."""

    def run(body: bytes) -> None:
        assert_same(body, version)

    return Target(run, seeds(), SPAN_KEYS)


def decode_json_target() -> Target:
    def run(body: bytes) -> None:
        _decode(decode_json, body)
        # So long it is no longer read in one step.
        _decode(decode_json, body + _JSON_BLANKS)

    return Target(run, _json_seeds(), _JSON_WORDS)


def decode_v05_target() -> Target:
    return Target(partial(_decode, decode_v05), _v05_seeds())


def decode_v07_target() -> Target:
    def decode(body: bytes, findings: Findings) -> Iterable[Any]:
        return decode_v07(body, Sender({}), findings)

    return Target(partial(_decode, decode), _v07_seeds(), (*SPAN_KEYS, *_V07_KEYS))


class _Agent:
    """Everything between a request of traces and the journal, with all rules on."""

    def __init__(self) -> None:
        self._obfuscator = Obfuscator(
            url_query_removed=True,
            url_digits_removed=True,
            redis_commands="values",
            valkey_commands="arguments",
            memcached_commands="values",
            documents={
                kind: DocumentRules(("keep",), ("sql",))
                for kind in ("mongodb", "elasticsearch", "opensearch")
            },
            stacks_removed=True,
            replace_rules=read_rules('[{"name": "*", "pattern": "secret", "repl": "?"}]')[0],
            cache_characters_max=100_000,
        )
        self._filters = Filters(ignore_resources=("^/health",), reject=("drop:me",))
        self._enrichment = Enrichment(
            "azurefunction", {"functionname": "f"}, {"a.b": "c"}, {"aas.site.name": "s"}, "t:1"
        )
        self._message = protos.load().AgentPayload

    def take(self, version: str, body: bytes) -> None:
        """Give a body to a fresh receiver; what it keeps is read by the official runtime."""
        ledger, clock = Ledger(), HandClock()
        kept: list[Record] = []
        counted: list[Record] = []

        def keep(records: list[Record]) -> None:
            kept.extend(records)
            ledger.accepted("spans", sum(record.count for record in records))

        counts = Stats("env", counted.extend, ledger, clock)
        receiver = TraceReceiver(
            keep, self._enrichment, ledger, BODY_BYTES_MAX, clock,
            self._filters, self._obfuscator, counts,
        )  # fmt: skip
        try:
            answer = getattr(receiver, f"take_{version}")(Request("POST", "/", "", {}, body))
        except ProtocolError:
            assert not kept
            return
        assert answer.status == 200
        count = sum(record.count for record in kept)
        assert ledger.imbalance({"spans": count}) == {}
        finished = AGENT_PAYLOAD_PREFIX + b"".join(record.body for record in kept)
        payloads = self._message.FromString(finished).tracerPayloads
        spans = sum(len(chunk.spans) for each in payloads for chunk in each.chunks)
        assert spans == count
        assert sum(len(part.spans) for part in read_payload(finished)) == count
        for _ in counts.flush(everything=True):
            pass
        if counted:
            stats.entries(STATS_KIND.join(counted))


def receive_v04_target() -> Target:
    seeds = [*_v04_seeds(), *_json_seeds()]
    return Target(partial(_Agent().take, "v04"), seeds, SPAN_KEYS)


def receive_v05_target() -> Target:
    return Target(partial(_Agent().take, "v05"), _v05_seeds())


def receive_v07_target() -> Target:
    return Target(partial(_Agent().take, "v07"), _v07_seeds(), (*SPAN_KEYS, *_V07_KEYS))


def stats_v06_target() -> Target:
    group = stats_payload.new_group()
    bucket = {**stats_payload.new_bucket(), "Stats": [group, {**group, "PeerTags": ["a:b"]}]}
    payload = {**stats_payload.new_payload(), "Stats": [bucket]}
    arrays = [[1, 2, [list(group.values())], 0]]

    def run(body: bytes) -> None:
        kept: list[Record] = []
        receiver = StatsReceiver("env", kept.extend, Ledger(), HandClock())
        try:
            answer = receiver.take_v06(Request("POST", "/", "", {}, body))
        except ProtocolError:
            assert not kept
            return
        assert answer.status == 202
        assert len(stats.entries(STATS_KIND.join(kept))) == sum(record.count for record in kept)

    seeds = [encode(payload), encode({**payload, "Stats": arrays}), encode(list(payload.values()))]
    return Target(run, seeds, (*group, *bucket, *payload))


# Bytes that were ours


def viewer_target() -> Target:
    bodies: list[bytes] = []
    receiver = TraceReceiver(
        lambda records: bodies.extend(record.body for record in records),
        Enrichment(None, {}, {}, {}, ""),
        Ledger(),
        BODY_BYTES_MAX,
    )
    for seed in _v04_seeds():
        receiver.take_v04(Request("POST", "/", "", {}, seed))

    def run(body: bytes) -> None:
        try:
            parts = read_payload(body)
        except ProtocolError:
            return
        for part in parts:
            for row in part.spans:
                assert all(msgspec.json.decode(text) for text in row[9:] if text is not None)

    return Target(run, [AGENT_PAYLOAD_PREFIX + body for body in bodies])


def batch_target() -> Target:
    def sound(headers: bytes, body: bytes) -> bytes:
        numbers = b"".join(n.to_bytes(4, "little") for n in (len(headers), len(body), 1))
        crc = zlib.crc32(body, zlib.crc32(headers, zlib.crc32(numbers)))
        return b"".join((b"\xc9JR\xd6", numbers, crc.to_bytes(4, "little"), headers, body))

    def run(content: bytes) -> None:
        damaged = [record.body for record in read_records(content)]
        # A sound record is found again, whatever stands in front of it.
        header, _, body = content.partition(b"\0")
        sender = Sender({"datadog-meta-lang": header.decode("latin-1")})
        sent = Record(1, sender.headers, body)
        [found] = read_records(MAGIC + encode_record(sent))
        assert (found.count, found.body) == (1, body)
        assert dict(found.headers) == dict(sent.headers) or b"\n" in header
        assert damaged == [record.body for record in read_records(content)]

    record = encode_record(Record(3, {"datadog-meta-lang": "python"}, b"body"))
    seeds = [MAGIC + record * 3, MAGIC + record[:-2] + record, sound(b"a:b\n", b"x"), b"go\0body"]
    return Target(run, seeds)


# HTTP


def http_target() -> Target:
    def echo(got: Request) -> Response:
        return Response(200, got.body or b"{}")

    def refuse(got: Request) -> Response:
        raise ProtocolError(400, "undecodable", "no")

    routes = {
        "/echo": Route(echo, frozenset({"POST", "PUT"}), takes_body=True),
        "/any": Route(echo, None, takes_body=False),
        "/bad": Route(refuse, None, takes_body=True),
    }
    limits = HttpLimits(
        body_bytes_max=1000, uploads_bytes_max=2000, header_bytes_max=500, drain_bytes_max=5000
    )

    def exchange(pieces: list[bytes]) -> list[int]:
        server = HttpServer(routes, limits, Ledger(), HandClock(), "cafe")  # type: ignore[arg-type]
        client = MemoryClient(server)
        client.send(*pieces)
        if client.is_open:
            client.finish_sending()
        # Behind a HEAD the bytes alone do not say where an answer ends.
        answers = [] if b"HEAD" in b"".join(pieces) else client.answers()
        client.read()
        client.transport.lose()
        assert server.upload_bytes == 0
        assert server.connection_count == 0
        return [answer.status for answer in answers]

    def run(sent: bytes) -> None:
        # The first byte says how long a piece is.
        length, sent = 1 + (sent[0] if sent else 0), sent[1:]
        pieces = [sent[at : at + length] for at in range(0, len(sent), length)]
        statuses = exchange(pieces)
        # How a request was cut must not matter, except to who waits for a "100 Continue".
        assert b"expect" in sent.lower() or statuses == exchange([sent])

    seeds = [
        request("POST", "/echo", body=b"hello"),
        request("GET", "/any") * 3,
        chunked("/echo", b"abc", b"defg"),
        request("POST", "/echo", "Expect: 100-continue", body=b"x"),
        request("PUT", "/bad", "Connection: close", body=b"x" * 1200),
        request("HEAD", "/nowhere"),
        request("OPTIONS", "*"),
        b"POST /echo HTTP/1.0\r\nContent-Length: 2\r\n\r\nab",
    ]
    words = "GET POST HTTP/1.1 Content-Length: Transfer-Encoding: chunked Expect: Host: /echo /any"
    both = [bytes((size,)) + seed for seed in seeds for size in (0, 9, 255)]
    return Target(run, both, (*words.split(), "\r\n", "\r\n\r\n", "100-continue", "Upgrade:"))


# Obfuscation: texts of spans are sound Unicode by then


def _text(written: bytes) -> str:
    return written.decode("utf-8", "replace")


def _table(name: str) -> list[str]:
    return [case["input"] for case in tables.load(f"obfuscate/{name}")]


def _bounded(text: str, result: str) -> str:
    assert len(result) <= GROWTH_MAX * len(text) + SLACK
    # It can be written.
    result.encode()
    return result


def _sql_target(dbms: str) -> Target:
    cached = Obfuscator(documents={}, cache_characters_max=50_000)

    def run(written: bytes) -> None:
        query = _text(written)
        result = _bounded(query, obfuscate_sql(query, dbms))
        assert cached.obfuscate_query(query, dbms) == result
        assert cached.obfuscate_query(query, dbms) == result

    texts = [*_table("sql"), *hostile(2000).values()]
    return Target(run, [text.encode() for text in texts], (part for part in PARTS if part.strip()))


def _texts_target(
    functions: Iterable[Callable[[str], str]], names: Iterable[str], words: str = ""
) -> Target:
    """Several functions from text to text."""
    several = list(functions)

    def run(written: bytes) -> None:
        text = _text(written)
        for function in several:
            _bounded(text, function(text))

    seeds = [text.encode() for name in names for text in _table(name)]
    return Target(run, seeds, words.split())


def redis_target() -> Target:
    functions = (quantize_redis, obfuscate_redis, remove_redis_arguments, obfuscate_memcached)
    names = ("redis", "redis_resources", "memcached")
    words = "SET GET AUTH CONFIG EVAL GEOADD HSET MSET ZADD BITFIELD SORT HELLO EX NX XADD ..."
    return _texts_target(functions, names, words)


def url_target() -> Target:
    flags = [(query, digits) for query in (False, True) for digits in (False, True)]

    def remove(query: bool, digits: bool, text: str) -> str:
        return obfuscate_url(text, query, digits)

    functions = [partial(remove, query, digits) for query, digits in flags]
    return _texts_target(functions, ["url"], "http:// :// @ ? # % %2f [::1] : //")


def documents_target() -> Target:
    plain, special = DocumentRules(), DocumentRules(("keep",), ("sql",))

    def run(written: bytes) -> None:
        text = _text(written)
        _bounded(text, obfuscate_document(text, special))
        result = _bounded(text, obfuscate_document(text, plain))
        try:
            # NaN and its like are not JSON: int refuses them.
            json.loads(text, parse_constant=int)
        except (ValueError, RecursionError):
            return
        # What is JSON stays JSON, and nothing but placeholders is left in it.
        waiting = [json.loads(result)]
        while waiting:
            value = waiting.pop()
            if isinstance(value, dict | list):
                waiting += value.values() if isinstance(value, dict) else value
            else:
                assert value == "?", "a value got through"

    texts = [*_table("documents"), '{"keep":{"a":1},"sql":"SELECT 1","b":[1,2]}']
    words = '{" ":" "} [ ] \\u00e9 \\ud800 null true -1.5e9 "keep": "sql": , :'
    return Target(run, [text.encode() for text in texts], words.split())


def cards_target() -> Target:
    def run(written: bytes) -> None:
        text = _text(written)
        assert not is_card(text, True) or is_card(text, False)

    return Target(run, [text.encode() for text in _table("cards")])


def ip_target() -> Target:
    def run(written: bytes) -> None:
        text = _text(written)
        _bounded(text * 20, quantize_peer_ips(text))
        try:
            expected = "%" not in text and bool(str(IPv6Address(text)))
        except AddressValueError:
            expected = False
        assert is_ipv6(text) == expected

    seeds = (
        "10.0.0.1:80,db.example.com ::1 fe80::1%eth0 [2001:db8::1]:443 http://1.2.3.4/ip-10-1-2-3 "
        "::ffff:1.2.3.4 1:2:3:4:5:6:7:8 1:2:3:4:5:6:7:: dnspoll:///10.21.120.145:6400"
    )
    return Target(
        run, [seed.encode() for seed in seeds.split()], ("::", "http://", "ip-", "[", "]")
    )


def names_target() -> Target:
    def run(written: bytes) -> None:
        text = _text(written)
        for normalize in (normalize_tag, normalize_metric_name):
            result = _bounded(text, normalize(text))
            assert normalize(result) == result

    texts = ("Env:Prod", "a..b__c--d", "1abc", "x" * 250, "\u0130\u24b6\u1e9e\u01c5", "__a.b_")
    return Target(run, [text.encode() for text in texts])


def settings_target() -> Target:
    entries = [entry for _, entry in Config.entries()]

    def run(written: bytes) -> None:
        # The first byte chooses the setting; what is not UTF-8 reaches it as it does in environ.
        entry = entries[(written[0] if written else 0) % len(entries)]
        text = written[1:].replace(b"\0", b"").decode("utf-8", "surrogateescape")
        try:
            config = Config.read({entry.variables[0]: text})
        except ConfigError:
            return
        value = getattr(config, entry.name)
        for warning in config.warnings:
            assert len(warning) < 1000
        if not (entry.form.secret or value is None or isinstance(value, float)):
            # What is shown reads as the same value again.
            shown = entry.form.show(value)
            again = getattr(Config.read({entry.variables[0]: shown}), entry.name)
            assert not shown.strip() or again == value, entry.name

    values = "1 true 8126 10MiB 3.5s off a:b,c:d http://h:1/p https://[::1]:8 datadoghq.eu error"
    values += ' "a,b",c ["a","b:c"] proxy:3128 127.0.0.1'
    seeds = [
        bytes((index,)) + value.encode()
        for index in range(len(entries))
        for value in values.split(" ")
    ]
    return Target(run, seeds, ("MiB", "://", '["', '"]', "1_0", "inf", "nan"))


def rules_target() -> Target:
    def run(written: bytes) -> None:
        text = _text(written)
        rules, complaints = read_rules(text)
        assert isinstance(rules, list)
        assert all(isinstance(complaint, str) for complaint in complaints)
        Filters(ignore_resources=(text,), require_regex=(text,), reject_regex=(f"a:{text}",))

    pattern = '[{"name":"*","pattern":"(?P<a>x)\\\\d+[[:alpha:]]\\\\pL","repl":"$1 ${a}"}]'
    seeds = [pattern, "[]", "[1]", '[{"name":"a"}]', "^GET /(?i:health)$", r"\pN\x{41}\Q.\E"]
    return Target(run, [seed.encode() for seed in seeds], ('"pattern":"', "(?", "{1,", "[^", "\\"))


def patterns_target() -> Target:
    def run(written: bytes) -> None:
        text, _, pattern = _text(written).partition("\0")
        try:
            automaton = Automaton(pattern)
        except ValueError:
            return
        found = automaton.find_all(text)
        if found is None:
            return
        assert automaton.matches(text) == bool(found)
        # In their order, and none in another.
        places = [place for slots in found for place in slots[:2]]
        assert places == sorted(places)
        assert all(0 <= place <= len(text) for place in places)

    pairs = {
        "aab": "(a+)+$",
        "Zeit=1": r"(?i)(\w+)=(?P<n>\d{1,3}?)",
        "a\nb": r"(?m)^b$|\Ba\b|[^a-c[:digit:]\]]*?",
        "xx": "(?x) ( a | ) # so\n {2,}",
        "\u00e9\u0130": r"\x{e9}+\u0130|(?s-i:.)",
    }
    words = ("(?:", "(?i)", "{2,3}", "[[:alpha:]]", "[^", "*?", "**", "|", r"\b", r"\z", "$")
    return Target(run, [f"{text}\0{each}".encode() for text, each in pairs.items()], words)


TARGETS: dict[str, Callable[[], Target]] = {
    "receive-v04": receive_v04_target,
    "receive-v05": receive_v05_target,
    "receive-v07": receive_v07_target,
    "decode-v04": decode_v04_target,
    "decode-json": decode_json_target,
    "decode-v05": decode_v05_target,
    "decode-v07": decode_v07_target,
    "twins-v04": partial(twins_target, "v04", _v04_seeds),
    "twins-v05": partial(twins_target, "v05", _v05_seeds),
    "twins-v07": partial(twins_target, "v07", _v07_seeds),
    "stats-v06": stats_v06_target,
    "viewer": viewer_target,
    "batch": batch_target,
    "http": http_target,
    **{
        f"sql-{dbms or 'any'}": partial(_sql_target, dbms)
        for dbms in DATABASES
        if dbms == dbms.lower()
    },
    "redis": redis_target,
    "url": url_target,
    "documents": documents_target,
    "cards": cards_target,
    "ip": ip_target,
    "names": names_target,
    "settings": settings_target,
    "rules": rules_target,
    "patterns": patterns_target,
}
