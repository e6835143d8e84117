"""The operator's own rules: patterns whose matches in tags are replaced.

Patterns are written as the reference takes them (the syntax of Rust's `regex`) and run by
Python's `re`; what `re` cannot do makes a rule that is named and left out.

Python's engine tries alternatives one after the other, so a pattern such as `(a+)+b` can take
time without end on a text that does not match. Nothing stops a match that is under way: such a
pattern is named at start, and no text longer than VALUE_LENGTH_MAX is given to any.

Source: reference-agent 5.10.
"""

from __future__ import annotations

from mini_agent.traces.obfuscate.pattern import Translation
from mini_agent.traces.span import ARRAY, STRING

TYPE_CHECKING = False
if TYPE_CHECKING:
    import re
    from collections.abc import Iterable

    from mini_agent.traces.span import AttributeValue, Span

# Longer values are cut before a rule sees them. Source: the longest tag value that the Go agent
# lets through, in characters.
VALUE_LENGTH_MAX = 25_000

_EVERYTHING = "*"
_RESOURCE = "resource.name"

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

    Attributes:
        may_be_slow: The pattern repeats a repetition.

    Raises:
        ValueError: The pattern cannot be used; says why.
    """

    __slots__ = ("_pattern", "_replacement", "may_be_slow", "name")

    def __init__(self, name: str, pattern: str, replacement: str) -> None:
        self.name = name
        translation = Translation(pattern)
        self.may_be_slow = translation.repeats_repetition
        self._pattern = _compile(translation.text)
        self._replacement = _read_replacement(replacement, self._pattern)

    def replace(self, text: str) -> str:
        """A text with every match replaced."""
        text = text[:VALUE_LENGTH_MAX]
        pieces: list[str] = []
        done = 0
        for match in self._pattern.finditer(text):
            start, end = match.span()
            if start == end == done and pieces:
                # An empty match right behind another is none.
                continue
            pieces.append(text[done:start])
            for part in self._replacement:
                pieces.append(part if isinstance(part, str) else match[part] or "")
            done = end
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
        The rules that can be used, and a sentence for each thing that is wrong or dangerous;
        the sentences quote no pattern.
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
            continue
        if rules[-1].may_be_slow:
            complaints.append(f"rule {number} for {name!r} repeats a repetition: it may be slow")
    return rules, complaints


def _compile(pattern: str) -> re.Pattern[str]:
    import re
    import warnings

    try:
        with warnings.catch_warnings():
            # Python warns of what it will read differently one day.
            warnings.simplefilter("error")
            return re.compile(pattern)
    except (re.error, Warning, OverflowError, RecursionError) as problem:
        raise ValueError(f"the pattern cannot be read ({type(problem).__name__})") from problem


def _read_replacement(replacement: str, pattern: re.Pattern[str]) -> list[str | int]:
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


def _group_number(name: str, pattern: re.Pattern[str]) -> list[int]:
    if name.isascii() and name.isdigit():
        number = int(name[:9])
        return [number] if number <= pattern.groups else []
    return [pattern.groupindex[name]] if name in pattern.groupindex else []
