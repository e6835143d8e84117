"""One batch file, or the same bytes in memory; the layout is described in journal.py."""

from __future__ import annotations

import errno
import logging
import os
import struct
import zlib

from mini_agent.forward import packed
from mini_agent.forward.payload import Kind, Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from mini_agent.forward.packed import Packer

log = logging.getLogger(__name__)

MAGIC = b"MAJRNL01"
_MARK = b"\xc9JR\xd6"
_HEAD = struct.Struct("<4sIIII")
_NUMBERS = struct.Struct("<III")

# Bodies from here on are handed to the system beside their head instead of behind a copy of it.
_JOINED_BYTES_MAX = 16 * 1024


class Batch:
    """Records of one kind that travel in one request.

    Attributes:
        count: Units inside.
        body_bytes: Length of the finished body, the kind's frame included.
        kept_bytes: What it takes on disk, or in memory.
        path: Its file, or None while it is in memory.
        tries: Failed deliveries so far.
        alone: The intake found it too large together with others.
        packed: Its records are compressed as they come, see packed.py.
    """

    __slots__ = (
        "_chunks",
        "_fd",
        "_header_text",
        "_headers",
        "_packed_text",
        "_packer",
        "alone",
        "body_bytes",
        "count",
        "kept_bytes",
        "kind",
        "name",
        "opened_s",
        "packed",
        "path",
        "taken",
        "tries",
    )

    def __init__(
        self, kind: Kind, name: str, opened_s: float, packer: Packer | None = None
    ) -> None:
        self.kind = kind
        self.name = name
        self.opened_s = opened_s
        self.path: str | None = None
        self.count = 0
        self.body_bytes = kind.frame_bytes
        self.kept_bytes = 0
        self.tries = 0
        self.taken = False
        self.alone = False
        self.packed = packer is not None
        self._packer = packer
        self._fd = -1
        self._chunks: list[bytes] = []
        # The headers of the last record and how they are written: the next has the same.
        self._headers: Mapping[str, str] = {}
        self._header_text = b""
        self._packed_text: bytes | None = None
        if packer is not None:
            packer.begin(kind.prefix)

    def read(self) -> list[Record]:
        """The sound records, in order.

        Raises:
            OSError: The file is gone or unreadable.
        """
        return list(read_records(self._content()))

    def read_pieces(self) -> list[Record]:
        """The sound records of a packed batch; their bodies are pieces of its one frame.

        Raises:
            OSError: The file is gone or unreadable.
        """
        texts = _HeaderTexts()
        return [
            Record(count, texts.read(text), piece)
            for text, piece, _, count in packed.read_pieces(self._content())
        ]

    def adopt(self, path: str) -> bool:
        """Become what a file holds that another process left; false when that is nothing.

        Raises:
            OSError: The file is gone or unreadable.
        """
        self.path = path
        content = self._content()
        self.kept_bytes = len(content)
        self.packed = content.startswith(packed.MAGIC)
        if self.packed:
            for _, _, body_bytes, count in packed.read_pieces(content):
                self.body_bytes += body_bytes
                self.count += count
        else:
            for record in read_records(content):
                self.body_bytes += len(record.body)
                self.count += record.count
        return bool(self.count)

    def _content(self) -> bytes:
        if self.path is None:
            return b"".join(self._chunks)
        with open(self.path, "rb", buffering=0) as file:
            return file.readall()

    def create(self, path: str) -> None:
        """Begin as a file. OSError when the folder refuses."""
        # Readable too, so that `rescue` can read a file whose name is gone.
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
        self._fd = os.open(path, flags, 0o600)
        try:
            self._write_all([self._magic])
        except OSError:
            self._close_file()
            remove_quietly(path)
            raise
        self.path = path

    def begin_in_memory(self) -> None:
        """Begin without a file."""
        self.kept_bytes = len(self._magic)
        self._chunks = [self._magic]

    def room_for(self, record: Record) -> int:
        """The most bytes that `add` needs for a record."""
        body_bytes = packed.piece_bytes_max(len(record.body) + self.kind.frame_bytes)
        return body_bytes + len(self._text_of(record.headers)) + _HEAD.size + 4

    def add(self, record: Record) -> None:
        """Append a record, whole or not at all.

        Raises:
            OSError: The disk refused; what the batch held before still stands. A packed batch
                takes nothing more then.
        """
        pieces = self._encode(record)
        if self.path is None:
            self._chunks += pieces
            self.kept_bytes += sum(map(len, pieces))
        else:
            self._write_all(pieces)
        self.count += record.count
        self.body_bytes += len(record.body)

    def _encode(self, record: Record) -> list[bytes]:
        text, body = self._text_of(record.headers), record.body
        if self.packed:
            assert self._packer is not None, "closed"
            piece = self._packer.pack(body)
            same = text is self._packed_text
            self._packed_text = text
            return [packed.encode_record(None if same else text, piece, len(body), record.count)]
        head = _encode_head(text, body, record.count)
        return [head, body] if len(body) > _JOINED_BYTES_MAX else [head + body]

    def _text_of(self, headers: Mapping[str, str]) -> bytes:
        # A sender's records have the same mapping, mostly.
        if headers is not self._headers and headers != self._headers:
            self._header_text = _encode_headers(headers)
            self._headers = headers
        return self._header_text

    @property
    def _magic(self) -> bytes:
        return packed.MAGIC if self.packed else MAGIC

    def is_unlinked(self) -> bool:
        """Whether somebody deleted the open file under us."""
        return self._fd >= 0 and os.fstat(self._fd).st_nlink == 0

    def rescue(self) -> None:
        """Read back through the open file what its folder lost, and keep it in memory."""
        os.lseek(self._fd, 0, os.SEEK_SET)
        pieces = []
        while piece := os.read(self._fd, 1 << 20):
            pieces.append(piece)
        self.close()
        self.path = None
        self._chunks = [b"".join(pieces)]

    def move_to(self, path: str) -> None:
        """Turn a batch in memory into a file. OSError leaves it in memory."""
        whole = b"".join(self._chunks)
        kept_bytes = self.kept_bytes
        self.kept_bytes = 0
        try:
            self.create(path)
            self._write_all([whole[len(self._magic) :]])
        except OSError:
            self.delete_file()
            self.kept_bytes = kept_bytes
            raise
        self.close()
        self._chunks = []

    def close(self) -> Packer | None:
        """Release the file, and take nothing more; may be repeated.

        Returns:
            What has compressed its records and is free now.
        """
        self._close_file()
        packer, self._packer = self._packer, None
        return packer

    def _close_file(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def delete_file(self) -> None:
        """Remove the file, if there is one."""
        self.close()
        if self.path is not None:
            remove_quietly(self.path)
            self.path = None

    def _write_all(self, pieces: list[bytes]) -> None:
        length = sum(map(len, pieces))
        try:
            if _write(self._fd, pieces) < length:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError:
            # A torn tail would be skipped by readers; cutting it off keeps the file tidy.
            try:
                os.ftruncate(self._fd, self.kept_bytes)
                os.lseek(self._fd, self.kept_bytes, os.SEEK_SET)
            except OSError:
                log.debug("could not cut off a torn record")
            raise
        self.kept_bytes += length


def _write(fd: int, pieces: list[bytes]) -> int:
    """Write pieces one after the other with one call; how many bytes were taken."""
    if len(pieces) == 1:
        return os.write(fd, pieces[0])
    # Windows has no writev.
    return os.writev(fd, pieces) if hasattr(os, "writev") else os.write(fd, b"".join(pieces))


def encode_record(record: Record) -> bytes:
    """A record as it stands in a batch file that is not packed."""
    return _encode_head(_encode_headers(record.headers), record.body, record.count) + record.body


def _encode_head(text: bytes, body: bytes, count: int) -> bytes:
    numbers = _NUMBERS.pack(len(text), len(body), count)
    crc = zlib.crc32(body, zlib.crc32(numbers + text))
    return b"".join((_MARK, numbers, crc.to_bytes(4, "little"), text))


def _encode_headers(headers: Mapping[str, str]) -> bytes:
    return "".join(
        f"{name}:{value}\n" for name, value in headers.items() if "\n" not in value
    ).encode()


class _HeaderTexts:
    """Reads header lines; those that were the same before give the same mapping."""

    def __init__(self) -> None:
        self._text = b""
        self._headers: Mapping[str, str] = {}

    def read(self, text: bytes) -> Mapping[str, str]:
        if text != self._text:
            # Not splitlines: a value may hold what that takes for the end of a line.
            lines = [line for line in text.decode(errors="replace").split("\n") if ":" in line]
            self._headers = dict(line.split(":", 1) for line in lines)
            self._text = text
        return self._headers


def read_records(content: bytes) -> Iterator[Record]:
    """The sound records of a batch file's content, packed or not; damage is passed over."""
    texts = _HeaderTexts()
    if content.startswith(packed.MAGIC):
        for text, body, count in packed.unpack(packed.read_pieces(content)):
            yield Record(count, texts.read(text), body)
        return
    at = content.find(_MARK)
    while at >= 0:
        record, following = _read_record(content, at, texts)
        if record is not None:
            yield record
            at = following
            if content[at : at + 4] == _MARK:
                continue
        at = content.find(_MARK, at if record is not None else at + 1)


def _read_record(content: bytes, at: int, texts: _HeaderTexts) -> tuple[Record | None, int]:
    if at + _HEAD.size > len(content):
        return None, at
    _, header_bytes, body_bytes, count, crc = _HEAD.unpack_from(content, at)
    headers_at = at + _HEAD.size
    body_at = headers_at + header_bytes
    end = body_at + body_bytes
    if end > len(content):
        return None, at
    headers, body = content[headers_at:body_at], content[body_at:end]
    numbers = content[at + len(_MARK) : at + len(_MARK) + _NUMBERS.size]
    if zlib.crc32(body, zlib.crc32(headers, zlib.crc32(numbers))) != crc:
        return None, at
    return Record(count, texts.read(headers), body), end


def read_folder(base: str) -> Iterator[tuple[str, list[Record]]]:
    """Every batch below a journal folder, of whichever process: (kind name, sound records).

    For looking at what waits from outside; it neither locks nor changes anything.
    """
    for parent, _, names in os.walk(base):
        for name in sorted(names):
            stem, _, kind_name = name.rpartition(".")
            if stem[:1].isdigit() and kind_name not in ("", "lock"):
                try:
                    with open(os.path.join(parent, name), "rb") as file:
                        content = file.read()
                except FileNotFoundError:
                    continue
                if content.startswith((MAGIC, packed.MAGIC)):
                    yield kind_name, list(read_records(content))


def remove_quietly(path: str) -> None:
    """Delete a file that is no longer needed; one that resists is said and left."""
    try:
        os.unlink(path)
    except FileNotFoundError:
        log.debug("a batch file was gone already")
    except OSError as error:
        log.warning("a delivered batch file cannot be deleted: %s", error.strerror)
