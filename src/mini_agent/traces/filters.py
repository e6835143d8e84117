"""Traces nobody wants to keep: judged by the resource and the tags of their root.

A tag filter is `key`, which asks for the tag, or `key:value`. What rejects counts before what is
required. A pattern may match anywhere in the text. A pattern for a key that a plain filter of the
same kind names is not used, as in the Go agent.

Source: peers-features A.6; the Go agent's filters.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from mini_agent.traces.obfuscate.automaton import Automaton
    from mini_agent.traces.span import Span, TraceChunk

    # Key and value, or None where any value will do.
    Wanted = tuple[str, str | None]
    Pattern = tuple[str, Automaton | None]

FILTERED_RESOURCE = "filtered_resource"
FILTERED_TAGS = "filtered_tags"

# A pattern is tried on so much of a text; the intake keeps no more of a resource.
JUDGED_CHARACTERS_MAX = 5000


class Filters:
    """Which traces are dropped.

    Args:
        ignore_resources: Patterns of resources.
        require, reject: Tag filters.
        require_regex, reject_regex: The same with patterns as values.

    Attributes:
        warnings: One sentence for each pattern that is none; the others hold.
    """

    def __init__(
        self,
        ignore_resources: Sequence[str] = (),
        require: Sequence[str] = (),
        reject: Sequence[str] = (),
        require_regex: Sequence[str] = (),
        reject_regex: Sequence[str] = (),
    ) -> None:
        warnings: list[str] = []
        self._resources = [
            pattern
            for text in ignore_resources
            if (pattern := _compile(text, "resources to ignore", warnings)) is not None
        ]
        self._require = [_split(text) for text in require]
        self._reject = [_split(text) for text in reject]
        self._require_regex = _patterns(require_regex, self._require, "required tags", warnings)
        self._reject_regex = _patterns(reject_regex, self._reject, "rejected tags", warnings)
        self._judge_tags = any(
            (self._require, self._reject, self._require_regex, self._reject_regex)
        )
        self.warnings = tuple(warnings)

    def judge(self, chunk: TraceChunk) -> str | None:
        """Why a chunk is dropped, by its root; None when it is kept."""
        if not self._resources and not self._judge_tags:
            return None
        root = chunk.root
        if self._resources:
            resource = root.resource[:JUDGED_CHARACTERS_MAX]
            if any(pattern.matches(resource) for pattern in self._resources):
                return FILTERED_RESOURCE
        if self._judge_tags and not self._keeps_tags(root):
            return FILTERED_TAGS
        return None

    def _keeps_tags(self, root: Span) -> bool:
        return (
            not any(_has(root, each) for each in self._reject)
            and not any(_matches(root, each) for each in self._reject_regex)
            and all(_has(root, each) for each in self._require)
            and all(_matches(root, each) for each in self._require_regex)
        )


def _has(root: Span, wanted: Wanted) -> bool:
    key, value = wanted
    found = root.get_meta(key)
    return found is not None and (value is None or found == value)


def _matches(root: Span, wanted: Pattern) -> bool:
    key, pattern = wanted
    found = root.get_meta(key)
    if found is None:
        return False
    return pattern is None or pattern.matches(found[:JUDGED_CHARACTERS_MAX])


def _split(text: str) -> Wanted:
    key, _, value = text.partition(":")
    return key.strip(), value.strip() or None


def _patterns(
    texts: Iterable[str], plain: list[Wanted], what: str, warnings: list[str]
) -> list[Pattern]:
    named = {key for key, _ in plain}
    patterns: list[Pattern] = []
    for text in texts:
        key, value = _split(text)
        if key in named:
            continue
        if value is None:
            patterns.append((key, None))
        elif (pattern := _compile(value, what, warnings)) is not None:
            patterns.append((key, pattern))
    return patterns


def _compile(text: str, what: str, warnings: list[str]) -> Automaton | None:
    # Imported here: most agents filter nothing.
    from mini_agent.traces.obfuscate.automaton import Automaton

    try:
        return Automaton(text)
    except ValueError as fault:
        warnings.append(f"{text!r} in the {what} is not a regular expression and left out: {fault}")
        return None
