"""Obfuscation: what a span says, without the values its queries, commands and URLs carry.

Every other module here is one kind of text and a function from text to text; this one knows in
which fields of which spans they stand.

Source: reference-agent 5.2.
"""

from __future__ import annotations

from mini_agent.traces.express import SettledTexts
from mini_agent.traces.obfuscate.cache import ResultCache
from mini_agent.traces.obfuscate.cards import CARD_BEGINS, is_card, may_hold_card
from mini_agent.traces.obfuscate.documents import obfuscate_document
from mini_agent.traces.obfuscate.memcached import obfuscate_memcached
from mini_agent.traces.obfuscate.redis import (
    obfuscate_redis,
    quantize_redis,
    remove_redis_arguments,
)
from mini_agent.traces.obfuscate.replace import replace_tags
from mini_agent.traces.obfuscate.sql import obfuscate_sql
from mini_agent.traces.obfuscate.url import obfuscate_url
from mini_agent.traces.span import ARRAY, DOUBLE, INT, STRING
from mini_agent.wire.protobuf import encode_text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from mini_agent.traces.obfuscate.documents import DocumentRules
    from mini_agent.traces.obfuscate.replace import ReplaceRule
    from mini_agent.traces.span import AttributeValue, Span, SpanEvent, TraceChunk

    # A tag, or nothing for the resource, and what its text becomes.
    TextRule = tuple[str, Callable[[str], str]]

_PLACEHOLDER = "?"

# Texts that begin as card numbers do are less than this.
_BEHIND_CARDS = chr(ord(max(CARD_BEGINS)) + 1)
# No card number has fewer digits.
_CARD_CHARACTERS_MIN = 12

_URL = "http.url"

_QUERY_TYPES = ("sql", "cassandra")
_DBMS = "db.type"
_SQL_QUERY = "sql.query"
# Where else tracers write the query; the reference lets these through.
_SQL_TAGS = ("db.statement", "db.query.text")

_STACK_TAGS = ("error.stack", "exception.stacktrace")

# The tags of documents by the span's type.
_DOCUMENT_TAGS = {
    "elasticsearch": "elasticsearch.body",
    "mongodb": "mongodb.query",
    "opensearch": "opensearch.body",
}


