"""forward.packed: a file that is nearly the request it will be."""

from __future__ import annotations

import random

from hypothesis import given, settings
from hypothesis import strategies as st
from kit.loopback import decompress

from mini_agent.forward import packed
from mini_agent.forward.batch import Batch, read_records
from mini_agent.forward.packed import MAGIC, Packer
from mini_agent.forward.payload import Kind, Record

KIND = Kind("traces", "spans", "/traces", "application/x-protobuf", b"PREFIX", 1 << 30)

# Making one takes longer than a batch of a test; a journal uses them again too.
PACKER = Packer(1)


def pack(records: list[Record]) -> bytes:
    """The content of a packed file."""
    return pack_pieces(records)[0]


def pack_pieces(records: list[Record]) -> tuple[bytes, list[int]]:
    """The content, and where each record ends."""
    PACKER.begin(KIND.prefix)
    content, ends = MAGIC, []
    text: bytes | None = None
    for record in records:
        headers = "".join(f"{name}:{value}\n" for name, value in record.headers.items()).encode()
        written, text = None if headers == text else headers, headers
        piece = PACKER.pack(record.body)
        assert len(piece) <= packed.piece_bytes_max(len(KIND.prefix) + len(record.body))
        content += packed.encode_record(written, piece, len(record.body), record.count)
        ends.append(len(content))
    return content, ends


def as_tuple(record: Record) -> tuple[int, dict[str, str], bytes]:
    return record.count, dict(record.headers), record.body


records = st.builds(
    Record,
    st.integers(0, 1000),
    st.dictionaries(st.sampled_from(["a", "b-c"]), st.sampled_from(["", "x", "y:z"])),
    st.binary(max_size=300) | st.integers(0, 300_000).map(lambda n: random.Random(n).randbytes(n)),
)


@settings(max_examples=60, deadline=None)
@given(st.lists(records, max_size=6))
def test_what_is_packed_is_read_back(some: list[Record]) -> None:
    assert [as_tuple(each) for each in read_records(pack(some))] == [as_tuple(r) for r in some]


@settings(max_examples=60, deadline=None)
@given(st.lists(records, min_size=1, max_size=6))
def test_the_pieces_are_the_body_of_one_request(some: list[Record]) -> None:
    pieces = [piece for _, piece, _, _ in packed.read_pieces(pack(some))]
    body = decompress(packed.join(pieces), "zstd")
    assert body == KIND.join(some)


def some_records() -> list[Record]:
    return [Record(n + 1, {"n": str(n // 3)}, b"%d" % n * n * 40) for n in range(8)]


def test_a_file_cut_anywhere_gives_the_whole_records_before_the_cut() -> None:
    some = some_records()
    content, ends = pack_pieces(some)
    for cut in range(len(content) + 1):
        whole = sum(end <= cut for end in ends)
        assert [as_tuple(r) for r in read_records(content[:cut])] == list(
            map(as_tuple, some[:whole])
        )


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 1 << 30))
def test_damage_loses_the_damaged_record_and_those_behind_it(seed: int) -> None:
    chance = random.Random(seed)
    some = some_records()
    content, ends = pack_pieces(some)
    at = chance.randrange(len(MAGIC), len(content))
    hurt = bytearray(content)
    hurt[at] ^= 1 << chance.randrange(8)
    sound = sum(end <= at for end in ends)
    assert [as_tuple(r) for r in read_records(bytes(hurt))] == list(map(as_tuple, some[:sound]))


@settings(deadline=None)
@given(st.binary(max_size=400))
def test_any_bytes_are_read_without_an_error(content: bytes) -> None:
    sealed = packed.encode_record(b"a:b\n", content, 7, 1)
    for odd in (MAGIC + content, MAGIC + sealed, MAGIC + sealed + content):
        list(read_records(odd))


def test_a_batch_counts_bodies_as_they_are_when_unpacked() -> None:
    batch = Batch(KIND, "name", 0.0, Packer(1))
    batch.begin_in_memory()
    for _ in range(3):
        batch.add(Record(5, {"a": "b"}, b"x" * 1000))
    assert (batch.count, batch.body_bytes) == (15, 3000 + len(b"PREFIX"))
    assert batch.kept_bytes < 300


def test_what_was_packed_for_one_batch_is_no_part_of_the_next() -> None:
    first = [Record(1, {}, b"first " * 500)]
    pack(first)
    assert [record.body for record in read_records(pack(some_records()))] == [
        record.body for record in some_records()
    ]
