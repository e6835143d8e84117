"""All ways through the trace pipeline side by side: the same bytes in, everything seen compared."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

from kit.clock import HandClock
from kit.payloads import START_NS
from mini_agent import twins
from mini_agent.errors import AgentError
from mini_agent.ledger import Ledger
from mini_agent.traces import (
    decode,
    decode_v05,
    decode_v07,
    encode,
    lenient,
    orderly,
    receiver,
    span,
)
from mini_agent.traces.enrich import Enrichment
from mini_agent.traces.filters import Filters
from mini_agent.traces.obfuscate import Obfuscator
from mini_agent.traces.obfuscate.replace import read_rules
from mini_agent.traces.receiver import TraceReceiver
from mini_agent.traces.stats import Stats
from mini_agent.wire.http import Request

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mini_agent.forward.payload import Record


@contextlib.contextmanager
def plain_decoder() -> Iterator[None]:
    """Every trace goes the plain way: traces in order are read by msgspec."""
    with contextlib.ExitStack() as undo:
        for module, name in (
            (decode, "read_trace"),
            (decode_v07, "read_trace"),
            (decode_v05, "read_table"),
        ):
            undo.callback(setattr, module, name, getattr(module, name))
            setattr(module, name, lambda *_: None)
        yield


@contextlib.contextmanager
def lenient_decoder() -> Iterator[None]:
    """Every trace goes the way of those that are not in order."""
    read_trace = orderly.Orderly.read_trace
    with plain_decoder():
        orderly.Orderly.read_trace = _leave  # type: ignore[method-assign]
        try:
            yield
        finally:
            orderly.Orderly.read_trace = read_trace  # type: ignore[method-assign]


def _leave(*_: object) -> decode.Steps:
    yield from ()
    return None


@contextlib.contextmanager
def short_windows() -> Iterator[None]:
    """Every trace of several spans is worked on as if it were a long one of large spans."""
    short: tuple[tuple[Any, str, int], ...] = (
        (receiver, "SPANS_AT_ONCE_MAX", 1),
        (receiver, "LOAD_AT_ONCE_MAX", 1),
        (span, "SPANS_A_STEP", 2),
        (lenient, "OBJECTS_A_STEP", 1),
        (decode, "OBJECTS_A_STEP", 1),
        (decode, "TAGS_A_STEP", 2),
        (decode, "OCTETS_A_STEP", 2),
        (encode, "FIELDS_A_STEP", 1),
    )
    with contextlib.ExitStack() as undo:
        for module, name, number in short:
            undo.callback(setattr, module, name, getattr(module, name))
            setattr(module, name, number)
        yield


class Side:
    """One receiver with all it reaches, and everything that can be seen of it."""

    def __init__(self, **settings: Any) -> None:
        self._ledger = Ledger()
        self._kept: list[Record] = []
        clock = HandClock(START_NS)
        self._stats = Stats("none", self._keep_stats, self._ledger, clock)
        self._stats_kept: list[Record] = []
        self._receiver = TraceReceiver(
            self._keep,
            settings.get("enrichment", AZURE),
            self._ledger,
            settings.get("body_bytes_max", 1 << 20),
            clock,
            settings.get("filters"),
            settings["make_obfuscator"]() if "make_obfuscator" in settings else None,
            self._stats,
        )

    def _keep(self, records: list[Record]) -> None:
        self._kept += records

    def _keep_stats(self, records: list[Record]) -> None:
        self._stats_kept += records

    def take(self, body: bytes, version: str = "v04", **headers: str) -> Any:
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        take = getattr(self._receiver, f"take_{version}")
        try:
            answer = take(Request("POST", "/traces", "", names, body))
            seen: Any = (answer.status, answer.body)
        except AgentError as fault:
            seen = (type(fault), str(fault))
        for _ in self._stats.flush(everything=True):
            pass
        records = [(record.count, record.body) for record in self._kept]
        stats = [(record.count, record.body) for record in self._stats_kept]
        self._kept.clear()
        self._stats_kept.clear()
        return seen, records, stats, self._ledger.snapshot({})


AZURE = Enrichment(
    "azurefunction",
    {"functionname": "orders"},
    {"_dd.serverless_compat_version": "1.2.3", "region": "4111 1111 1111 1111"},
    {"aas.site.name": "orders", "env": "From Host"},
    "team:shop",
)

SETTINGS: dict[str, dict[str, Any]] = {
    "usual": {},
    "local, small bodies": {
        "enrichment": Enrichment(None, {}, {}, {}, ""),
        "body_bytes_max": 4000,
    },
    "everything hidden": {
        "make_obfuscator": lambda: Obfuscator(
            url_query_removed=True,
            url_digits_removed=True,
            redis_commands="values",
            memcached_commands="values",
            documents={},
            stacks_removed=True,
            cache_characters_max=10_000,
            replace_rules=read_rules('[{"name":"*","pattern":"prod","repl":"p"}]')[0],
        )
    },
    "remembered": {
        "make_obfuscator": lambda: Obfuscator(documents={}, cache_characters_max=100_000)
    },
    "values hidden": {
        "make_obfuscator": lambda: Obfuscator(
            url_query_removed=True,
            url_digits_removed=True,
            redis_commands="values",
            documents={},
            cache_characters_max=100_000,
        )
    },
    "filtered": {"filters": Filters(ignore_resources=["health"], reject=["http.method:POST"])},
}


def assert_same(body: bytes, version: str = "v04", **headers: str) -> None:
    """With every one of SETTINGS all ways keep, answer, count and book the same."""
    for name, each in SETTINGS.items():
        express = Side(**each).take(body, version, **headers)
        with lenient_decoder():
            lenient = Side(**each).take(body, version, **headers)
        assert express == lenient, name
        if twins.running() == twins.COMPILED and not each:
            # The settings are for what comes behind the decoder.
            with plain_decoder():
                plain = Side().take(body, version, **headers)
            assert plain == lenient, name
        with short_windows():
            windowed = Side(**each).take(body, version, **headers)
            assert windowed == express, name
            if not each:
                with lenient_decoder():
                    assert Side().take(body, version, **headers) == express
