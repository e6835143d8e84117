from __future__ import annotations

import pytest

from mini_agent.traces.sender import SUMMED_HEADERS, Sender


def test_nothing_is_known_without_headers() -> None:
    sender = Sender({})
    assert (sender.container_id, sender.language, sender.language_version) == ("", "", "")
    assert sender.tracer_version == ""
    assert not sender.computed_top_level
    assert sender.headers == {}
    assert sender.dropped_headers == {}


def test_what_the_tracer_says_of_itself_is_known_and_told_again() -> None:
    said = {
        "datadog-meta-lang": "python",
        "datadog-meta-lang-version": "3.14.1",
        "datadog-meta-lang-interpreter": "CPython",
        "datadog-meta-lang-interpreter-vendor": "PSF",
        "datadog-meta-tracer-version": "4.1.0",
        "datadog-container-id": "c0ffee",
    }
    ignored = {
        "x-datadog-trace-count": "3",
        "datadog-entity-id": "in-1",
        "datadog-external-env": "e",
        "datadog-send-real-http-status": "1",
        "x-datadog-test-session-token": "t",
        "content-type": "application/msgpack",
    }
    sender = Sender({**said, **ignored})
    assert sender.headers == said
    assert sender.language == "python"
    assert sender.language_version == "3.14.1"
    assert sender.tracer_version == "4.1.0"
    assert sender.container_id == "c0ffee"


@pytest.mark.parametrize("value", ["", "0", "f", "F", "false", "False", "FALSE", "ja\xdf"])
def test_a_no_is_no(value: str) -> None:
    sender = Sender(
        {"datadog-client-computed-top-level": value, "datadog-client-computed-stats": value}
    )
    assert not sender.computed_top_level
    assert not sender.computed_stats
    assert sender.headers == {}


@pytest.mark.parametrize("value", ["1", "t", "true", "yes", "no", "fALSE", "00"])
def test_anything_else_is_yes(value: str) -> None:
    sender = Sender(
        {"datadog-client-computed-top-level": value, "datadog-client-computed-stats": value}
    )
    assert sender.computed_top_level
    assert sender.computed_stats
    assert sender.headers == {
        "datadog-client-computed-stats": "true",
        "datadog-client-computed-top-level": "true",
    }


@pytest.mark.parametrize(
    ("value", "count"),
    [("7", "7"), ("+7", "7"), ("007", "7"), (str(2**64 - 1), str(2**64 - 1))],
)
def test_counts_of_what_was_left_out_are_told_again(value: str, count: str) -> None:
    sender = Sender(dict.fromkeys(SUMMED_HEADERS, value))
    assert sender.dropped_headers == dict.fromkeys(SUMMED_HEADERS, count)
    assert sender.headers == {}


@pytest.mark.parametrize(
    "value", ["", "0", "-1", "1.5", "1e3", " 1", "++1", "\xb2", str(2**64), "9" * 5000]
)
def test_a_count_that_is_none_is_zero(value: str) -> None:
    assert Sender(dict.fromkeys(SUMMED_HEADERS, value)).dropped_headers == {}


@pytest.mark.parametrize("value", ["K\xf6ln", "x" * 1025])
def test_text_that_is_not_ascii_or_too_long_is_taken_as_absent(value: str) -> None:
    sender = Sender({"datadog-meta-lang": value, "datadog-container-id": value})
    assert sender.language == sender.container_id == ""
    assert sender.headers == {}
