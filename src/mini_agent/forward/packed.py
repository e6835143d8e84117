"""A batch file whose records are compressed as they come: nearly the request it will be.

What is compressed on its way in is written, checked and read back as a twentieth of its bytes,
and the sender thread has nothing left to do but to send it. A record costs a flush of the
compressor, about a microsecond and, for one span at a time, a third more bytes on the wire.

Layout, beside the one described in journal.py; numbers are little-endian
    8 bytes   "MAJRNL02"
    records   4 bytes   mark C9 4A 52 D6
              4 bytes   CRC-32 of all that follows
              4 bytes   length of the headers, or FF FF FF FF: those of the record before
              4 bytes   length of the piece
              4 bytes   length of the body, which the piece becomes when it is unpacked
              4 bytes   count of units
              headers   "name:value" lines, UTF-8, each ended by a line feed
              piece     how the batch's one zstd frame goes on with this body

The pieces, one after the other, and an empty last block *are* the compressed body of the request,
the kind's prefix included, which stands in the first piece. It is one frame, because a reader of
several may stop after the first.

A piece refers to what stands before it, so reading ends at the first record that is not sound.
The file is only ever appended to: a death of this process tears nothing but the tail, for which
nobody was told yes. Damage in the middle, which takes a broken disk, loses the rest of one batch.
"""

from __future__ import annotations

import struct
import zlib

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Any

    from mini_agent.forward.payload import Kind

MAGIC = b"MAJRNL02"
# An empty last block, which ends a frame without a checksum. Source: RFC 8878, 3.1.1.2.
_END = b"\x01\x00\x00"

_MARK = b"\xc9JR\xd6"
_NUMBERS = struct.Struct("<IIII")
_HEAD = struct.Struct("<4sIIIII")
# Where the bytes begin that the checksum covers.
_COVERED_AT = len(_MARK) + 4
_SAME_HEADERS = 0xFFFFFFFF

# How far back repetitions are looked for: 256 KiB hold several hundred spans. The 512 KiB that
# level 1 would take save 0.03 % of the bytes, and cost a tenth more time and twice the memory.
_WINDOW_LOG = 18

# Of any kind's prefix; what unpacks to more than is announced is not read.
_PREFIX_BYTES_MAX = 64 * 1024


# Set once it is imported: that takes milliseconds that the start does not have.
_zstd: Any = None


def load_zstd() -> Any:
    """The module that compresses, imported when it is first asked for."""
    global _zstd
    if _zstd is None:
        try:
            from compression import zstd  # type: ignore[import-not-found,unused-ignore]
        except ImportError:
            from backports import zstd
        _zstd = zstd
    return _zstd


class Packer:
    """Compresses the bodies of one batch after the other.

    Args:
        level: Of zstd.
    """

    __slots__ = ("_prefix", "_stream")

    def __init__(self, level: int) -> None:
        zstd = load_zstd()
        parameter = zstd.CompressionParameter
        options = {parameter.compression_level: level, parameter.window_log: _WINDOW_LOG}
        self._stream = zstd.ZstdCompressor(options=options)
        self._prefix = b""

    def begin(self, prefix: bytes) -> None:
        """Begin another batch; the last one needs nothing more from here."""
        stream = self._stream
        if stream.last_mode != stream.FLUSH_FRAME:
            stream.flush(stream.FLUSH_FRAME)
        self._prefix = prefix

    def pack(self, body: bytes) -> bytes:
        """The piece for the next record."""
        stream = self._stream
        if self._prefix:
            body, self._prefix = self._prefix + body, b""
        piece: bytes = stream.compress(body, stream.FLUSH_BLOCK)
        return piece


def suits(kind: Kind) -> bool:
    """Whether a body of this kind can be compressed before all its records are known.

    Not before the first delivery has loaded what compresses: the first request does not wait
    for that.
    """
    if _zstd is None:
        return False
    return kind.compression == "zstd" and not kind.counted and not kind.suffix


def piece_bytes_max(body_bytes: int) -> int:
    """What the piece for a body takes at most, however little it can be compressed."""
    # A block of 128 KiB that cannot be is kept as it is, with 3 bytes.
    return body_bytes + (body_bytes >> 8) + 64


def encode_record(headers: bytes | None, piece: bytes, body_bytes: int, count: int) -> bytes:
    """A record as it stands in the file.

    Args:
        headers: None for those of the record before.
    """
    if headers is None:
        covered = _NUMBERS.pack(_SAME_HEADERS, len(piece), body_bytes, count)
    else:
        covered = _NUMBERS.pack(len(headers), len(piece), body_bytes, count) + headers
    crc = zlib.crc32(piece, zlib.crc32(covered))
    return b"".join((_MARK, crc.to_bytes(4, "little"), covered, piece))


def read_pieces(content: bytes) -> Iterator[tuple[bytes, bytes, int, int]]:
    """Headers, piece, length of the body and count of the sound records."""
    at, end = len(MAGIC), len(content)
    view = memoryview(content)
    headers = b""
    while at + _HEAD.size <= end:
        mark, crc, header_bytes, piece_bytes, body_bytes, count = _HEAD.unpack_from(content, at)
        headers_at = at + _HEAD.size
        piece_at = headers_at if header_bytes == _SAME_HEADERS else headers_at + header_bytes
        following = piece_at + piece_bytes
        if mark != _MARK or following > end:
            return
        if zlib.crc32(view[at + _COVERED_AT : following]) != crc:
            return
        if header_bytes != _SAME_HEADERS:
            headers = content[headers_at:piece_at]
        yield headers, content[piece_at:following], body_bytes, count
        at = following


def join(pieces: Iterable[bytes]) -> bytes:
    """The compressed body of one request."""
    return b"".join((*pieces, _END))


def unpack(
    pieces: Iterator[tuple[bytes, bytes, int, int]],
) -> Iterator[tuple[bytes, bytes, int]]:
    """Headers, body and count of records, from what `read_pieces` gives."""
    zstd = load_zstd()
    decompressor = zstd.ZstdDecompressor()
    for headers, piece, body_bytes, count in pieces:
        try:
            # The first has the prefix in front.
            plain = decompressor.decompress(piece, body_bytes + _PREFIX_BYTES_MAX)
        except zstd.ZstdError:
            return
        body = plain[len(plain) - body_bytes :]
        if len(body) != body_bytes:
            return
        yield headers, body, count
