"""One batch file, or the same bytes in memory; the layout is described in journal.py."""

from __future__ import annotations

import errno
import logging
import os
import struct
import zlib

from mini_agent.forward.payload import Kind, Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

log = logging.getLogger(__name__)

MAGIC = b"MAJRNL01"
_MARK = b"\xc9JR\xd6"
_HEAD = struct.Struct("<4sIIII")
_NUMBERS = struct.Struct("<III")


class Batch:
    """Records of one kind that travel in one request.

    Attributes:
        count: Units inside.
        body_bytes: Length of the finished body, the kind's frame included.
        kept_bytes: What it takes on disk, or in memory.
        path: Its file, or None while it is in memory.
        tries: Failed deliveries so far.
        alone: The intake found it too large together with others.
    """

    __slots__ = (
        "_chunks",
        "_fd",
        "alone",
        "body_bytes",
        "count",
        "kept_bytes",
        "kind",
        "name",
        "opened_s",
        "path",
        "taken",
        "tries",
    )

    def __init__(self, kind: Kind, name: str, opened_s: float) -> None:
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
        self._fd = -1
        self._chunks: list[bytes] = []

    def read(self) -> list[Record]:
        """The sound records, in order.

        Raises:
            OSError: The file is gone or unreadable.
        """
        if self.path is None:
            return list(read_records(b"".join(self._chunks)))
        with open(self.path, "rb") as file:
            return list(read_records(file.read()))

    def create(self, path: str) -> None:
        """Begin as a file. OSError when the folder refuses."""
        # Readable too, so that `rescue` can read a file whose name is gone.
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
        self._fd = os.open(path, flags, 0o600)
        try:
            self._write_all(MAGIC)
        except OSError:
            self.close()
            remove_quietly(path)
            raise
        self.path = path

    def begin_in_memory(self) -> None:
        """Begin without a file."""
        self.kept_bytes = len(MAGIC)
        self._chunks = [MAGIC]

    def add(self, encoded: bytes, count: int, body_bytes: int) -> None:
        """Append encoded records, whole or not at all.

        Raises:
            OSError: The disk refused; what the batch held before still stands.
        """
        if self.path is None:
            self._chunks.append(encoded)
            self.kept_bytes += len(encoded)
        else:
            self._write_all(encoded)
        self.count += count
        self.body_bytes += body_bytes

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
            self._write_all(whole[len(MAGIC) :])
        except OSError:
            self.delete_file()
            self.kept_bytes = kept_bytes
            raise
        self.close()
        self._chunks = []

    def close(self) -> None:
        """Release the file; may be repeated."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def delete_file(self) -> None:
        """Remove the file, if there is one."""
        self.close()
        if self.path is not None:
            remove_quietly(self.path)
            self.path = None

    def _write_all(self, encoded: bytes) -> None:
        try:
            written = os.write(self._fd, encoded)
            if written < len(encoded):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError:
            # A torn tail would be skipped by readers; cutting it off keeps the file tidy.
            try:
                os.ftruncate(self._fd, self.kept_bytes)
                os.lseek(self._fd, self.kept_bytes, os.SEEK_SET)
            except OSError:
                log.debug("could not cut off a torn record")
            raise
        self.kept_bytes += len(encoded)


def encode_record(record: Record) -> bytes:
    """A record as it stands in a batch file."""
    headers = "".join(
        f"{name}:{value}\n" for name, value in record.headers.items() if "\n" not in value
    ).encode()
    numbers = _NUMBERS.pack(len(headers), len(record.body), record.count)
    crc = zlib.crc32(record.body, zlib.crc32(headers, zlib.crc32(numbers)))
    return b"".join((_MARK, numbers, crc.to_bytes(4, "little"), headers, record.body))


def read_records(content: bytes) -> Iterator[Record]:
    """The sound records of a batch file's content; damaged ones are passed over."""
    at = content.find(_MARK)
    while at >= 0:
        record, following = _read_record(content, at)
        if record is not None:
            yield record
            at = following
            if content[at : at + 4] == _MARK:
                continue
        at = content.find(_MARK, at if record is not None else at + 1)


def _read_record(content: bytes, at: int) -> tuple[Record | None, int]:
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
    # Not splitlines: a value may hold what that takes for the end of a line.
    lines = [line for line in headers.decode(errors="replace").split("\n") if ":" in line]
    return Record(count, dict(line.split(":", 1) for line in lines), body), end


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
                if content.startswith(MAGIC):
                    yield kind_name, list(read_records(content))


def remove_quietly(path: str) -> None:
    """Delete a file that is no longer needed; one that resists is said and left."""
    try:
        os.unlink(path)
    except FileNotFoundError:
        log.debug("a batch file was gone already")
    except OSError as error:
        log.warning("a delivered batch file cannot be deleted: %s", error.strerror)
