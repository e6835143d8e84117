"""What the settings make: kinds of payload, the destination, the rules for spans.

agent.py joins these; each function here turns settings into one of them, with plain values.
"""

from __future__ import annotations

import logging
import os

from mini_agent import __version__, entity, places
from mini_agent.errors import AgentError, DecodeError
from mini_agent.flow.repeat import Repeated
from mini_agent.forward.folder import Folder, Owner
from mini_agent.forward.intake import Delivered, Intake, Refused, RetryLater
from mini_agent.forward.payload import Kind
from mini_agent.traces import stats_payload
from mini_agent.traces.encode import AGENT_PAYLOAD_PREFIX
from mini_agent.traces.enrich import Enrichment
from mini_agent.traces.filters import Filters
from mini_agent.traces.obfuscate import Obfuscator
from mini_agent.traces.obfuscate.documents import DocumentRules
from mini_agent.traces.obfuscate.replace import read_rules
from mini_agent.traces.sender import SUMMED_HEADERS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from mini_agent.config import Config
    from mini_agent.flow.clock import Clock
    from mini_agent.forward.intake import Outcome
    from mini_agent.identity import Identity
    from mini_agent.traces.obfuscate.replace import ReplaceRule
    from mini_agent.viewer.store import TraceStore

log = logging.getLogger(__name__)

# The intake takes 3.2 MB before compression. Source: the Go agent's MaxPayloadSize.
TRACES_BODY_BYTES_MAX = 3_200_000

TRACES = Kind(
    name="traces",
    signal="spans",
    path="/api/v0.2/traces",
    content_type="application/x-protobuf",
    prefix=AGENT_PAYLOAD_PREFIX,
    body_bytes_max=TRACES_BODY_BYTES_MAX,
    summed_headers=SUMMED_HEADERS,
)


def _stats_kind(name: str, client_computed: bool) -> Kind:
    return Kind(
        name=name,
        signal="stats",
        path=stats_payload.PATH,
        content_type=stats_payload.CONTENT_TYPE,
        prefix=stats_payload.PREFIX,
        suffix=stats_payload.suffix(client_computed),
        counted=True,
        body_bytes_max=stats_payload.BODY_BYTES_MAX,
        units_max=stats_payload.BODY_GROUPS_MAX,
        # All that is known of this route; the traces' takes zstd too.
        compression="gzip",
    )


STATS = _stats_kind("stats", client_computed=False)
CLIENT_STATS = _stats_kind("clientstats", client_computed=True)
KINDS = {kind.name: kind for kind in (TRACES, STATS, CLIENT_STATS)}


def make_enrichment(config: Config, host: Identity) -> Enrichment:
    """The tags that say where the traced program ran."""
    return Enrichment(
        origin=host.origin,
        root_tags=host.root_tags,
        span_tags=host.span_tags,
        azure_tags=host.azure_tags,
        function_tags=config.tags,
    )


def make_filters(config: Config) -> Filters:
    """Which traces nobody wants; a pattern that is none is named and left out."""
    filters = Filters(
        ignore_resources=config.ignore_resources,
        require=config.filter_tags_require,
        reject=config.filter_tags_reject,
        require_regex=config.filter_tags_regex_require,
        reject_regex=config.filter_tags_regex_reject,
    )
    for warning in filters.warnings:
        log.warning("%s", warning)
    return filters


def make_replace_rules(config: Config) -> list[ReplaceRule]:
    """The operator's own rules; one that is none is named and left out."""
    rules, complaints = read_rules(config.replace_tags or "[]")
    for complaint in complaints:
        log.warning("DD_APM_REPLACE_TAGS: %s", complaint)
    return rules


def make_obfuscator(config: Config, replace_rules: Sequence[ReplaceRule] = ()) -> Obfuscator:
    """What is hidden in spans."""
    documents = {
        "mongodb": (config.mongodb_obfuscated, config.mongodb_kept, config.mongodb_sql),
        "elasticsearch": (
            config.elasticsearch_obfuscated,
            config.elasticsearch_kept,
            config.elasticsearch_sql,
        ),
        "opensearch": (
            config.opensearch_obfuscated,
            config.opensearch_kept,
            config.opensearch_sql,
        ),
    }
    memcached = "values" if config.memcached_command_kept else "all"
    return Obfuscator(
        replace_rules=replace_rules,
        url_query_removed=config.url_query_removed,
        url_digits_removed=config.url_digits_removed,
        redis_commands=_commands(config.redis_obfuscated, config.redis_arguments_removed),
        valkey_commands=_commands(config.valkey_obfuscated, config.valkey_arguments_removed),
        memcached_commands=memcached if config.memcached_obfuscated else "",
        cards=config.cards_hidden,
        cards_luhn=config.cards_luhn,
        cards_kept=config.cards_kept,
        documents={
            type_: DocumentRules(kept, sql) for type_, (on, kept, sql) in documents.items() if on
        },
        stacks_removed=config.stacks_removed,
        cache_characters_max=config.query_cache_size if config.query_cache else 0,
    )


def _commands(replaced: bool, arguments_removed: bool) -> str:
    if not replaced:
        return ""
    return "arguments" if arguments_removed else "values"


class _LocalStore:
    """The destination without an account: bodies go into the embedded store."""

    takes_packed = False

    def __init__(self, store: TraceStore, clock: Clock) -> None:
        self._store = store
        self._complaints = Repeated(clock)
        self.url = f"the local store {store.path}"

    def deliver(
        self, kind: Kind, headers: Mapping[str, str], body: bytes, packed: bool = False
    ) -> Outcome:
        """Store one traces body; blocks."""
        assert kind is TRACES, kind.name
        assert not packed
        try:
            self._store.add_payload(body)
        except DecodeError as error:
            log.error("a batch of our own cannot be read: %s", error)
            return Refused(error.status)
        except AgentError as error:
            if self._complaints.may("unavailable") is not None:
                log.warning("%s", error)
            return RetryLater("store_unavailable")
        return Delivered()


def make_destination(config: Config, host: Identity, clock: Clock) -> Intake | _LocalStore:
    """Where finished bodies go: the intake, or without an account the local store."""
    if not config.api_key:
        # Imported here: an agent with an account never needs SQLite.
        from mini_agent.viewer.store import TraceStore

        path = places.store_path(config, os.environ, host.environment)
        store = TraceStore(path, config.store_traces_max, clock)
        try:
            store.prepare()
        except AgentError as error:
            log.warning("%s; trying again later", error)
        return _LocalStore(store, clock)
    headers = {
        **entity.request_headers(),
        "user-agent": f"mini-agent/{__version__}",
        # Otherwise the intake answers 200 to everything. Source: reference-agent 4.10.
        "datadog-send-real-http-status": "1",
    }
    if config.external_env:
        headers["datadog-external-env"] = config.external_env
    return Intake(
        url=config.intake_url or f"https://trace.agent.{config.site}",
        api_key=config.api_key,
        headers=headers,
        proxy_url=config.proxy_url,
        no_proxy=config.no_proxy,
        compression_level=config.compression_level,
    )


def make_folder(config: Config, host: Identity, destination: str) -> Folder | None:
    """This process's journal folder, or None where the journal is switched off."""
    if not config.journal_bytes_max:
        return None
    owner = Owner(host.application or host.environment, destination, config.api_key or "")
    return Folder(places.journal_dir(config, os.environ, host.environment), owner)
