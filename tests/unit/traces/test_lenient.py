from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from kit.payloads import BROKEN_TEXT, MENDED_TEXT, encode, raw

from mini_agent.errors import DecodeError, ProtocolError
from mini_agent.traces.decode import decode_v04
from mini_agent.traces.lenient import (
    ENTRIES_A_STEP,
    OBJECTS_MAX,
    SPANS_MAX,
    TAGS_A_STEP,
    TAGS_MAX,
    Findings,
    fill,
    fill_in_steps,
    read_text,
    read_text_map,
    read_text_map_in_steps,
)
from mini_agent.wire.msgpack import Reader, WrongType

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator


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


Target = dict[str, Any]


def read_number(reader: Reader, target: Target, findings: Findings) -> None:
    target["number"] = reader.read_integer()


def read_row(reader: Reader, target: Target, findings: Findings) -> Iterator[None]:
    target["row"] = []
    for _ in range(reader.read_array() or 0):
        yield None
        target["row"].append(reader.read_integer())


FIELDS = {b"number": read_number, b"row": read_row}


def fill_slowly(body: bytes) -> tuple[Target, int]:
    """What was read, and how many steps it took after what was done at once."""
    target: Target = {}
    reader = Reader(body)
    steps = fill_in_steps(target, FIELDS, reader, Findings())
    count = 0 if steps is None else sum(1 for _ in steps)
    assert reader.offset == len(body)
    return target, count


class TestFillingInSteps:
    def test_what_is_short_is_read_at_once(self) -> None:
        assert fill_slowly(encode({"number": 7, "odd": [1, 2]})) == ({"number": 7}, 0)

    @pytest.mark.parametrize("as_array", [False, True])
    def test_the_steps_of_a_field_are_among_those_of_the_whole(self, as_array: bool) -> None:
        sent = {"number": 7, "row": [1, 2, 3], "odd": [0] * 10_000}
        body = encode(list(sent.values()) if as_array else sent)
        expected = {"number": 7, "row": [1, 2, 3]}
        target, steps = fill_slowly(body)
        assert target == expected
        assert steps >= 5
        target.clear()
        fill(target, FIELDS, Reader(body), Findings())
        assert target == expected

    def test_fields_behind_one_that_takes_steps_are_read(self) -> None:
        assert fill_slowly(encode({"row": [1], "number": 7}))[0] == {"number": 7, "row": [1]}

    def test_the_same_field_a_thousand_times_takes_steps(self) -> None:
        count = 100 * ENTRIES_A_STEP
        for each, last in ((encode("number") + b"\x05", 5), (encode("odd") + b"\xc0", None)):
            target, steps = fill_slowly(map_header(count) + each * count)
            assert target.get("number") == last
            assert steps >= 99
        for each in (encode("row") + b"\x91\x01", encode("odd") + encode([1] * 100)):
            target, steps = fill_slowly(map_header(count) + each * count)
            assert steps >= count

    @pytest.mark.parametrize(
        ("sent", "words"),
        [
            ({"row": [1, "x"]}, "row: expected an integer, found a string"),
            ({"row": [1], "number": "x"}, "number: expected an integer, found a string"),
            ([1, [1, "x"]], "row: expected an integer, found a string"),
            ({"row": [1], 5: 6}, "a key: expected a string, found an integer"),
        ],
    )
    def test_a_fault_in_a_later_step_says_where(self, sent: object, words: str) -> None:
        for read in (fill, lambda *args: list(fill_in_steps(*args) or ())):
            with pytest.raises(WrongType, match=words):
                read({}, FIELDS, Reader(encode(sent)), Findings())


def run(steps: Generator[None, None, dict[str, str]]) -> tuple[dict[str, str], int]:
    """What a map of texts is, and how many steps it took."""
    count = 0
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value, count
        count += 1


class TestMapsOfTextsInSteps:
    @pytest.mark.parametrize("count", [0, 1, TAGS_A_STEP, TAGS_A_STEP + 1, 4 * TAGS_A_STEP])
    def test_they_are_the_same(self, count: int) -> None:
        tags: dict[str, Any] = {f"key-{number}": str(number) for number in range(count)}
        tags |= {"key-0": "last", "nil": None, "number": 7, "broken": BROKEN_TEXT}
        body = encode(tags)
        expected, findings = Findings(), Findings()
        at_once = read_text_map(Reader(body), expected)
        slowly, steps = run(read_text_map_in_steps(Reader(body), findings, TAGS_MAX))
        assert list(slowly.items()) == list(at_once.items())
        assert steps == -(-len(tags) // TAGS_A_STEP)
        for each in (expected, findings):
            each.take_request()
            assert each.request_repairs == {"meta_type", "invalid_utf8"}

    def test_only_so_many_keys_are_held_and_their_last_text(self) -> None:
        entries = [(str(number % 1500), str(number)) for number in range(3000)]
        body = map_header(3000) + b"".join(encode(text) for entry in entries for text in entry)
        tags, _ = run(read_text_map_in_steps(Reader(body), Findings(), 10))
        assert tags == {str(number): str(1500 + number) for number in range(10)}

    def test_what_is_no_map_of_texts_in_a_later_step_is_not_mended(self) -> None:
        findings = Findings()
        tags: dict[Any, Any] = {str(number): BROKEN_TEXT for number in range(2 * TAGS_A_STEP)}
        with pytest.raises(WrongType):
            run(read_text_map_in_steps(Reader(encode({**tags, 1: ""})), findings, TAGS_MAX))
        assert not findings.has_changes()

    def test_too_many_are_refused_before_they_are_read(self) -> None:
        steps = read_text_map_in_steps(
            Reader(map_header(TAGS_MAX + 1) + b"\xa0\xa0" * (TAGS_MAX + 1)), Findings(), 1
        )
        with pytest.raises(ProtocolError):
            next(steps)


@pytest.mark.parametrize("bytes_max", [0, 1, 3, 4, 100])
def test_of_a_text_that_is_not_mended_to_its_end_enough_is(bytes_max: int) -> None:
    text = b"\xe2\x82a\xf0\x9f\x98\x80" * 20 + b"\xff"
    findings = Findings()
    mended = read_text(Reader(encode(text)), findings, bytes_max).encode()
    assert mended[:bytes_max] == text.decode("utf-8", "replace").encode()[:bytes_max]
    assert findings.has_changes()
    assert read_text(Reader(encode(BROKEN_TEXT)), findings) == MENDED_TEXT
    assert read_text(Reader(encode("a" * 500)), findings, bytes_max) == "a" * 500
