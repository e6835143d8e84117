"""forward.payload: which headers one request may carry for many records."""

from __future__ import annotations

from mini_agent.forward.payload import Kind, Record, merge_headers

KIND = Kind("traces", "spans", "/p", "t", b"", 100, frozenset({"n"}))


def test_no_records_no_headers() -> None:
    assert merge_headers(KIND, []) == {}


def test_a_header_not_true_of_all_is_left_out() -> None:
    records = [Record(1, {"a": "1", "b": "1"}, b""), Record(1, {"a": "1"}, b"")]
    assert merge_headers(KIND, records) == {"a": "1"}


def test_a_count_of_nothing_is_left_out() -> None:
    assert merge_headers(KIND, [Record(1, {"n": "0"}, b""), Record(1, {}, b"")]) == {}
    assert merge_headers(KIND, [Record(1, {"n": "2"}, b""), Record(1, {"n": "3"}, b"")]) == {
        "n": "5"
    }


def test_a_mapping_that_records_share_counts_for_each() -> None:
    shared = {"a": "1", "n": "2"}
    records = [Record(1, shared, b""), Record(1, shared, b""), Record(1, {"a": "1", "n": "5"}, b"")]
    assert merge_headers(KIND, records) == {"a": "1", "n": "9"}


def test_a_body_is_the_frame_around_the_records() -> None:
    records = [Record(1, {}, b"one"), Record(1, {}, b"two")]
    plain = Kind("a", "a", "/", "t", b"<", 100)
    assert plain.join(records) == b"<onetwo"
    assert plain.frame_bytes == 1
    counted = Kind("a", "a", "/", "t", b"<", 100, suffix=b">>", counted=True)
    assert counted.join(records) == b"<\0\0\0\x02onetwo>>"
    assert counted.frame_bytes == 7
