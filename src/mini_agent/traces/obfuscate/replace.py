"""The operator's own rules: patterns whose matches in tags are replaced.

Patterns are those of Rust's `regex`, as the reference takes them; automaton.py runs them in
bounded time. What it cannot do makes a rule that is named and left out. A text that takes too
much work is replaced as a whole: nothing that was to be hidden gets through.

Source: reference-agent 5.10.
"""

from __future__ import annotations

from mini_agent.traces.span import ARRAY, STRING

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    from mini_agent.traces.obfuscate.automaton import Automaton
    from mini_agent.traces.span import AttributeValue, Span

# Longer values are cut before a rule sees them. Source: the longest tag value that the Go agent
# lets through, in characters.
VALUE_LENGTH_MAX = 25_000

# Stands for a text that could not be searched to its end.
_PLACEHOLDER = "?"

_EVERYTHING = "*"
_RESOURCE = "resource.name"
_STATUS_CODE = "http.status_code"
# Numbers with fewer fit into what holds a status code.
_U32_DIGITS = 10

# The keys of a rule.
_KEYS = ("name", "pattern", "repl")
_NAME_LENGTH_SHOWN = 60

_NAME = frozenset("0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ_")


class ReplaceRule:
    """One rule.

    Args:
        name: A tag, `resource.name` for the resource, or `*` for the resource and every tag.
        pattern: What is looked for.
        replacement: What is written instead; `$1` and `${name}` stand for parts of the match.

    Raises:
        ValueError: The pattern cannot be used; says why.
    """

    __slots__ = ("_automaton", "_replacement", "name")

    def __init__(self, name: str, pattern: str, replacement: str) -> None:
        # Imported here: most agents have no rules.
        from mini_agent.traces.obfuscate.automaton import Automaton

        self.name = name
        self._automaton = Automaton(pattern)
        self._replacement = _read_replacement(replacement, self._automaton)

    def replace(self, text: str) -> str:
        """A text with every match replaced; a placeholder for one that takes too much work."""
        text = text[:VALUE_LENGTH_MAX]
        found = self._automaton.find_all(text)
        if found is None:
            return _PLACEHOLDER
        pieces: list[str] = []
        done = 0
        for slots in found:
            pieces.append(text[done : slots[0]])
            for part in self._replacement:
                if isinstance(part, str):
                    pieces.append(part)
                elif slots[2 * part] >= 0:
                    pieces.append(text[slots[2 * part] : slots[2 * part + 1]])
            done = slots[1]
        pieces.append(text[done:])
        return "".join(pieces)


def replace_tags(span: Span, rules: Iterable[ReplaceRule]) -> None:
    """Apply every rule in its order."""
    for rule in rules:
        if rule.name == _EVERYTHING:
            _set_resource(span, rule)
            for key, value in list(span.meta_items()):
                _set_tag(span, rule, key, value)
            for event in span.events:
                for attribute in event.attributes.values():
                    _set_attribute(rule, attribute)
            continue
        if rule.name == _RESOURCE:
            _set_resource(span, rule)
            continue
        tag = span.get_meta(rule.name)
        if tag is not None:
            _set_tag(span, rule, rule.name, tag)
        for event in span.events:
            if rule.name in event.attributes:
                _set_attribute(rule, event.attributes[rule.name])


def replace_group(group: dict[str, Any], rules: Iterable[ReplaceRule]) -> None:
    """Apply every rule to what a group of a tracer's stats has of its spans' texts.

    Source: the Go agent, which has the status code read as text for it; a code that is no number
    then stays as it is.
    """
    for rule in rules:
        if rule.name in (_EVERYTHING, _RESOURCE):
            group["Resource"] = rule.replace(group["Resource"])
        if rule.name in (_EVERYTHING, _STATUS_CODE):
            replaced = rule.replace(str(group["HTTPStatusCode"]))
            if replaced.isascii() and replaced.isdigit() and len(replaced) < _U32_DIGITS:
                group["HTTPStatusCode"] = int(replaced)


def _set_resource(span: Span, rule: ReplaceRule) -> None:
    resource = span.resource
    replaced = rule.replace(resource)
    if replaced != resource:
        span.resource = replaced


def _set_tag(span: Span, rule: ReplaceRule, key: str, value: str) -> None:
    replaced = rule.replace(value)
    if replaced != value:
        span.set_meta(key, replaced)


def _set_attribute(rule: ReplaceRule, attribute: AttributeValue) -> None:
    if attribute.type == STRING:
        attribute.string_value = rule.replace(attribute.string_value)
    elif attribute.type == ARRAY:
        for item in attribute.array_value or ():
            if item.type == STRING:
                item.string_value = rule.replace(item.string_value)


def read_rules(text: str) -> tuple[list[ReplaceRule], list[str]]:
    """The rules of a JSON list of objects with `name`, `pattern` and `repl`.

    Returns:
        The rules that can be used, and a sentence for each that cannot; the sentences quote no
        pattern.
    """
    import json

    try:
        entries = json.loads(text)
    except (ValueError, RecursionError):
        return [], ["it is not JSON, so no rule holds"]
    if not isinstance(entries, list):
        return [], ["it is not a list, so no rule holds"]
    rules = []
    complaints = []
    for number, entry in enumerate(entries, 1):
        values = [entry.get(key) for key in _KEYS] if isinstance(entry, dict) else []
        texts = [value for value in values if isinstance(value, str)]
        if len(texts) < len(_KEYS):
            complaints.append(f"rule {number} lacks a text for one of {', '.join(_KEYS)}")
            continue
        name = texts[0][:_NAME_LENGTH_SHOWN]
        try:
            rules.append(ReplaceRule(*texts))
        except ValueError as problem:
            complaints.append(f"rule {number} for {name!r} is left out: {problem}")
    return rules, complaints


def _read_replacement(replacement: str, pattern: Automaton) -> list[str | int]:
    """Literal texts and the numbers of groups; groups the pattern lacks are left out."""
    parts: list[str | int] = []
    done = 0
    dollar = replacement.find("$")
    while dollar >= 0:
        start = dollar + 1
        end = start
        if replacement.startswith("$", start):
            # Two stand for one.
            parts.append(replacement[done:start])
            done = start + 1
        else:
            if replacement.startswith("{", start):
                end = replacement.find("}", start)
                name = replacement[start + 1 : max(end, 0)]
                end += 1
            else:
                while end < len(replacement) and replacement[end] in _NAME:
                    end += 1
                name = replacement[start:end]
            if end > start:
                parts.append(replacement[done:dollar])
                parts += _group_number(name, pattern)
                done = end
        dollar = replacement.find("$", max(done, start))
    parts.append(replacement[done:])
    return parts


def _group_number(name: str, pattern: Automaton) -> list[int]:
    if name.isascii() and name.isdigit():
        number = int(name[:9])
        return [number] if number < pattern.group_count else []
    return [pattern.groups[name]] if name in pattern.groups else []
