from __future__ import annotations

import pytest
from kit.payloads import encode, raw

from mini_agent.errors import DecodeError, ProtocolError
from mini_agent.traces.decode import decode_v04
from mini_agent.traces.lenient import OBJECTS_MAX, SPANS_MAX, TAGS_MAX, Findings


def decode(body: bytes) -> Findings:
    findings = Findings()
    for _ in decode_v04(body, findings):
        pass
    return findings


class TestFindings:
    def test_changes_count_once_for_each_span_that_is_taken(self) -> None:
        findings = Findings()
        findings.change("a")
        findings.change("a")
        findings.change("b")
        findings.take_span()
        findings.change("a")
        findings.take_span()
        findings.take_span()
        assert findings.repairs == {"a": 2, "b": 1}

    def test_a_dropped_span_leaves_its_reason_and_no_changes(self) -> None:
        findings = Findings()
        first, second = DecodeError("first", 1), DecodeError("second", 2)
        findings.change("a")
        findings.drop_span(first)
        findings.drop_span(second)
        findings.take_span()
        assert findings.dropped == 2
        assert findings.first_fault is first
        assert findings.repairs == {}

    def test_traces_are_counted_with_their_spans(self) -> None:
        findings = Findings()
        findings.begin_trace(3)
        findings.begin_trace(0)
        assert (findings.spans, findings.empty_traces) == (3, 1)


def array_header(count: int) -> bytes:
    return b"\xdd" + count.to_bytes(4, "big")


def map_header(count: int) -> bytes:
    return b"\xdf" + count.to_bytes(4, "big")


class TestLimits:
    def test_more_spans_than_the_limit_are_refused(self) -> None:
        for body in (
            b"\x91" + array_header(SPANS_MAX + 1) + b"\x80" * (SPANS_MAX + 1),
            array_header(SPANS_MAX + 1) + b"\x90" * (SPANS_MAX + 1),
            b"\x92\x91\x80" + array_header(SPANS_MAX) + b"\x80" * SPANS_MAX,
        ):
            with pytest.raises(ProtocolError, match="100,000 spans") as caught:
                decode(body)
            assert (caught.value.status, caught.value.reason) == (413, "too_many_spans")

    @pytest.mark.parametrize("field", ["meta", "metrics", "meta_struct"])
    def test_more_tags_than_the_limit_are_refused(self, field: str) -> None:
        count = TAGS_MAX + 1
        body = encode([[{field: raw(map_header(count) + b"\xa0\xa0" * count)}]])
        with pytest.raises(ProtocolError, match="1,000,000 tags") as caught:
            decode(body)
        assert (caught.value.status, caught.value.reason) == (413, "too_many_tags")

    def test_tags_are_counted_by_payload(self) -> None:
        count = TAGS_MAX // 10
        some = raw(map_header(count) + b"".join(b"\xa5%05x\xa0" % i for i in range(count)))
        traces = [[{"meta": some}]] * 10
        decode(encode(traces))
        with pytest.raises(ProtocolError):
            decode(encode([*traces, [{"metrics": {"a": 1}}]]))

    @pytest.mark.parametrize(
        ("before", "each"),
        [
            ({"span_links": None}, b"\x80"),
            ({"span_events": None}, b"\x80"),
            ({"span_events": [{"attributes": None}]}, b"\xa0\x01"),
            ({"span_events": [{"attributes": {"a": {"array_value": {"values": None}}}}]}, b"\x01"),
        ],
    )
    def test_more_objects_of_one_payload_than_the_limit_are_refused(
        self, before: dict[str, object], each: bytes
    ) -> None:
        count = OBJECTS_MAX + 1
        header = map_header(count) if len(each) == 2 else array_header(count)
        # In place of the nil, which is the last byte.
        body = encode([[before]])[:-1] + header + each * count
        with pytest.raises(ProtocolError, match="200,000 links, events") as caught:
            decode(body)
        assert (caught.value.status, caught.value.reason) == (413, "too_many_events")

    def test_objects_are_counted_by_payload(self) -> None:
        half = raw(array_header(OBJECTS_MAX // 2) + b"\xc0" * (OBJECTS_MAX // 2))
        traces = [[{"span_links": half}], [{"span_events": half}]]
        decode(encode(traces))
        with pytest.raises(ProtocolError):
            decode(encode([*traces, [{"span_events": [{}]}]]))
