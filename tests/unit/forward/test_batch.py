"""forward.batch: what stands in a batch file, and what survives damage to it."""

from __future__ import annotations

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from mini_agent.forward.batch import MAGIC, encode_record, read_records
from mini_agent.forward.payload import Record


def as_tuple(record: Record) -> tuple[int, dict[str, str], bytes]:
    return record.count, dict(record.headers), record.body


header_values = st.text(
    st.characters(codec="utf-8", exclude_categories=("Cc", "Zl", "Zp")), max_size=20
)
records = st.builds(
    Record,
    st.integers(0, 1000),
    st.dictionaries(st.sampled_from(["datadog-meta-lang", "a", "b-c"]), header_values),
    st.binary(max_size=300),
)


@given(st.lists(records, max_size=6))
def test_what_is_written_is_read_back(some: list[Record]) -> None:
    content = MAGIC + b"".join(map(encode_record, some))
    assert [as_tuple(each) for each in read_records(content)] == [as_tuple(each) for each in some]


def test_a_header_may_hold_what_python_takes_for_the_end_of_a_line() -> None:
    sent = Record(1, {"a": "x\x1dy\r\x0b\x85z"}, b"body")
    assert [as_tuple(each) for each in read_records(MAGIC + encode_record(sent))] == [
        as_tuple(sent)
    ]


def some_records() -> list[Record]:
    return [Record(n + 1, {"n": str(n)}, bytes([n]) * (n * 7)) for n in range(8)]


def test_a_file_cut_anywhere_gives_the_whole_records_before_the_cut() -> None:
    pieces = [MAGIC, *map(encode_record, some_records())]
    content = b"".join(pieces)
    for cut in range(len(content) + 1):
        whole, end = 0, len(MAGIC)
        for piece in pieces[1:]:
            end += len(piece)
            whole += end <= cut
        assert len(list(read_records(content[:cut]))) == whole


@settings(max_examples=200)
@given(st.integers(0, 1 << 30))
def test_damage_loses_the_damaged_record_and_no_other(seed: int) -> None:
    chance = random.Random(seed)
    some = some_records()
    pieces = [encode_record(each) for each in some]
    hurt = chance.randrange(len(pieces))
    piece = bytearray(pieces[hurt])
    at = chance.randrange(len(piece))
    piece[at] ^= 1 << chance.randrange(8)
    pieces[hurt] = bytes(piece)
    read = [as_tuple(each) for each in read_records(MAGIC + b"".join(pieces))]
    assert read == [as_tuple(each) for n, each in enumerate(some) if n != hurt]


@given(st.binary(max_size=400))
def test_any_bytes_are_read_without_an_error(content: bytes) -> None:
    list(read_records(MAGIC + content))
    list(read_records(content))
