"""The differences that are meant: each is a row of docs/differences.md and says what it explains.

The first entry that explains a difference is taken, so narrow ones stand first.
"""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from differential.harness import ABSENT

if TYPE_CHECKING:
    from collections.abc import Callable

    from differential.harness import Found


@dataclass(frozen=True)
class Difference:
    """One row.

    Attributes:
        row: How the row begins, in its first cell.
        cases: Patterns of the cases it may show in.
        holds: Whether a fact of such a case differs as the row says.
    """

    row: str
    cases: tuple[str, ...]
    holds: Callable[[Found], bool]

    def explains(self, found: Found) -> bool:
        return any(fnmatchcase(found.case, each) for each in self.cases) and self.holds(found)


def is_refused(found: Found) -> bool:
    """The reference refused the request, ours took it."""
    return (found.fact, found.ours, found.reference) in (
        ("status", 200, 500),
        ("arrived", True, False),
    )


def is_status(found: Found) -> bool:
    return (found.fact, found.ours, found.reference) == ("status", 400, 500)


def is_left_out(found: Found) -> bool:
    """A span is missing in ours."""
    return (found.fact, found.ours, found.reference) == ("arrived", False, True)


def is_root_tag(found: Found) -> bool:
    """Another span is a root in a chunk of another cut."""
    return found.fact in {"meta.origin", "meta._dd.origin", "meta.functionname"}


def is_stale(found: Found) -> bool:
    """The reference's name is ours with letters and separators too many."""
    return found.fact in {"name", "resource"} and len(found.reference) > len(found.ours)


def is_cut_resource(found: Found) -> bool:
    whole = found.reference.encode() if found.fact == "resource" else b""
    return len(whole) > 5000 and found.ours == whole[:5000].decode(errors="ignore")


def is_cut_tag(found: Found) -> bool:
    kind, _, key = found.fact.partition(".")
    if kind not in {"meta", "metrics"}:
        return False
    if found.ours == ABSENT:
        return len(key.encode()) > 200
    if found.reference == ABSENT:
        return key.endswith("...") and len(key.encode()) <= 203
    return found.ours == found.reference[:25_000] + "..."


SPAN_FIELDS = (
    *("service", "name", "resource", "type", "trace_id", "span_id", "parent_id", "start"),
    *("error", "meta", "metrics", "meta_struct"),
)

DIFFERENCES = (
    Difference(
        "a body that does not decode: 400 with the place",
        ("wrong *", "nil trace"),
        is_status,
    ),
    Difference(
        "text that is not UTF-8 is repaired with U+FFFD, counted",
        ("service broken", "name broken", "resource broken", "type broken", "* broken"),
        lambda found: is_refused(found) and found.case.split()[0] in REPAIRED_TEXTS,
    ),
    Difference(
        "a number or boolean as a tag's value becomes text",
        ("tag *", "meta map"),
        is_refused,
    ),
    Difference("a metric of a wrong type is left out, counted", ("metric *",), is_refused),
    Difference(
        "a duration of a wrong type is 0 and properly passed over", ("duration *",), is_refused
    ),
    Difference(
        "`time_unix_nano` of an event as a whole float is taken",
        ("event time_unix_nano float",),
        is_refused,
    ),
    Difference(
        "nil in span links and events means the default",
        ("span_links *", "span_events *", "link *", "event *", "attribute *"),
        is_refused,
    ),
    Difference("a repeated key of a span: the last counts", ("field twice",), is_refused),
    Difference(
        "a span that cannot be read is dropped alone",
        (*(f"{field} *" for field in SPAN_FIELDS), "key *", "nil span"),
        is_refused,
    ),
    Difference(
        "spans with a trace or span id of zero are dropped alone",
        ("trace_id *", "span_id *", "empty map"),
        is_left_out,
    ),
    Difference(
        "spans of another trace than the first become a chunk of their own",
        ("foreign span",),
        is_root_tag,
    ),
    Difference(
        "separators that follow each other in a span's name become one",
        ("name of *", "no resource, odd name"),
        is_stale,
    ),
    Difference("a resource is cut at 5000 bytes", ("long resource",), is_cut_resource),
    Difference(
        "names of tags are cut at 200 bytes and their values at 25,000",
        ("key of 201", "key cut in letter", "value of 25001", "document"),
        is_cut_tag,
    ),
    Difference(
        "`_dd.origin` set by a product stays",
        ("origin *",),
        lambda found: found.fact == "meta._dd.origin",
    ),
    Difference(
        "chunks of one request that differ in env, version, host or runtime",
        ("two of *",),
        lambda found: found.fact.startswith("payload.") and found.ours == "two",
    ),
)

# Fields whose text is mended; ids and numbers that are text cannot be.
REPAIRED_TEXTS = frozenset({"service", "name", "resource", "type", "tag", "key"})


def explain(found: Found) -> Difference | None:
    return next((each for each in DIFFERENCES if each.explains(found)), None)
