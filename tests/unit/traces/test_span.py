from __future__ import annotations

import pytest

from mini_agent.traces.span import PRIORITY_NONE, AttributeValue, Span, TagSet, TraceChunk


@pytest.mark.parametrize("field", ["service", "name", "resource", "type"])
def test_a_text_reads_back_as_it_was_set(field: str) -> None:
    span = Span()
    assert getattr(span, field) == ""
    setattr(span, field, "Größe 漢字")
    assert getattr(span, field) == "Größe 漢字"


def test_tags_are_set_replaced_and_removed() -> None:
    span = Span()
    assert span.get_meta("a") is None
    assert not span.has_meta("a")
    span.set_meta("a", "1")
    span.set_meta("b", "")
    span.set_meta("a", "ü")
    assert list(span.meta_items()) == [("a", "ü"), ("b", "")]
    assert span.has_meta("b")
    span.remove_meta("a")
    span.remove_meta("never there")
    assert list(span.meta_items()) == [("b", "")]


def test_a_set_of_tags_replaces_what_was_there() -> None:
    span = Span()
    span.set_meta("a", "old")
    span.update_meta(TagSet({"a": "new", "b": "ü"}))
    assert dict(span.meta_items()) == {"a": "new", "b": "ü"}


def test_one_set_of_tags_serves_many_spans() -> None:
    tags = TagSet({"a": "1"})
    first, second = Span(), Span()
    first.update_meta(tags)
    second.update_meta(tags)
    first.set_meta("a", "2")
    assert second.get_meta("a") == "1"


def test_metrics_are_set_replaced_and_removed() -> None:
    span = Span()
    assert span.get_metric("m") is None
    span.set_metric("m", 1.0)
    span.set_metric("m", 2.5)
    span.set_metric("zero", 0.0)
    assert span.get_metric("zero") == 0.0
    assert list(span.metric_items()) == [("m", 2.5), ("zero", 0.0)]
    span.remove_metric("m")
    span.remove_metric("never there")
    assert list(span.metric_items()) == [("zero", 0.0)]


def test_text_from_a_broken_environment_can_be_written() -> None:
    span = Span()
    span.set_meta("host", "a\udcff")
    assert span.get_meta("host") == "a?"


def test_spans_share_nothing() -> None:
    first, second = Span(), Span()
    first.meta_struct["a"] = b""
    assert second.meta_struct == {}
    assert AttributeValue().array_value is None


def test_a_chunk_begins_without_a_decision_and_with_its_last_span_as_root() -> None:
    spans = [Span(), Span()]
    chunk = TraceChunk(spans)
    assert chunk.root is spans[1]
    chunk.root_index = 0
    assert chunk.root is spans[0]
    assert chunk.priority == PRIORITY_NONE == -128
    assert chunk.origin == ""
    assert chunk.tags == {}


def test_a_chunk_without_spans_is_a_mistake_of_ours() -> None:
    with pytest.raises(AssertionError):
        TraceChunk([])


@pytest.mark.parametrize(
    ("key", "value", "is_longer"),
    [("k" * 10, "v" * 20, False), ("k" * 11, "", True), ("", "v" * 21, True)],
)
def test_a_span_knows_whether_a_tag_is_longer(key: str, value: str, is_longer: bool) -> None:
    span = Span()
    assert not span.has_longer_tags(0, 0)
    for number in range(10):
        span.set_meta(f"key {number}", f"value {number}")
        span.set_metric(f"key {number}", 1.0)
    assert not span.has_longer_tags(10, 20)
    span.set_meta(key, value)
    assert span.has_longer_tags(10, 20) is is_longer


def test_a_span_knows_whether_a_metrics_name_is_longer() -> None:
    span = Span()
    span.set_metric("m" * 10, 1.0)
    assert not span.has_longer_tags(10, 20)
    span.set_metric("m" * 11, 1.0)
    assert span.has_longer_tags(10, 20)