class Obfuscator:
    """Changes spans as the operator set it; one owner, the receiver.

    Args:
        replace_rules: The operator's own rules; they come last and see what the others left.
        url_query_removed: Leave nothing of a URL's query.
        url_digits_removed: Replace the segments of a URL's path that have digits.
        redis_commands, valkey_commands: What becomes of raw commands: "" leaves them alone,
            "values" replaces what is known to be a value, "arguments" replaces everything
            behind the command.
        memcached_commands: The same for Memcached: "" or "values", or "all" for nothing left.
        cards: Look for card numbers.
        cards_luhn: Only those with a valid checksum.
        cards_kept: Tags that are not looked at.
        documents: The rules for JSON queries, by the type of span: `elasticsearch`, `mongodb`,
            `opensearch`; a type that is missing is left alone.
        stacks_removed: Replace stack traces.
        cache_characters_max: Most characters of SQL remembered with its results; 0 for none.
    """

    __slots__ = (
        "_cache",
        "_cards",
        "_cards_kept",
        "_cards_luhn",
        "_replace_rules",
        "_settled",
        "_stacks_removed",
        "_texts",
    )

    def __init__(
        self,
        *,
        replace_rules: Iterable[ReplaceRule] = (),
        url_query_removed: bool = False,
        url_digits_removed: bool = False,
        redis_commands: str = "",
        valkey_commands: str = "values",
        memcached_commands: str = "",
        cards: bool = True,
        cards_luhn: bool = True,
        cards_kept: Iterable[str] = (),
        documents: Mapping[str, DocumentRules],
        stacks_removed: bool = False,
        cache_characters_max: int = 0,
    ) -> None:
        self._replace_rules = tuple(replace_rules)
        self._cards = cards
        self._cards_kept = frozenset(cards_kept)
        self._cards_luhn = cards_luhn
        self._stacks_removed = stacks_removed
        self._cache = ResultCache(cache_characters_max)

        def without_secrets(url: str) -> str:
            return obfuscate_url(url, url_query_removed, url_digits_removed)

        url_rule = ((_URL, without_secrets),)
        # By type of span, what becomes of which tag; an empty one is the resource.
        self._texts: dict[str, tuple[TextRule, ...]] = {
            "web": url_rule,
            "http": url_rule,
            "redis": _command_rules("redis.raw_command", redis_commands),
            "valkey": _command_rules("valkey.raw_command", valkey_commands),
        }
        if memcached_commands:
            hide = obfuscate_memcached if memcached_commands == "values" else _leave_nothing
            self._texts["memcached"] = (("memcached.command", hide),)
        for kind, rules in documents.items():
            self._texts[kind] = ((_DOCUMENT_TAGS[kind], _document_rule(rules)),)
        # The same, for the compiled twin to follow; see TraceChunk.spans_to_obfuscate.
        self._settled = SettledTexts(
            look_at_all=stacks_removed or bool(self._replace_rules),
            cards=cards,
            texts=self._texts,
            query_types=_QUERY_TYPES,
            query=_obfuscate_query,
            url_tag=_URL,
            url_query_removed=url_query_removed,
            url_digits_removed=url_digits_removed,
            characters_max=cache_characters_max,
        )

    def obfuscate(self, chunk: TraceChunk) -> None:
        """Obfuscate all spans of a chunk, after tags were added to them. Never fails."""
        for span in chunk.spans_to_obfuscate(self._settled):
            self.obfuscate_span(span)

    def obfuscate_span(self, span: Span) -> None:
        """Obfuscate one span."""
        if self._cards:
            for event in span.events:
                self._hide_cards_in_event(event)
            self._hide_cards_in_tags(span)
        kind = span.type
        if kind in _QUERY_TYPES:
            self._obfuscate_sql(span)
        else:
            for tag, rule in self._texts.get(kind, ()):
                text = span.get_meta(tag) if tag else span.resource
                if not text:
                    continue
                changed = rule(text)
                if changed != text:
                    if tag:
                        span.set_meta(tag, changed)
                    else:
                        span.resource = changed
        if self._stacks_removed:
            _remove_stacks(span)
        if self._replace_rules:
            replace_tags(span, self._replace_rules)
            # What the operator wrote may hold what is no character.
            span.resource = encode_text(span.resource).decode()

    def obfuscate_query(self, query: str, dbms: str) -> str:
        """SQL without literals; queries that come again are looked up."""
        key = (query, dbms)
        result = self._cache.get(key)
        if result is None:
            result = obfuscate_sql(query, dbms)
            self._cache.put(key, result)
        return result

    def _obfuscate_sql(self, span: Span) -> None:
        dbms = (span.get_meta(_DBMS) or "").lower()
        resource = span.resource
        if resource:
            query = self.obfuscate_query(resource, dbms)
            span.resource = query
            span.set_meta(_SQL_QUERY, query)
        else:
            self._obfuscate_sql_tag(span, _SQL_QUERY, dbms)
        for tag in _SQL_TAGS:
            self._obfuscate_sql_tag(span, tag, dbms)

    def _obfuscate_sql_tag(self, span: Span, tag: str, dbms: str) -> None:
        query = span.get_meta(tag)
        if query:
            span.set_meta(tag, self.obfuscate_query(query, dbms))

    # Cards

    def _hide_cards_in_tags(self, span: Span) -> None:
        found = [
            key
            for key, value in span.meta_items()
            # Nearly every tag ends here, and at the last one identifiers in hexadecimal.
            if value < _BEHIND_CARDS and len(value) >= _CARD_CHARACTERS_MIN and not value.islower()
        ]
        for key in found:
            if is_card(span.get_meta(key) or "", self._cards_luhn) and self._may_hold_card(key):
                span.set_meta(key, _PLACEHOLDER)

    def _hide_cards_in_event(self, event: SpanEvent) -> None:
        for key, attribute in event.attributes.items():
            if self._may_hold_card(key):
                self._hide_card_in_attribute(attribute)
                for item in attribute.array_value or () if attribute.type == ARRAY else ():
                    self._hide_card_in_attribute(item)

    def _hide_card_in_attribute(self, attribute: AttributeValue) -> None:
        if is_card(_text_of(attribute), self._cards_luhn):
            attribute.type = STRING
            attribute.string_value = _PLACEHOLDER
            # The number itself would be written beside the text.
            attribute.int_value = 0
            attribute.double_value = 0.0

    def _may_hold_card(self, key: str) -> bool:
        return key not in self._cards_kept and may_hold_card(key)


def _obfuscate_query(query: str, dbms: str = "") -> str:
    return obfuscate_sql(query, dbms.lower())


def _command_rules(tag: str, change: str) -> tuple[TextRule, ...]:
    """For spans of commands: the resource names them, and the raw text loses its values."""
    if not change:
        return (("", quantize_redis),)
    hide = obfuscate_redis if change == "values" else remove_redis_arguments
    return (("", quantize_redis), (tag, hide))


def _document_rule(rules: DocumentRules) -> Callable[[str], str]:
    return lambda document: obfuscate_document(document, rules)


def _leave_nothing(text: str) -> str:
    return ""


def _text_of(attribute: AttributeValue) -> str:
    """What is looked at for cards; empty for what cannot be one."""
    if attribute.type == STRING:
        return attribute.string_value
    if attribute.type == INT:
        return str(attribute.int_value)
    if attribute.type == DOUBLE and attribute.double_value.is_integer():
        return str(int(attribute.double_value))
    return ""


def _remove_stacks(span: Span) -> None:
    for tag in _STACK_TAGS:
        if span.get_meta(tag):
            span.set_meta(tag, _PLACEHOLDER)
        for event in span.events:
            attribute = event.attributes.get(tag)
            if attribute is not None and attribute.type == STRING:
                attribute.string_value = _PLACEHOLDER
