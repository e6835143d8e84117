from __future__ import annotations

import pytest
from kit.chunks import chunk_of

from mini_agent.traces.filters import FILTERED_RESOURCE, FILTERED_TAGS, Filters
from mini_agent.traces.span import Span, TraceChunk


def make_chunk(resource: str = "GET /", **meta: str) -> TraceChunk:
    span = Span()
    span.resource = resource
    for key, value in meta.items():
        span.set_meta(key, value)
    return chunk_of(span)


def test_without_filters_everything_is_kept() -> None:
    assert Filters().judge(make_chunk()) is None


@pytest.mark.parametrize(
    ("patterns", "resource", "reason"),
    [
        (["health"], "GET /healthcheck", FILTERED_RESOURCE),
        (["^/health"], "GET /healthcheck", None),
        (["x", "(GET|POST) /health"], "POST /health", FILTERED_RESOURCE),
        (["^$"], "", FILTERED_RESOURCE),
    ],
)
def test_a_pattern_of_resources_matches_anywhere(
    patterns: list[str], resource: str, reason: str | None
) -> None:
    assert Filters(ignore_resources=patterns).judge(make_chunk(resource)) == reason


@pytest.mark.parametrize(
    ("required", "is_kept"),
    [
        (["env"], True),
        (["env:prod"], True),
        (["env:prod", "team"], False),
        (["env:test"], False),
        (["env: prod "], True),
        (["url:http://a"], True),
    ],
)
def test_all_required_tags_must_be_there(required: list[str], is_kept: bool) -> None:
    reason = Filters(require=required).judge(make_chunk(env="prod", url="http://a"))
    assert reason == (None if is_kept else FILTERED_TAGS)


@pytest.mark.parametrize(
    ("rejected", "is_kept"),
    [(["env"], False), (["env:test"], True), (["team", "env:prod"], False), (["team"], True)],
)
def test_one_rejected_tag_is_enough(rejected: list[str], is_kept: bool) -> None:
    reason = Filters(reject=rejected).judge(make_chunk(env="prod"))
    assert reason == (None if is_kept else FILTERED_TAGS)


@pytest.mark.parametrize(
    ("pattern", "matches"),
    [("env:^pr.d$", True), ("env:x", False), ("env", True), ("team:", False)],
)
def test_patterns_of_tags_match_anywhere(pattern: str, matches: bool) -> None:
    root = make_chunk(env="prod")
    required = Filters(require_regex=[pattern]).judge(root)
    rejected = Filters(reject_regex=[pattern]).judge(root)
    assert (required is None, rejected is not None) == (matches, matches)


def test_a_plain_filter_counts_before_a_pattern_for_the_same_tag() -> None:
    filters = Filters(reject=["env:test"], reject_regex=["env:.*"])
    assert filters.judge(make_chunk(env="prod")) is None


def test_what_rejects_counts_before_what_is_required() -> None:
    filters = Filters(require=["env:prod"], reject=["debug"])
    assert filters.judge(make_chunk(env="prod", debug="1")) == FILTERED_TAGS


def test_a_wrong_pattern_is_named_and_the_others_hold() -> None:
    filters = Filters(
        ignore_resources=["(", "health"], require_regex=["env:["], reject_regex=["env:*", "team:a"]
    )
    assert len(filters.warnings) == 3
    for warning, pattern in zip(filters.warnings, ("'('", "'['", "'*'"), strict=True):
        assert pattern in warning
        assert "regular expression" in warning
    assert filters.judge(make_chunk("GET /health")) == FILTERED_RESOURCE
    assert filters.judge(make_chunk(env="prod")) is None
    assert filters.judge(make_chunk(team="abc")) == FILTERED_TAGS
