"""The narrow waist: above it everything knows telemetry, below it everything is bytes.

A room of meaning turns what it accepted into *records* and hands them to the journal before the
sender is told yes. Records of one *kind* are gathered into batches; a batch is what one request
to the intake carries: the kind's frame around the bodies of its records, one after the other.
"""

from __future__ import annotations

import sys
from collections import Counter

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping


# Bytes of the number of records in the frame of a counted kind.
_COUNT_BYTES = 4


class Kind:
    """What records of one sort have in common; made once, in agent.py.

    A finished body is the prefix, the number of records if they are counted, the records, and
    the suffix. Protobuf needs only the prefix; an array of MessagePack is counted.

    Attributes:
        name: Short lower-case word; part of file names in the journal.
        signal: The ledger's name for what is counted.
        path: Route at the intake, such as "/api/v0.2/traces".
        content_type: Of the finished body.
        prefix: Bytes that open the body.
        body_bytes_max: Largest body the intake takes, before compression, frame included.
        summed_headers: Names of record headers with a number, added up over the batch. Any
            other record header is sent when all records of the batch agree on it.
        suffix: Bytes that end the body.
        counted: The number of records stands behind the prefix, 4 bytes, the highest first.
        units_max: Most units of the signal that the intake takes in one body.
        compression: "zstd" or "gzip", whichever the intake's route is known to take.
        frame_bytes: What a body has besides its records.
    """

    __slots__ = (
        "body_bytes_max",
        "compression",
        "content_type",
        "counted",
        "frame_bytes",
        "name",
        "path",
        "prefix",
        "signal",
        "suffix",
        "summed_headers",
        "units_max",
    )

    def __init__(
        self,
        name: str,
        signal: str,
        path: str,
        content_type: str,
        prefix: bytes,
        body_bytes_max: int,
        summed_headers: frozenset[str] = frozenset(),
        suffix: bytes = b"",
        counted: bool = False,
        units_max: int = sys.maxsize,
        compression: str = "zstd",
    ) -> None:
        assert name.isalnum()
        assert name.islower()
        assert compression in ("zstd", "gzip")
        self.name = name
        self.signal = signal
        self.path = path
        self.content_type = content_type
        self.prefix = prefix
        self.body_bytes_max = body_bytes_max
        self.summed_headers = summed_headers
        self.suffix = suffix
        self.counted = counted
        self.units_max = units_max
        self.compression = compression
        self.frame_bytes = len(prefix) + (_COUNT_BYTES if counted else 0) + len(suffix)

    def join(self, records: list[Record]) -> bytes:
        """The finished body of one request."""
        count = len(records).to_bytes(_COUNT_BYTES, "big") if self.counted else b""
        return b"".join((self.prefix, count, *(record.body for record in records), self.suffix))


class Record:
    """The smallest thing that is kept: some units of a signal, encoded and ready to send.

    Attributes:
        count: Units inside (spans, for traces), for the ledger.
        headers: Request headers the sender's request asks for at the intake.
        body: Encoded bytes; a batch's body is these, one after the other, in the kind's frame.
    """

    __slots__ = ("body", "count", "headers")

    def __init__(self, count: int, headers: Mapping[str, str], body: bytes) -> None:
        self.count = count
        self.headers = headers
        self.body = body


def merge_headers(kind: Kind, records: list[Record]) -> dict[str, str]:
    """The record headers one request for all these records may carry.

    Source: the reference sends the headers of only one of the requests it merged
    (reference-agent 11, 27); a header that is not true of the whole batch is left out here.
    """
    # Records that follow each other mostly share one mapping, so each is looked at once.
    mappings = {id(record.headers): record.headers for record in records}
    times = Counter(id(record.headers) for record in records)
    if not mappings:
        return {}
    merged = {
        name: value
        for name, value in records[0].headers.items()
        if name not in kind.summed_headers
        and all(headers.get(name) == value for headers in mappings.values())
    }
    for name in sorted(kind.summed_headers):
        total = sum(
            int(headers.get(name, "0")) * times[mapping] for mapping, headers in mappings.items()
        )
        if total:
            merged[name] = str(total)
    return merged
